"""The daemon's own decisions, without children."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gslice.core.config import load_config
from gslice.core.errors import InvalidArgument, PermissionDenied, Unavailable
from gslice.core.events import EventKind
from gslice.core.types import FunctionSpec, VersionPolicy
from gslice.daemon.control_api import Servicer
from gslice.daemon.daemon import Daemon
from gslice.daemon.desired import Saved
from gslice.daemon.overrides import json_body, refuse_other_code
from gslice.daemon.repository import Repository
from gslice.daemon.store import Store
from gslice.ipc.channel import Received
from gslice.ipc.messages import Failed, Message, RepositoryCall
from gslice.protos import message
from gslice.supervise.child import Child
from gslice.supervise.process import Launch


@dataclass
class Frontend:
    """Takes the daemon's answers, as a front-end would."""

    answers: list[tuple[Message, int]] = field(default_factory=list)

    def send(self, message: Message, fds: Any = (), seq: int = 0) -> None:
        self.answers.append((message, seq))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "gslice.db") as store:
        yield store


class Headers:
    """A call of somebody who says nothing of who it is."""

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()


def make_daemon(tmp_path: Path, store: Store) -> Daemon:
    """A daemon that is not run; on a running event loop."""
    config = load_config(None, environ={"GSLICE_NODE__STATE_DIR": str(tmp_path / "state")})
    return Daemon(config, store)


@pytest.mark.parametrize("text", ["{", "{a: 1}", "[" * 100_000])
def test_a_config_override_must_be_json(text: str) -> None:
    with pytest.raises(InvalidArgument, match="the config override is"):
        json_body(text)


@pytest.mark.parametrize(
    "other",
    [
        {"engine": "python", "python": "os:system", "model": ""},
        {"model": "/elsewhere.onnx"},
        {"environment": {"LD_PRELOAD": "/tmp/x.so"}},
        {"args": {"path": "/etc"}},
        {"versions": VersionPolicy(1, "1")},
        {"warmup": "/etc/passwd"},
    ],
)
def test_clients_tune_a_function_but_choose_no_code(other: dict[str, Any]) -> None:
    declared = FunctionSpec("f", model="/models/f.onnx")
    refuse_other_code(dataclasses.replace(declared, batch_max=4, threads=1), declared)
    with pytest.raises(PermissionDenied, match="clients may not change its"):
        refuse_other_code(dataclasses.replace(declared, **other), declared)


def test_a_body_is_read_as_node_yaml_would_be(tmp_path: Path, store: Store) -> None:
    path = tmp_path / "node.yaml"
    core = min(os.sched_getaffinity(0))
    path.write_text(
        f"version: 1\nnode: {{state_dir: ./state}}\ndevices: {{'cpu:{core}': {{}}}}\n"
        "defaults: {slo: {p99: 50ms}, batch: {max: 16}}\n"
    )

    async def scenario() -> FunctionSpec:
        daemon = Daemon(load_config(path, environ={}), store)
        body = f"{{model: m.onnx, device: 'cpu:{core}', batch: {{max: auto}}}}"
        return daemon.desired.read("f", body, "/models")

    assert asyncio.run(scenario()) == FunctionSpec(
        "f", model="/models/m.onnx", device=f"cpu:{core}", slo_p99_us=50_000, batch_max=0
    )


def test_a_client_is_answered_whatever_comes_between(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def waits(*_: object) -> None:
        await asyncio.get_running_loop().create_future()

    async def breaks(*_: object) -> None:
        raise ZeroDivisionError

    async def scenario() -> None:
        daemon, frontend = make_daemon(tmp_path, store), Frontend()
        order: Any = Received(RepositoryCall("unload", "a"), seq=7)
        for unload, cancelled in ((waits, True), (breaks, False)):
            monkeypatch.setattr(daemon, "unload", unload)
            Repository(daemon).called(frontend, order)  # type: ignore[arg-type]
            (task,) = daemon._tasks
            await asyncio.sleep(0)
            if cancelled:
                task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        (stopping, seq), (broken, _) = frontend.answers
        assert isinstance(stopping, Failed)
        assert isinstance(broken, Failed)
        assert (stopping.code, stopping.message, seq) == (
            Unavailable.code,
            "the daemon is stopping",
            7,
        )
        assert "its log says more" in broken.message

    asyncio.run(scenario())


def test_what_cannot_be_recorded_stops_nothing(
    tmp_path: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        make_daemon(tmp_path, store).node.event("a", EventKind.CRASH, "worker 7 died")

    other = sqlite3.connect(tmp_path / "gslice.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with caplog.at_level(logging.INFO, "gslice"):
        asyncio.run(scenario())
    other.close()
    told, complaint = caplog.messages
    assert told == "a: worker 7 died"
    assert "not recorded" in complaint
    assert store.events(0, 10) == []


def test_dropping_the_overlay_goes_on_when_the_caller_leaves(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        daemon, go_on = make_daemon(tmp_path, store), asyncio.Event()

        dropped = Saved(None, [])

        async def discard() -> Saved:
            await go_on.wait()
            return dropped

        monkeypatch.setattr(daemon, "discard", discard)
        request = message("gslice.v1.SaveRequest")(discard_overlay=True)
        call = asyncio.create_task(Servicer(daemon, tmp_path).Save(request, Headers()))
        await asyncio.sleep(0)
        (dropping,) = daemon._tasks
        call.cancel()
        await asyncio.wait([call])
        go_on.set()
        assert await dropping is dropped

    asyncio.run(scenario())


def test_an_order_that_breaks_is_answered(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        daemon = make_daemon(tmp_path, store)

        async def load(spec: FunctionSpec, stage: object) -> None:
            raise OSError("no space left")

        monkeypatch.setattr(daemon, "load", load)
        body = "{command: [sleep, 1000], share: 10%}"
        request = message("gslice.v1.LoadRequest")(name="f", function_yaml=body)
        (stage,) = [stage async for stage in Servicer(daemon, tmp_path).Load(request, Headers())]
        assert (stage.name, stage.detail) == ("failed", "OSError: no space left")

    asyncio.run(scenario())


def test_a_stop_in_the_middle_of_adoption_ends_what_was_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GRPC", "HTTP", "METRICS"):
        monkeypatch.setenv(f"GSLICE_NODE__{name}", "127.0.0.1:0")
    monkeypatch.setenv("GSLICE_NODE__STATE_DIR", str(tmp_path / "state"))
    fakes = {"PYTHONPATH": str(Path(__file__).parents[1] / "fakes")}

    async def scenario(store: Store) -> None:
        daemon = Daemon(load_config(None), store)
        run_dir = daemon.node.run_dir
        launch = Launch("child", ("good",), tmp_path / "child.log", fakes)
        child = await Child.start(run_dir, "w-1", launch, lambda child, received: None)
        child.detach()
        with run_dir.listen("w-2") as stuck:  # adoption waits for it
            stuck.setblocking(False)
            running = asyncio.create_task(daemon.run(lambda daemon: None))
            connection, _ = await asyncio.get_running_loop().sock_accept(stuck)
            with connection:
                daemon.stop()
                await running
        assert await child.process.wait(10)
        assert list((tmp_path / "state" / "run").iterdir()) == []

    with Store(tmp_path / "gslice.db") as store:
        asyncio.run(scenario(store))


def test_a_second_order_to_stop_does_not_wait_for_what_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GRPC", "HTTP", "METRICS"):
        monkeypatch.setenv(f"GSLICE_NODE__{name}", "127.0.0.1:0")
    monkeypatch.setenv("GSLICE_NODE__STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("GSLICE_NODE__FRONTENDS", "1")

    async def scenario(store: Store) -> None:
        daemon, ready = Daemon(load_config(None), store), asyncio.Event()
        running = asyncio.create_task(daemon.run(lambda daemon: ready.set()))
        await ready.wait()
        stopping = asyncio.Event()

        async def ends_slowly() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                stopping.set()
                await asyncio.Event().wait()

        daemon.background(ends_slowly())
        await asyncio.sleep(0)
        daemon.stop()
        await stopping.wait()
        daemon.stop()
        await running

    with Store(tmp_path / "gslice.db") as store:
        asyncio.run(asyncio.wait_for(scenario(store), 30))
