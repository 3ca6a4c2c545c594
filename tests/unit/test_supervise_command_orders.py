"""What is ordered of commands, and what they may take, with programs that are made up."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from gslice.core.errors import (
    FailedPrecondition,
    InvalidArgument,
    LoadFailed,
    ResourceExhausted,
    Unavailable,
)
from gslice.core.types import FunctionSpec, ProgramSpec, ShareBounds
from gslice.supervise.program import check, runs_as
from tests.unit.command_bench import ASKED, SPEC, Bench, FakeProgram
from tests.unit.function_bench import unheard


def test_another_program_is_started_when_the_old_one_has_ended(on_commands) -> None:
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

    on_commands(test)


def test_what_cannot_be_run_does_not_end_what_runs(on_commands) -> None:
    async def test(bench: Bench) -> None:
        function = await bench.load()
        await bench.state("READY")
        missing = dataclasses.replace(ASKED, command=("no-such-program",))
        with pytest.raises(LoadFailed, match="there is no program no-such-program on the PATH"):
            await bench.load(dataclasses.replace(SPEC, program=missing))
        assert (function.state, function.spec.program) == ("READY", ASKED)
        assert not bench.programs[0].cleared

    on_commands(test)


def test_settings_that_the_program_need_not_know_of_change_in_place(on_commands) -> None:
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

    on_commands(test)


def test_settings_that_cannot_be_noted_are_not_taken_over(on_commands, monkeypatch) -> None:
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

    on_commands(test)


def test_one_that_does_not_get_its_share_does_not_run(on_commands, monkeypatch) -> None:
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

    on_commands(test)


def test_a_load_that_fails_while_it_is_about_to_be_restarted_has_failed(on_commands) -> None:
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

    on_commands(test)


def test_shares_change_in_place_or_not_at_all(on_commands) -> None:
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

    on_commands(test)


def test_memory_that_it_may_take_is_taken(on_commands) -> None:
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

    on_commands(test)


def test_a_limit_that_nothing_keeps_is_told(on_commands, monkeypatch) -> None:
    monkeypatch.setattr(FakeProgram, "memory_is_limited", False)
    program = dataclasses.replace(ASKED, memory_bytes=64 << 20)

    async def test(bench: Bench) -> None:
        function = await bench.load(dataclasses.replace(SPEC, program=program))
        await bench.state("READY")
        assert function.reason.endswith("is not enforced, only watched")
        monkeypatch.setattr(FakeProgram, "resident_bytes", 65 << 20)
        await bench.until(lambda: function.reason.endswith("and it takes more"))
        assert function.state == "READY"

    on_commands(test)


def test_a_command_takes_the_place_of_a_model_of_its_name(on_commands) -> None:
    async def test(bench: Bench) -> None:
        model = FunctionSpec("llm", model="/nowhere.onnx")
        old = bench.supervisor.functions["llm"] = bench.supervisor._new_function(model)
        function = await bench.load()
        assert function is not old
        assert list(bench.supervisor.functions) == ["llm"]

    on_commands(test)


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
