"""Functions and their supervisor, without children."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gslice.core.config import load_config
from gslice.core.errors import InvalidArgument, LoadFailed, from_code
from gslice.core.types import FunctionSpec, ShareBounds
from gslice.ipc.messages import RemoveFunction
from gslice.supervise.adoption import _segments_of
from gslice.supervise.frontends import Frontend, _obey
from gslice.supervise.function import Function
from gslice.supervise.logs import TEXT_MAX_CHARS
from gslice.supervise.node import Node
from gslice.supervise.supervisor import Supervisor

SPEC = FunctionSpec("a", model="/a.onnx", share=ShareBounds(80, 80))


class Running:
    """A deployment of two instances, of which one died."""

    spec = SPEC
    segment = signature = None
    workers = ("the other",)

    def __init__(self) -> None:
        self.may_start = asyncio.Event()

    async def replace(self) -> None:
        await self.may_start.wait()


class Broken(Running):
    """A deployment that does not start."""

    async def start(self, *_: object) -> None:
        raise LoadFailed("no such model")


def make_supervisor(tmp_path: Path, events: list[str]) -> Supervisor:
    config = load_config(None, environ={"GSLICE_NODE__STATE_DIR": str(tmp_path)})
    node = Node.open(config.node, config.devices, lambda subject, text: events.append(text))
    return Supervisor(node, lambda child, received: None)


def add(supervisor: Supervisor, spec: FunctionSpec) -> Function:
    function = supervisor.functions[spec.name] = supervisor._new_function(spec)
    function.admitted = True
    return function


def test_a_restart_goes_on_through_a_load_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        function = add(make_supervisor(tmp_path, []), SPEC)
        running: Any = Running()
        function._deployment, function.state = running, "READY"
        monkeypatch.setattr(function, "_make", lambda spec: Broken())
        function._worker_lost(running, "killed by SIGKILL")
        (restart,) = function._restarting
        with pytest.raises(LoadFailed):
            await function.load(SPEC, lambda stage, detail: None)
        running.may_start.set()
        await restart
        assert (function.state, function.restarts) == ("READY", 1)

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
            await supervisor.load(spec, lambda stage, detail: None)
        assert supervisor.functions == {}

    asyncio.run(scenario())


def test_shares_that_do_not_fit_any_more_stay_as_they_are(tmp_path: Path) -> None:
    async def scenario() -> None:
        events: list[str] = []
        supervisor = make_supervisor(tmp_path, events)
        for name in ("a", "b"):
            spec = FunctionSpec(name, model="/a.onnx", share=ShareBounds(80, 80))
            add(supervisor, spec).share_granted_percent = 50
        await supervisor.share_out()
        assert [f.share_granted_percent for f in supervisor.functions.values()] == [50, 50]
        assert "shares stay as they are: device cpu: a 80% + b 80% = 160%" in events[0]

    asyncio.run(scenario())


@pytest.mark.parametrize("code", [3, 4, 13])
def test_a_frontend_that_refuses_an_order_is_started_anew(code: int) -> None:
    class Child:
        aborted = False

        async def request(self, *_: object, **__: object) -> None:
            raise from_code(code, "no")

        def abort(self) -> None:
            self.aborted = True

    child: Any = Child()
    asyncio.run(_obey(Frontend(0, child, -1), RemoveFunction("a"), (), 1.0))
    assert child.aborted


def test_a_process_that_is_gone_holds_no_segments() -> None:
    assert list(_segments_of(1 << 30)) == []
