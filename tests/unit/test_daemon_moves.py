"""Who moves, when, and what an operator is told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gslice.core.errors import LoadFailed, NotFound
from gslice.core.types import FunctionSpec, ReplicaBounds
from gslice.daemon.moves import REST_S, Move, Moves
from gslice.daemon.store import Store
from gslice.supervise.node import Changes

BOTH = ("one", "other")
THREE = (*BOTH, "third")


class Bench:
    """Functions that move as soon as they are told to, unless a test says that they fail."""

    def __init__(self, store: Store, *specs: FunctionSpec) -> None:
        self.now_s = 1000.0
        self.events: list[tuple[str, str]] = []
        self.lost: set[str] = set()
        self.fails = ""
        self.moved: list[tuple[str, str]] = []
        self.node = SimpleNamespace(
            drained=set(),
            devices=dict.fromkeys(THREE),
            device=self._device,
            usable=lambda name: name not in self.node.drained | self.lost,
            changes=Changes(),
            event=lambda subject, kind, text: self.events.append((subject, text)),
        )
        self.functions = {
            spec.name: SimpleNamespace(
                name=spec.name, spec=spec, lock=asyncio.Lock(), state="READY", serving=True
            )
            for spec in specs
        }
        self.placing = SimpleNamespace(elsewhere=self._elsewhere)
        self.moves = Moves(self, store, self._move, lambda: self.now_s)  # type: ignore[arg-type]

    def function(self, name: str) -> Any:
        return self.functions[name]

    def _device(self, name: str) -> None:
        if name not in THREE:
            raise NotFound(f"there is no device {name}")

    def _elsewhere(self, function: Any) -> tuple[str, ...]:
        spec = function.spec
        usable = [device for device in spec.devices if self.node.usable(device)]
        stays = [device for device in spec.placed if device in usable]
        others = [device for device in usable if device not in stays]
        return tuple([*stays, *others][: max(len(stays), spec.replicas_min)])

    async def _move(self, name: str, devices: Sequence[str], stage: Any) -> None:
        if self.fails:
            raise LoadFailed(f"function {name}: {self.fails}")
        function = self.functions[name]
        async with function.lock:
            await asyncio.sleep(0)
            function.spec = function.spec.placed_on(devices)
        self.moved.append((name, ", ".join(devices)))

    async def drain(self, device: str) -> list[tuple[str, str]]:
        """Drains a device, while the loop runs; the stages."""
        loop, told = asyncio.create_task(self.moves.run()), list[tuple[str, str]]()
        await self.moves.drain(device, lambda name, detail: told.append((name, detail)))
        loop.cancel()
        return told


def auto(name: str, device: str = "one") -> FunctionSpec:
    return FunctionSpec(name, device=device, devices=BOTH)


Run = Callable[..., None]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Runs a test on a loop, over functions of these specifications."""
    with Store(tmp_path / "gslice.db") as store:

        def run(test: Callable[[Bench], Awaitable[None]], *specs: FunctionSpec) -> None:
            async def scenario() -> None:
                await test(Bench(store, *specs))

            asyncio.run(scenario())

        yield run


def test_a_drained_device_is_left_by_all_that_may(run: Run) -> None:
    async def test(bench: Bench) -> None:
        told = await bench.drain("one")
        assert sorted(told[1:-1]) == [("moved", "a: to other"), ("moved", "b: to other")]
        assert told[0] == ("stay", "fixed: pinned to it")
        assert told[-1] == ("done", "")
        assert sorted(bench.moved) == [("a", "other"), ("b", "other")]
        assert ("a", "moves one -> other: one is drained") in bench.events
        assert ("fixed", "stays: pinned to one") in bench.events
        assert ("one", "drained: nothing new is placed on it") in bench.events
        assert bench.moves.due() is None

    run(test, auto("a"), FunctionSpec("fixed", device="one"), auto("b"), auto("c", "other"))


def test_what_is_drained_outlives_the_daemon(run: Run) -> None:
    async def drains(bench: Bench) -> None:
        await bench.drain("one")

    async def undrains(bench: Bench) -> None:
        assert bench.node.drained == {"one"}
        bench.moves.undrain("one")
        assert bench.node.drained == set()

    async def knows_of_none(bench: Bench) -> None:
        assert bench.node.drained == set()
        with pytest.raises(NotFound):
            await bench.drain("no such")

    for test in (drains, undrains, knows_of_none):
        run(test)


def test_what_cannot_be_moved_stays_and_is_tried_again_later_and_later(run: Run) -> None:
    async def test(bench: Bench) -> None:
        bench.fails = "no memory is left"
        told = await bench.drain("one")
        assert told[0] == ("stay", "a: not moved to other: no memory is left")
        for wait_s in (30, 60, 120):
            bench.now_s += wait_s - 1
            assert bench.moves.due() is None
            bench.now_s += 1
            due = bench.moves.due()
            assert due == Move("a", ("other",), "one is drained")
            await bench.moves.carry_out(due)
        bench.fails = ""
        assert (await bench.drain("one"))[0] == ("moved", "a: to other"), "an order waits for none"

    run(test, auto("a"))


def test_where_no_other_device_is_left_it_stays_and_says_so_once(run: Run) -> None:
    async def test(bench: Bench) -> None:
        bench.lost = {"other"}
        assert (await bench.drain("one"))[0] == ("stay", "a: no other device can take it")
        assert bench.moves.due() is None
        assert [text for name, text in bench.events if name == "a"] == [
            "stays on one: no other device can take it"
        ]
        bench.lost = set()
        assert bench.moves.due() == Move("a", ("other",), "one is drained")

    run(test, auto("a"))


def test_what_failed_leaves_a_device_that_is_lost_and_no_other(run: Run) -> None:
    async def test(bench: Bench) -> None:
        bench.functions["a"].state = "FAILED"
        assert (await bench.drain("one"))[0] == ("stay", "a: it has failed")
        bench.moves.undrain("one")
        bench.lost = {"one"}
        assert bench.moves.due() == Move("a", ("other",), "one cannot be used")

    run(test, auto("a"))


def test_a_proposal_is_taken_once_and_then_the_function_rests(run: Run) -> None:
    async def test(bench: Bench) -> None:
        moves = bench.moves
        moves.propose("a", ["other"], "small")
        moves.propose("b", ["other"], "small")
        due = moves.due()
        assert due == Move("a", ("other",), "small")
        assert moves.due() is None
        await moves.carry_out(due)
        assert not moves.rested("a")
        moves.propose("a", ["one"], "small")
        assert moves.due() is None
        bench.now_s += REST_S
        moves.propose("a", ["one"], "small")
        assert moves.due() == Move("a", ("one",), "small")

    run(test, auto("a"), auto("b"))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda bench: bench.node.drained.add("other"),
        lambda bench: bench.lost.add("other"),
        lambda bench: bench.functions.clear(),
        lambda bench: setattr(bench.functions["a"], "serving", False),
        lambda bench: setattr(bench.functions["a"], "spec", FunctionSpec("a", device="one")),
        lambda bench: setattr(bench.functions["a"], "spec", auto("a", "other")),
    ],
)
def test_a_proposal_that_holds_no_more_is_dropped(run: Run, spoil: Any) -> None:
    async def test(bench: Bench) -> None:
        bench.moves.propose("a", ["other"], "small")
        spoil(bench)
        assert bench.moves.due() is None

    run(test, auto("a"))


def test_who_is_being_loaded_is_left_alone(run: Run) -> None:
    async def test(bench: Bench) -> None:
        bench.lost = {"one"}
        async with bench.functions["a"].lock:
            assert bench.moves.due() is None
            bench.lost = set()
            bench.moves.propose("a", ["other"], "small")
            assert bench.moves.due() is None
        bench.lost = {"one"}
        assert bench.moves.due() is not None

    run(test, auto("a"))


# ---- replicas ------------------------------------------------------------------------------------


def twice(*placed: str) -> FunctionSpec:
    spec = FunctionSpec("a", devices=THREE, replicas=ReplicaBounds(2, 3))
    return spec.placed_on(placed)


def test_a_replica_leaves_a_device_and_the_others_stay(run: Run) -> None:
    async def test(bench: Bench) -> None:
        assert (await bench.drain("one"))[0] == ("moved", "a: to other, third")
        bench.lost = {"other"}
        due = bench.moves.due()
        assert due == Move("a", ("third",), "other cannot be used")
        await bench.moves.carry_out(due)
        assert bench.moves.due() is None, "nothing is left for another"
        bench.lost = {"other", "third"}
        assert bench.moves.due() is None
        assert bench.events[-1] == ("a", "stays on third: no other device can take it")

    run(test, twice("one", "other"))


def test_who_has_too_few_replicas_gets_one_where_there_is_a_device(run: Run) -> None:
    async def test(bench: Bench) -> None:
        bench.node.drained |= {"one", "third"}
        assert bench.moves.due() is None
        bench.moves.undrain("third")
        assert bench.moves.due() == Move("a", ("other", "third"), "it has 1 of 2 replicas")
        bench.fails = "no memory is left"
        await bench.moves.carry_out(Move("a", ("other", "third"), ""))
        assert bench.moves.due() is None, "it waits before it tries again"
        bench.functions["a"].serving = False
        bench.now_s += 1000
        assert bench.moves.due() is None, "whoever loads it decides"

    run(test, twice("other"))
