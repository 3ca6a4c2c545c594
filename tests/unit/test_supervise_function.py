"""Functions and their supervisor, without children."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gslice._native import Segment
from gslice.core.errors import (
    InvalidArgument,
    LoadFailed,
    ResourceExhausted,
    Unavailable,
    from_code,
)
from gslice.core.types import FunctionSpec, MemoryTaken, ShareBounds
from gslice.ipc.messages import RemoveFunction
from gslice.supervise.adoption import _segments_of
from gslice.supervise.deployment import Deployment
from gslice.supervise.logs import TEXT_MAX_CHARS
from gslice.supervise.tasks import Tasks
from tests.unit.function_bench import (
    SPEC,
    Broken,
    OutOfReach,
    Running,
    add,
    make_supervisor,
    serves,
    unheard,
)


def test_a_restart_goes_on_through_a_load_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        function = add(make_supervisor(tmp_path, []), SPEC)
        running = serves(function, Running())
        monkeypatch.setattr(function, "_make", lambda spec: Broken())
        function.restarts.worker_lost(running, "cpu", "killed by SIGKILL")
        (restart,) = function.restarts.tasks
        with pytest.raises(LoadFailed):
            await function.load(SPEC, unheard)
        running.may_start.set()
        await restart
        assert (function.state, function.restarts.count) == ("READY", 1)

    asyncio.run(scenario())


@pytest.mark.parametrize("warm", [False, True])
def test_what_cannot_take_over_ends_and_the_old_one_serves_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warm: bool
) -> None:
    async def scenario() -> None:
        function = add(make_supervisor(tmp_path, []), SPEC)
        running = serves(function, Running(ready=0))
        wanted = dataclasses.replace(SPEC, version="2")
        new = OutOfReach(wanted)
        function.kept.warm.append(new)  # type: ignore[arg-type]
        monkeypatch.setattr(function, "_make", lambda spec: new)
        function.restarts.worker_lost(running, "cpu", "killed by SIGKILL")
        with pytest.raises(Unavailable, match="hangs"):
            await function.load(wanted, unheard, warm=warm)
        assert (function.lasting, new.workers) == ([running], [])
        running.may_start.set()
        await asyncio.gather(*function.restarts.tasks)
        assert (function.state, running.ready) == ("READY", 1)

    asyncio.run(scenario())


def test_a_function_that_was_given_up_does_not_come_back_by_itself(tmp_path: Path) -> None:
    async def scenario() -> None:
        function = add(make_supervisor(tmp_path, []), dataclasses.replace(SPEC, instances=2))
        running = serves(function, Running(function.spec, ready=0))
        function.restarts.worker_lost(running, "cpu", "died")  # another is on its way
        await asyncio.sleep(0)
        await function.restarts.give_up(running, running.spec.device, "died")
        running.may_start.set()
        await function.restarts.cancel()
        assert list(function.restarts.tasks) == []
        assert (function.state, function.accepting, running.workers) == ("FAILED", False, [])
        assert "workers keep dying" in running.answered[0]

    asyncio.run(scenario())


def test_a_device_that_kills_everything_gives_up_nothing_elsewhere(tmp_path: Path) -> None:
    class OnTwo(Running):
        async def replace(self, device: str) -> None:
            if device == "bad":
                raise LoadFailed("no such model")
            await super().replace(device)

    async def scenario() -> None:
        spec = dataclasses.replace(SPEC, device="bad", also_on=("good",))
        function = add(make_supervisor(tmp_path, []), spec)
        running = serves(function, OnTwo(spec, ready=0))
        for _ in range(5):
            function.restarts.worker_lost(running, "bad", "died")
        function.restarts.worker_lost(running, "good", "died")
        function.restarts.worker_lost(running, "neither", "died")  # it leaves, or is to come
        for _ in range(20):
            await asyncio.sleep(0)
        assert (function.state, function.accepting) == ("LOADING", True)
        running.may_start.set()
        await asyncio.gather(*function.restarts.tasks)
        assert (function.state, running.ready) == ("READY", 1)
        assert function.admitted

    asyncio.run(scenario())


def test_deaths_of_all_instances_at_once_are_no_crash_loop(tmp_path: Path) -> None:
    async def scenario() -> None:
        function = add(make_supervisor(tmp_path, []), dataclasses.replace(SPEC, instances=5))
        running = serves(function, Running(function.spec, ready=0))
        running.may_start.set()
        for _ in range(5):
            function.restarts.worker_lost(running, "cpu", "killed by SIGKILL")
        await asyncio.gather(*function.restarts.tasks)
        assert (function.state, function.restarts.count, running.ready) == ("READY", 5, 5)

    asyncio.run(scenario())


def test_an_instance_that_died_while_others_warmed_up_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        function = add(make_supervisor(tmp_path, []), dataclasses.replace(SPEC, instances=2))
        new = Running(function.spec, ready=1)
        new.may_start.set()
        monkeypatch.setattr(function, "_make", lambda spec: new)
        await function.load(function.spec, unheard)
        assert function.state == "READY"
        await asyncio.gather(*function.restarts.tasks)
        assert (new.ready, function.restarts.count) == (2, 1)

    asyncio.run(scenario())


def test_a_restart_outlives_a_shortage(tmp_path: Path) -> None:
    class Short(Running):
        tries = 0

        async def replace(self, device: str) -> None:
            self.tries += 1
            if self.tries == 1:
                raise OSError(errno.EMFILE, "Too many open files")
            self.workers.append("another")

    async def scenario() -> None:
        events: list[str] = []
        function = add(make_supervisor(tmp_path, events), SPEC)
        function.restarts.worker_lost(serves(function, Short(ready=0)), "cpu", "died")
        await asyncio.gather(*function.restarts.tasks)
        assert (function.state, function.restarts.count) == ("READY", 1)
        assert events == [
            "not restarted: could not be started: [Errno 24] Too many open files",
            "another worker serves",
        ]

    asyncio.run(scenario())


def test_a_task_that_breaks_is_recorded(caplog: pytest.LogCaptureFixture) -> None:
    async def breaks() -> None:
        raise ZeroDivisionError("by zero")

    async def scenario() -> None:
        events: list[tuple[str, str, str]] = []
        tasks = Tasks("a", lambda *event: events.append(event))
        await asyncio.wait([tasks.start(breaks())])
        assert events == [("a", "failed", "a task ended with ZeroDivisionError: by zero")]
        assert list(tasks) == []

    asyncio.run(scenario())
    assert "Traceback" in caplog.text


def test_what_waits_is_answered_even_if_a_load_interrupts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        supervisor = make_supervisor(tmp_path, [])
        function = add(supervisor, SPEC)
        running, told = serves(function, Running(ready=0)), asyncio.Event()

        async def slow(listing: object) -> None:
            told.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(supervisor.frontends, "show", slow)
        failing = asyncio.create_task(function.fail("workers keep dying"))
        await told.wait()
        failing.cancel()
        await asyncio.wait([failing])
        assert running.answered == ["workers keep dying"]

    asyncio.run(scenario())


def test_a_crash_loop_does_not_take_the_share_of_a_load_that_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        supervisor = make_supervisor(tmp_path, [])
        function = add(supervisor, SPEC)
        running, loaded_with = serves(function, Running(ready=0)), []

        async def dies_meanwhile() -> None:
            await function.restarts.give_up(running, running.spec.device, "died")

        async def load(spec: FunctionSpec, stage: object, *, warm: bool) -> None:
            loaded_with.append((function.admitted, function.state))
            assert not warm

        monkeypatch.setattr(supervisor.sharing, "share_out", dies_meanwhile)
        monkeypatch.setattr(function, "load", load)
        # Only the share differs, but nobody is left who could take it in place.
        await supervisor.load(dataclasses.replace(SPEC, share=ShareBounds(50, 50)), unheard)
        assert loaded_with == [(True, "LOADING")]

    asyncio.run(scenario())


def test_a_deployment_that_retires_is_known_until_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        function = add(make_supervisor(tmp_path, []), SPEC)
        old, new = serves(function, Running()), Running()
        monkeypatch.setattr(function, "_make", lambda spec: new)
        draining = asyncio.Event()
        load = asyncio.create_task(
            function.load(SPEC, lambda stage, detail: stage == "drain" and draining.set())
        )
        await draining.wait()
        assert function.deployments == [new, old]
        await function.grant(30)
        assert (old.shares, new.shares) == ([], [30])
        old.may_start.set()
        await load
        assert function.deployments == [new]

    asyncio.run(scenario())


def test_a_reason_of_any_length_fits_into_a_message(tmp_path: Path) -> None:
    async def scenario() -> None:
        function = add(make_supervisor(tmp_path, []), SPEC)
        await function.fail("function a: " + "x" * 1_000_000)
        assert function.reason == "x" * (TEXT_MAX_CHARS - 4) + " ..."

    asyncio.run(scenario())


def test_settings_that_fit_into_no_message_are_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        supervisor = make_supervisor(tmp_path, [])
        spec = FunctionSpec("a", model="/a.onnx", args={"text": "\u00e9" * 30_000})
        with pytest.raises(InvalidArgument, match=r"function a: its settings take 18\d+ bytes"):
            await supervisor.load(spec, unheard)
        assert supervisor.functions == {}

    asyncio.run(scenario())


def test_shares_that_do_not_fit_any_more_stay_as_they_are(tmp_path: Path) -> None:
    async def scenario() -> None:
        events: list[str] = []
        supervisor = make_supervisor(tmp_path, events)
        for name in ("a", "b"):
            spec = FunctionSpec(name, model="/a.onnx", share=ShareBounds(80, 80))
            add(supervisor, spec).share_granted_percent = 50
        await supervisor.sharing.share_out()
        assert [f.share_granted_percent for f in supervisor.functions.values()] == [50, 50]
        assert "shares stay as they are: device cpu: a 80% + b 80% = 160%" in events[0]

    asyncio.run(scenario())


def test_what_is_loaded_anew_counts_beside_what_serves(tmp_path: Path) -> None:
    limit = 100 << 20
    worker = SimpleNamespace(
        memory=MemoryTaken(process_bytes=20 << 20, model_bytes=40 << 20),
        weights=None,
        device="cpu",
    )

    async def scenario() -> None:
        supervisor = make_supervisor(tmp_path, [])
        device = dataclasses.replace(supervisor.node.device("cpu"), memory_limit_bytes=limit)
        supervisor.node.devices["cpu"] = device
        function = add(supervisor, SPEC)
        old, new = serves(function, Running()), Running()
        old.workers, new.workers = [worker], [worker]
        supervisor._budget.check_memory("cpu")
        function._next = new
        with pytest.raises(ResourceExhausted, match=r"a 120\.0 MiB = 120\.0 MiB, more than"):
            supervisor._budget.check_memory("cpu")

    asyncio.run(scenario())


def test_a_drain_does_not_wait_longer_for_another_worker_than_it_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        events: list[str] = []
        node, frontends = make_supervisor(tmp_path, events).node, None
        deployment = Deployment(node, SPEC, 50, frontends, lambda *_: None)
        deployment.instances.segment = Segment.create("a", [(4096, 1)], 4096, 1)
        monkeypatch.setattr(Deployment, "idle", False)
        monkeypatch.setattr(deployment, "replace", lambda device: asyncio.Event().wait())
        assert not await asyncio.wait_for(deployment.drain(0.01), 10)
        assert events == ["nobody can answer what still waits: another worker takes too long"]

    asyncio.run(scenario())


def test_a_function_that_goes_while_shares_are_given_out_disturbs_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        supervisor = make_supervisor(tmp_path, [])
        for name in ("a", "b"):
            add(supervisor, FunctionSpec(name, model="/a.onnx", share=ShareBounds(30, 30)))
        first, second = supervisor.functions.values()

        async def goes(share_percent: float) -> None:
            del supervisor.functions["b"]

        monkeypatch.setattr(first, "grant", goes)
        await supervisor.sharing.share_out()
        assert second.share_granted_percent == 0

    asyncio.run(scenario())


@pytest.mark.parametrize("code", [3, 4, 13])
def test_a_frontend_that_refuses_an_order_is_started_anew(code: int, tmp_path: Path) -> None:
    class Child:
        name = "f-0"
        aborted = False

        async def request(self, *_: object, **__: object) -> None:
            raise from_code(code, "the reason")

        def abort(self) -> None:
            self.aborted = True

    async def scenario() -> None:
        events: list[str] = []
        child: Any = Child()
        frontends = make_supervisor(tmp_path, events).frontends
        await frontends.obey(child, RemoveFunction("a"))
        assert child.aborted
        assert events == ["front-end 0 is killed, for RemoveFunction: the reason"]

    asyncio.run(scenario())


def test_a_process_that_is_gone_holds_no_segments() -> None:
    assert list(_segments_of(1 << 30)) == []
