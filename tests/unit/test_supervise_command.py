"""Commands and their states, with programs that are made up."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from gslice.control.breaker import SECOND_US, Breaker, RestartPolicy
from gslice.core.errors import (
    FailedPrecondition,
    InvalidArgument,
    LoadFailed,
    ResourceExhausted,
    Unavailable,
)
from gslice.core.types import FunctionSpec, MemoryTaken, ProgramSpec, ShareBounds
from gslice.device.program_group import ProgramGroup
from gslice.supervise import command as module
from gslice.supervise.command import Command
from gslice.supervise.frontends import Listing
from gslice.supervise.program import Program, check, runs_as
from gslice.supervise.program_note import Note
from gslice.supervise.supervisor import Supervisor
from tests.unit.function_bench import make_supervisor, unheard

URL = "http://127.0.0.1:1/health"
ASKED = ProgramSpec(("sleep", "1000"), health_url=URL, health_period_us=1000)
SPEC = FunctionSpec("llm", engine="command", share=ShareBounds(30, 30, auto=False), program=ASKED)
JOB = dataclasses.replace(SPEC, program=ProgramSpec(("sleep", "1000")))


class FakeProgram:
    """As much of a program as its function looks at."""

    memory_is_limited = True
    inherited = False
    resident_bytes = 0

    def __init__(self, spec: FunctionSpec, share_percent: float, pid: int) -> None:
        self.pid = pid
        self.note = Note(spec, "m", ProgramGroup(), "cgroup", "auto", (0,), share_percent)
        self.death: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.cleared = False
        self.live_resize = True
        self.share_effective_percent = share_percent

    @property
    def memory_limit_bytes(self) -> int:
        assert self.note.spec.program is not None
        return self.note.spec.program.memory_bytes

    @property
    def memory(self) -> MemoryTaken:
        return MemoryTaken(process_bytes=self.memory_limit_bytes)

    def set_share(self, share_percent: float) -> None:
        self.note = dataclasses.replace(self.note, share_percent=share_percent)
        self.share_effective_percent = share_percent

    def is_now(self, spec: FunctionSpec) -> None:
        self.note = dataclasses.replace(self.note, spec=spec)

    async def clear(self) -> None:
        self.cleared = True

    async def stop(self) -> bool:
        if not self.death.done():
            self.death.set_result("killed by SIGTERM")
        await self.clear()
        return True

    kill = stop


class Bench:
    """A supervisor whose programs are made up, and whose health a test sets."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[str] = []
        self.supervisor: Supervisor = make_supervisor(directory, self.events)
        self.programs: list[FakeProgram] = []
        self.ailment = ""
        self.dies_at_once = ""
        self.refusals: list[Exception] = []
        self.share_meanwhile: float | None = None
        monkeypatch.setattr(Program, "start", self._start)
        monkeypatch.setattr(module, "ailment", self._asked)

    async def _start(self, node: object, spec: FunctionSpec, share_percent: float) -> FakeProgram:
        if self.refusals:
            raise self.refusals.pop()
        if self.share_meanwhile is not None:
            self.supervisor.function(spec.name).share_granted_percent = self.share_meanwhile
        program = FakeProgram(spec, share_percent, len(self.programs) + 1)
        if self.dies_at_once:
            program.death.set_result(self.dies_at_once)
        self.programs.append(program)
        return program

    async def _asked(self, url: str, timeout_s: float) -> str:
        return self.ailment

    async def load(self, spec: FunctionSpec = SPEC) -> Command:
        await self.supervisor.load(spec, unheard)
        function = self.supervisor.function(spec.name)
        assert isinstance(function, Command)
        return function

    async def until(self, condition: Callable[[], bool]) -> None:
        changes = self.supervisor.node.changes
        async with asyncio.timeout(10):
            while not condition():
                await changes.wait(changes.version)

    async def state(self, state: str) -> Command:
        function = self.supervisor.function("llm")
        await self.until(lambda: function.state == state)
        assert isinstance(function, Command)
        return function


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[Bench], Coroutine[Any, Any, None]]], None]:
    def go(test: Callable[[Bench], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            bench = Bench(tmp_path, monkeypatch)
            await test(bench)
            await bench.supervisor.stop(1.0)
            assert all(program.cleared for program in bench.programs)

        asyncio.run(main())

    return go


def test_it_is_as_well_as_it_says(run) -> None:
    async def test(bench: Bench) -> None:
        bench.ailment = f"{URL} answers 503"
        function = await bench.load()
        assert (function.state, function.accepting, function.admitted) == ("LOADING", True, True)
        await bench.until(lambda: "503" in function.reason)
        assert function.state == "LOADING"  # it never served, so it does not cease to
        bench.ailment = ""
        await bench.state("READY")
        assert (function.serving, function.reason) == (True, "")
        bench.ailment = f"{URL} does not answer"
        await bench.state("UNAVAILABLE")
        assert not function.serving
        bench.ailment = ""
        await bench.state("READY")
        assert len(bench.programs) == 1

    run(test)


def test_one_that_nobody_can_ask_is_ready_when_it_runs(run) -> None:
    async def test(bench: Bench) -> None:
        bench.ailment = "nobody asks"
        await bench.load(JOB)
        await bench.state("READY")

    run(test)


def test_one_that_becomes_a_client_of_mps_late_is_not_worried_about_for_ever(
    run, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Gpu:
        """One whose MPS the program finds when it makes its first context."""

        outside = True

        async def misses(self, pids: object) -> bool:
            return self.outside

    async def test(bench: Bench) -> None:
        gpu = Gpu()
        function = await bench.load(JOB)
        await bench.state("READY")
        with monkeypatch.context() as patch:
            patch.setitem(bench.supervisor.node.gpus, "cpu", gpu)  # type: ignore[arg-type]
            await bench.until(lambda: "none of its processes is a client" in function.reason)
            gpu.outside = False
            await bench.until(lambda: not function.reason)
        assert sum("client of MPS" in event for event in bench.events) == 1

    monkeypatch.setattr(module, "_LOOK_PERIOD_S", 0.0)
    monkeypatch.setattr(module, "_UNASKED_PERIOD_S", 0.001)
    run(test)


def test_a_death_is_followed_by_another_start(run) -> None:
    async def test(bench: Bench) -> None:
        function = await bench.load()
        await bench.state("READY")
        bench.programs[0].death.set_result("killed by SIGKILL")
        await bench.until(lambda: len(bench.programs) == 2 and function.state == "READY")
        assert bench.programs[0].cleared
        assert function.restarts.count == 1
        assert any("pid 1) killed by SIGKILL" in event for event in bench.events)

    run(test)


@pytest.mark.parametrize("way", ["dies", "cannot be started again"])
def test_a_crash_loop_ends_in_failed_with_its_last_words(run, way: str) -> None:
    async def test(bench: Bench) -> None:
        bench.supervisor.node.log_path("llm").write_text("one\ntwo\n")
        function = await bench.load()
        await bench.state("READY")
        function.restarts.breaker = Breaker(RestartPolicy(first_delay_us=0))
        if way == "dies":
            bench.dies_at_once = "exited with code 3"
        else:
            bench.refusals = [LoadFailed("no such program")] * 9
        bench.programs[0].death.set_result("exited with code 3")
        await bench.state("FAILED")
        last = "exited with code 3" if way == "dies" else "it cannot be started: no such program"
        assert f"keeps dying, at last {last}: one | two" in function.reason
        assert (function.admitted, function.share_granted_percent) == (False, 0)
        assert len(bench.programs) == (5 if way == "dies" else 1)

    run(test)


def test_a_program_that_needs_minutes_to_serve_is_found_to_loop() -> None:
    breaker = Breaker(module._RESTARTS)
    minute_us = 60 * SECOND_US
    delays = [breaker.death(number * 3 * minute_us) for number in range(5)]
    assert delays[0] == 0
    assert delays[-1] is None
    breaker.reset()
    for number in range(20):  # it served for a while each time
        assert breaker.death(number * 11 * minute_us, served_us=10 * minute_us) == 0


def test_a_job_that_ends_well_has_finished(run) -> None:
    async def test(bench: Bench) -> None:
        function = await bench.load(JOB)
        await bench.state("READY")
        bench.programs[0].death.set_result("exited with code 0")
        await bench.state("FINISHED")
        assert (function.admitted, function.accepting, function.program) == (False, False, None)
        assert function.runs(function.spec)  # nobody wants it run again
        await bench.load(JOB)
        await bench.state("READY")

    run(test)


def test_what_has_finished_is_so_for_the_next_daemon(run) -> None:
    async def test(bench: Bench) -> None:
        node = bench.supervisor.node
        await bench.load(JOB)
        await bench.state("READY")
        bench.programs[0].death.set_result("exited with code 0")
        await bench.state("FINISHED")
        successor = Supervisor(node, lambda child, received: None)
        await successor.adopt({"llm": JOB})
        function = successor.function("llm")
        assert (function.state, function.admitted, function.accepting) == ("FINISHED", False, False)
        assert function.runs(JOB)
        assert function.runs(dataclasses.replace(JOB, share=ShareBounds(9, 9, auto=False)))
        assert not function.runs(dataclasses.replace(JOB, environment={"A": "1"}))
        assert not function.runs(FunctionSpec("llm", model="/a.onnx"))
        another = Supervisor(node, lambda child, received: None)
        await another.adopt({})  # nobody wants it any more
        assert another.functions == {}
        assert node.run_dir.programs() == {}

    run(test)


@pytest.mark.parametrize("order", ["unload", "load"])
def test_an_order_ends_that_it_has_finished(run, order: str) -> None:
    async def test(bench: Bench) -> None:
        await bench.load(JOB)
        await bench.state("READY")
        bench.programs[0].death.set_result("exited with code 0")
        await bench.state("FINISHED")
        assert list(bench.supervisor.node.run_dir.programs()) == ["llm"]
        if order == "unload":
            await bench.supervisor.unload("llm", unheard)
        else:
            bench.refusals = [LoadFailed("not now")]
            with pytest.raises(LoadFailed):
                await bench.load(JOB)
        assert bench.supervisor.node.run_dir.programs() == {}

    run(test)


def test_front_ends_go_by_a_state_before_it_is_shown(run, monkeypatch) -> None:
    async def test(bench: Bench) -> None:
        seen: list[tuple[str, str, str]] = []

        async def show(listing: Listing) -> None:
            state = bench.supervisor.function("llm").state
            seen.append((listing.state, listing.reason, state))

        monkeypatch.setattr(bench.supervisor.frontends, "show", show)
        bench.ailment = "it is not well"
        function = await bench.load()
        await bench.until(lambda: function.reason == "it is not well")
        bench.ailment = ""
        await bench.state("READY")
        bench.ailment = "ill"
        await bench.state("UNAVAILABLE")
        assert seen[-2:] == [("READY", "", "LOADING"), ("UNAVAILABLE", "ill", "READY")]
        bench.ailment = ""
        await bench.state("READY")
        bench.programs[0].death.set_result("killed by SIGKILL")
        await bench.until(lambda: len(bench.programs) == 2)
        assert ("LOADING", "READY") not in [(listing, state) for listing, _, state in seen]

    run(test)


def test_one_whose_device_is_gone_is_ended(run, monkeypatch) -> None:
    async def test(bench: Bench) -> None:
        note = dataclasses.replace(
            Note(JOB, "m", ProgramGroup(), "cgroup", "auto", (0,), 1.0), pid=7
        )
        program = FakeProgram(JOB, 1.0, 7)
        monkeypatch.setattr(Program, "adopt", lambda node, note: program)
        command = bench.supervisor._new_function(JOB)
        assert isinstance(command, Command)
        monkeypatch.delitem(bench.supervisor.node.devices, "cpu")
        assert not await command.take_back(note)
        assert program.cleared
        assert bench.events[-1] == "there is no device cpu any more: its program is ended"

    run(test)


@pytest.mark.parametrize(
    ("spec", "how"), [(SPEC, "exited with code 0"), (JOB, "exited with code 1"), (JOB, "ended")]
)
def test_other_ends_are_deaths(run, spec: FunctionSpec, how: str) -> None:
    async def test(bench: Bench) -> None:
        await bench.load(spec)
        await bench.state("READY")
        bench.programs[0].death.set_result(how)
        await bench.until(lambda: len(bench.programs) == 2)

    run(test)


def test_another_program_is_started_when_the_old_one_has_ended(run) -> None:
    async def test(bench: Bench) -> None:
        await bench.load()
        other = dataclasses.replace(ASKED, command=("sleep", "2000"))
        function = await bench.load(dataclasses.replace(SPEC, program=other))
        assert [program.cleared for program in bench.programs] == [True, False]
        assert function.restarts.count == 0
        bench.refusals = [LoadFailed("no room")]
        with pytest.raises(LoadFailed):
            await bench.load()
        assert (function.state, function.admitted) == ("FAILED", False)

    run(test)


def test_what_cannot_be_run_does_not_end_what_runs(run) -> None:
    async def test(bench: Bench) -> None:
        function = await bench.load()
        await bench.state("READY")
        missing = dataclasses.replace(ASKED, command=("no-such-program",))
        with pytest.raises(LoadFailed, match="there is no program no-such-program on the PATH"):
            await bench.load(dataclasses.replace(SPEC, program=missing))
        assert (function.state, function.spec.program) == ("READY", ASKED)
        assert not bench.programs[0].cleared

    run(test)


def test_settings_that_the_program_need_not_know_of_change_in_place(run) -> None:
    async def test(bench: Bench) -> None:
        function = await bench.load()
        patient = dataclasses.replace(ASKED, health_timeout_us=9, stop_timeout_us=9)
        await bench.load(
            dataclasses.replace(SPEC, share=ShareBounds(20, 20, auto=False), program=patient)
        )
        assert len(bench.programs) == 1
        assert function.spec.program == patient
        assert bench.programs[0].note.spec.program == patient
        assert bench.programs[0].share_effective_percent == 20

    run(test)


def test_settings_that_cannot_be_noted_are_not_taken_over(run, monkeypatch) -> None:
    def full(program: FakeProgram, spec: FunctionSpec) -> None:
        raise Unavailable("no space")

    async def test(bench: Bench) -> None:
        function = await bench.load()
        before = function.spec
        with monkeypatch.context() as patch:
            patch.setattr(FakeProgram, "is_now", full)
            with pytest.raises(Unavailable):
                await bench.supervisor.resize("llm", ShareBounds(50, 50, auto=False), unheard)
            with pytest.raises(Unavailable):
                await bench.load(dataclasses.replace(SPEC, share=ShareBounds(9, 9, auto=False)))
        assert (function.spec, function.share_granted_percent) == (before, 30)
        assert not bench.programs[0].cleared

    run(test)


def test_one_that_does_not_get_its_share_does_not_run(run, monkeypatch) -> None:
    def refused(program: FakeProgram, share_percent: float) -> None:
        raise FailedPrecondition("cannot limit it")

    async def test(bench: Bench) -> None:
        bench.share_meanwhile = 20.0
        with monkeypatch.context() as patch:
            patch.setattr(FakeProgram, "set_share", refused)
            with pytest.raises(FailedPrecondition, match="cannot limit it"):
                await bench.load()
        assert [program.cleared for program in bench.programs] == [True]
        assert bench.supervisor.function("llm").state == "FAILED"

    run(test)


def test_a_load_that_fails_while_it_is_about_to_be_restarted_has_failed(run) -> None:
    async def test(bench: Bench) -> None:
        function = await bench.load()
        await bench.state("READY")
        bench.refusals = [LoadFailed("not now")] * 3
        bench.programs[0].death.set_result("killed by SIGKILL")
        await bench.until(lambda: len(bench.refusals) < 3)
        bench.refusals = [LoadFailed("not now, either")]
        with pytest.raises(LoadFailed, match="not now, either"):
            await bench.load()
        assert (function.state, function.admitted, function.accepting) == ("FAILED", False, False)

    run(test)


def test_shares_change_in_place_or_not_at_all(run) -> None:
    async def test(bench: Bench) -> None:
        await bench.load()
        resize = bench.supervisor.resize
        resized = await resize("llm", ShareBounds(50, 50, auto=False), unheard)
        assert (resized.path, resized.share_effective_percent) == ("in place", 50)
        with pytest.raises(InvalidArgument, match="a share of its own"):
            await resize("llm", ShareBounds(), unheard)
        more = dataclasses.replace(SPEC, name="more", share=ShareBounds(60, 60, auto=False))
        with pytest.raises(ResourceExhausted):
            await bench.supervisor.load(more, unheard)
        bench.programs[0].live_resize = False
        bench.programs[0].note = dataclasses.replace(bench.programs[0].note, limiter="mps")
        with pytest.raises(FailedPrecondition, match="under mps the share of a program is fixed"):
            await resize("llm", ShareBounds(20, 20, auto=False), unheard)
        bench.programs[0].death.set_result("killed by SIGKILL")

    run(test)


def test_memory_that_it_may_take_is_taken(run) -> None:
    def needs(mib: int, name: str = "llm") -> FunctionSpec:
        program = dataclasses.replace(ASKED, memory_bytes=mib << 20)
        return dataclasses.replace(SPEC, name=name, program=program)

    async def test(bench: Bench) -> None:
        devices = bench.supervisor.node.devices
        devices["cpu"] = dataclasses.replace(devices["cpu"], memory_limit_bytes=100 << 20)
        await bench.load(needs(60))
        with pytest.raises(ResourceExhausted, match=r"function more: needs .*; cpu has .* free of"):
            await bench.supervisor.load(needs(60, "more"), unheard)
        await bench.supervisor.load(needs(40, "more"), unheard)
        await bench.load(needs(50))  # what it had is free by then
        with pytest.raises(ResourceExhausted, match="function llm: needs"):
            await bench.load(needs(70))
        await bench.state("READY")
        bench.refusals = [LoadFailed("not now")] * 3
        bench.programs[-1].death.set_result("killed by SIGKILL")
        await bench.until(lambda: bench.supervisor.function("llm").program is None)
        with pytest.raises(ResourceExhausted):  # it is about to be started again
            await bench.supervisor.load(needs(20, "third"), unheard)

    run(test)


def test_a_limit_that_nothing_keeps_is_told(run, monkeypatch) -> None:
    monkeypatch.setattr(FakeProgram, "memory_is_limited", False)
    program = dataclasses.replace(ASKED, memory_bytes=64 << 20)

    async def test(bench: Bench) -> None:
        function = await bench.load(dataclasses.replace(SPEC, program=program))
        await bench.state("READY")
        assert function.reason.endswith("is not enforced, only watched")
        monkeypatch.setattr(FakeProgram, "resident_bytes", 65 << 20)
        await bench.until(lambda: function.reason.endswith("and it takes more"))
        assert function.state == "READY"

    run(test)


def test_a_command_takes_the_place_of_a_model_of_its_name(run) -> None:
    async def test(bench: Bench) -> None:
        model = FunctionSpec("llm", model="/nowhere.onnx")
        old = bench.supervisor.functions["llm"] = bench.supervisor._new_function(model)
        function = await bench.load()
        assert function is not old
        assert list(bench.supervisor.functions) == ["llm"]

    run(test)


def test_what_a_program_knows() -> None:
    assert runs_as(SPEC, dataclasses.replace(SPEC, share=ShareBounds(1, 1), version="7"))
    other = dataclasses.replace(ASKED, memory_bytes=1)
    assert not runs_as(SPEC, dataclasses.replace(SPEC, program=other))
    assert not runs_as(SPEC, dataclasses.replace(SPEC, environment={"A": "1"}))


def test_programs_are_looked_for_before_anything_is_done(tmp_path: Path) -> None:
    def wanted(*command: str, directory: Path = tmp_path, **environment: str) -> FunctionSpec:
        program = ProgramSpec(command, str(directory))
        return dataclasses.replace(SPEC, program=program, environment=environment)

    check(wanted("sleep"))
    (tmp_path / "mine").touch(mode=0o700)
    check(wanted("./mine"))
    check(wanted("mine", PATH=str(tmp_path)))
    (tmp_path / "text").touch(mode=0o600)
    for spec in (wanted("./text"), wanted("./none"), wanted("sleep", PATH=str(tmp_path))):
        with pytest.raises(LoadFailed, match="function llm: there is no program"):
            check(spec)
    with pytest.raises(LoadFailed, match="there is no directory"):
        check(wanted("sleep", directory=tmp_path / "none"))
