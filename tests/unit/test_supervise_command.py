"""Commands and their states, with programs that are made up."""

from __future__ import annotations

import dataclasses

import pytest

from gslice.control.breaker import SECOND_US, Breaker, RestartPolicy
from gslice.core.errors import (
    LoadFailed,
)
from gslice.core.types import FunctionSpec, ShareBounds
from gslice.device.program_group import ProgramGroup
from gslice.supervise import command as module
from gslice.supervise.command import Command
from gslice.supervise.listing import Listing
from gslice.supervise.program import Program
from gslice.supervise.program_note import Note
from gslice.supervise.supervisor import Supervisor
from tests.unit.command_bench import JOB, SPEC, URL, Bench, FakeProgram
from tests.unit.function_bench import unheard


def test_it_is_as_well_as_it_says(on_commands) -> None:
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

    on_commands(test)


def test_one_that_nobody_can_ask_is_ready_when_it_runs(on_commands) -> None:
    async def test(bench: Bench) -> None:
        bench.ailment = "nobody asks"
        await bench.load(JOB)
        await bench.state("READY")

    on_commands(test)


def test_one_that_becomes_a_client_of_mps_late_is_not_worried_about_for_ever(
    on_commands, monkeypatch: pytest.MonkeyPatch
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
    on_commands(test)


def test_a_death_is_followed_by_another_start(on_commands) -> None:
    async def test(bench: Bench) -> None:
        function = await bench.load()
        await bench.state("READY")
        bench.programs[0].death.set_result("killed by SIGKILL")
        await bench.until(lambda: len(bench.programs) == 2 and function.state == "READY")
        assert bench.programs[0].cleared
        assert function.restarts.count == 1
        assert any("pid 1) killed by SIGKILL" in event for event in bench.events)

    on_commands(test)


@pytest.mark.parametrize("way", ["dies", "cannot be started again"])
def test_a_crash_loop_ends_in_failed_with_its_last_words(on_commands, way: str) -> None:
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

    on_commands(test)


def test_a_program_that_needs_minutes_to_serve_is_found_to_loop() -> None:
    breaker = Breaker(module._RESTARTS)
    minute_us = 60 * SECOND_US
    delays = [breaker.death(number * 3 * minute_us) for number in range(5)]
    assert delays[0] == 0
    assert delays[-1] is None
    breaker.reset()
    for number in range(20):  # it served for a while each time
        assert breaker.death(number * 11 * minute_us, served_us=10 * minute_us) == 0


def test_a_job_that_ends_well_has_finished(on_commands) -> None:
    async def test(bench: Bench) -> None:
        function = await bench.load(JOB)
        await bench.state("READY")
        bench.programs[0].death.set_result("exited with code 0")
        await bench.state("FINISHED")
        assert (function.admitted, function.accepting, function.program) == (False, False, None)
        assert function.runs(function.spec)  # nobody wants it run again
        await bench.load(JOB)
        await bench.state("READY")

    on_commands(test)


def test_what_has_finished_is_so_for_the_next_daemon(on_commands) -> None:
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

    on_commands(test)


@pytest.mark.parametrize("order", ["unload", "load"])
def test_an_order_ends_that_it_has_finished(on_commands, order: str) -> None:
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

    on_commands(test)


def test_front_ends_go_by_a_state_before_it_is_shown(on_commands, monkeypatch) -> None:
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

    on_commands(test)


def test_one_whose_device_is_gone_is_ended(on_commands, monkeypatch) -> None:
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

    on_commands(test)


@pytest.mark.parametrize(
    ("spec", "how"), [(SPEC, "exited with code 0"), (JOB, "exited with code 1"), (JOB, "ended")]
)
def test_other_ends_are_deaths(on_commands, spec: FunctionSpec, how: str) -> None:
    async def test(bench: Bench) -> None:
        await bench.load(spec)
        await bench.state("READY")
        bench.programs[0].death.set_result(how)
        await bench.until(lambda: len(bench.programs) == 2)

    on_commands(test)
