"""Functions that rest: who loads and unloads them, and the race between a request and an unload."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gslice.core.errors import LoadFailed, ResourceExhausted
from gslice.core.types import MemoryTaken
from gslice.supervise.recall import Recalled
from gslice.supervise.tasks import Tasks
from tests.unit.function_bench import add
from tests.unit.residency_bench import SIGNATURE, SPEC, Case


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., None]:
    def run(scenario: Any, **settings: Any) -> None:
        async def made() -> None:
            await scenario(Case(tmp_path, dataclasses.replace(SPEC, **settings)))

        asyncio.run(made())

    return run


# ---- the race ------------------------------------------------------------------------------------


def test_a_request_before_its_workers_stop_keeps_it_loaded(run) -> None:
    async def scenario(case: Case) -> None:
        case.on_show["COLD"] = case.deployment.queue
        assert not await case.rest()
        assert (case.function.state, case.shown) == ("READY", ["COLD", "READY"])
        (worker,) = case.deployment.workers
        assert (worker.ready, worker.draining, worker.expected_to_end) == (True, False, False)
        assert case.deployment.pulling == 1
        case.deployment.segment.fail_queued(14, "end")

    run(scenario)


def test_a_request_after_its_workers_stopped_loads_it_again(run) -> None:
    async def scenario(case: Case) -> None:
        def comes() -> None:
            case.deployment.queue()
            case.residency.wake()  # as a front-end that was told of COLD does

        case.deployment.on_let_go = comes
        assert await case.rest()
        await case.settle()
        assert (case.function.state, case.shown) == ("READY", ["COLD", "READY"])
        assert case.residency.cold_starts == 1
        assert (case.deployment.pulling, len(case.deployment.workers)) == (1, 1)
        case.deployment.segment.fail_queued(14, "end")

    run(scenario)


def test_what_a_dying_worker_leaves_behind_loads_it_again(run) -> None:
    async def scenario(case: Case) -> None:
        case.deployment.on_let_go = lambda: case.deployment.queue() and None  # nobody tells of it
        assert await case.rest()
        await case.settle()
        assert case.function.state == "READY"
        case.deployment.segment.fail_queued(14, "end")

    run(scenario)


def test_what_replaces_a_dead_worker_is_not_forgotten(run) -> None:
    async def scenario(case: Case) -> None:
        never: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def dies() -> None:
            async def restart() -> None:
                await never

            case.function.restarts.tasks.start(restart())

        case.on_show["COLD"] = dies
        assert not await case.rest()
        assert (case.function.state, case.shown) == ("READY", ["COLD", "READY"])
        assert case.deployment.pulling == 1
        await case.function.restarts.cancel()

    run(scenario)


def test_a_restart_does_not_outlive_a_load_that_failed(run) -> None:
    async def scenario(case: Case) -> None:
        assert await case.rest()

        async def dies_and_fails(device: str) -> None:
            case.function.restarts.tasks.start(asyncio.sleep(60))
            raise LoadFailed("function f: no such model")

        case.deployment.prepare = dies_and_fails  # type: ignore[method-assign]
        case.residency.wake()
        await case.settle()
        assert case.function.state == "COLD"
        assert list(case.function.restarts.tasks) == []

    run(scenario)


def test_a_wake_up_of_what_serves_changes_nothing(run) -> None:
    async def scenario(case: Case) -> None:
        case.residency.wake()
        await case.settle()
        assert (case.shown, case.residency.cold_starts) == ([], 0)

    run(scenario)


def test_a_request_that_comes_while_a_load_fails_is_answered_or_loads_again(run) -> None:
    async def scenario(case: Case) -> None:
        assert await case.rest()
        case.deployment.failure = LoadFailed("function f: no such model")

        def comes() -> None:
            """After what waited was answered, and before front-ends hear anything."""
            case.deployment.failure = None
            case.deployment.queue()
            case.residency.wake()

        case.on_show["COLD"] = comes
        case.deployment.queue()
        case.residency.wake()
        await case.settle()
        assert case.deployment.failed == ["could not be loaded: no such model"]
        assert (case.function.state, case.residency.cold_starts) == ("READY", 1)
        case.deployment.segment.fail_queued(14, "end")

    run(scenario)


def test_a_load_that_fails_again_and_again_is_given_up(run) -> None:
    async def scenario(case: Case) -> None:
        assert await case.rest()
        case.deployment.failure = ResourceExhausted("function f: needs 1 GiB")
        for _ in range(10):  # memory may become free
            case.residency.wake()
            await case.settle()
        assert case.function.state == "COLD"
        case.deployment.failure = LoadFailed("function f: no such model")
        for _ in range(5):
            case.residency.wake()
            await case.settle()
        assert case.function.state == "FAILED"
        assert case.function.reason == "could not be loaded for a request: no such model"

    run(scenario)


# ---- when it rests -------------------------------------------------------------------------------


def test_it_rests_when_no_request_came_for_long_enough(
    run, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_ns = 1_000_000_000_000_000_000
    monkeypatch.setattr(time, "time_ns", lambda: now_ns)

    async def scenario(case: Case) -> None:
        nonlocal now_ns
        case.residency.loaded(5)
        now_ns += 99_000_000
        case.residency.look()
        await case.settle()
        assert case.function.state == "READY"
        now_ns += 1_000_000
        case.residency.look()
        case.residency.look()  # once is enough
        await case.settle()
        assert (case.function.state, case.shown) == ("COLD", ["COLD"])
        assert case.deployment.workers == []

    run(scenario)


def test_requests_that_fail_are_requests(run, monkeypatch: pytest.MonkeyPatch) -> None:
    now_ns = 1_000_000_000_000_000_000
    monkeypatch.setattr(time, "time_ns", lambda: now_ns)

    async def scenario(case: Case) -> None:
        nonlocal now_ns
        case.residency.loaded(5)
        now_ns += 200_000_000
        case.deployment.queue()
        case.deployment.segment.fail_queued(14, "it fails")
        case.residency.look()
        await case.settle()
        assert case.function.state == "READY"
        now_ns += 100_000_000
        case.residency.look()
        await case.settle()
        assert case.function.state == "COLD"

    run(scenario)


@pytest.mark.parametrize("residency", ["warm", "pinned"])
def test_others_are_never_idle_enough(run, residency: str) -> None:
    async def scenario(case: Case) -> None:
        case.residency.look()
        assert list(case.residency._tasks) == []
        assert case.residency.evictable == (residency == "warm")

    run(scenario, residency=residency)


def test_what_is_busy_stays(run) -> None:
    async def scenario(case: Case) -> None:
        ticket = case.deployment.queue()
        case.residency.look()
        assert (list(case.residency._tasks), case.residency.evictable) == ([], False)
        case.deployment.frontend.cancel(ticket)
        assert case.residency.evictable
        async with case.function.lock:  # an order is being carried out
            assert not case.residency.evictable
        case.function.restarts.tasks.start(asyncio.sleep(60))  # another worker is on its way
        assert not case.residency.evictable
        await case.function.restarts.cancel()
        case.deployment.workers[0].ready = False
        assert not case.residency.evictable

    run(scenario)


def test_an_eviction_goes_on_without_whoever_wanted_it(run) -> None:
    async def scenario(case: Case) -> None:
        ended = asyncio.Event()
        goes_on = asyncio.Event()

        async def slow(worker: Any) -> None:
            goes_on.set()
            await ended.wait()
            case.deployment.workers.remove(worker)

        case.deployment.instances.let_go = slow
        eviction = asyncio.create_task(case.rest())
        await goes_on.wait()
        eviction.cancel()
        await asyncio.wait([eviction])
        ended.set()
        await case.settle()
        assert (case.function.state, case.deployment.workers) == ("COLD", [])

    run(scenario)


# ---- what makes room -----------------------------------------------------------------------------


def test_nobody_is_unloaded_where_that_would_not_suffice(run) -> None:
    async def scenario(case: Case) -> None:
        budget = case.supervisor._budget
        assert not await budget._evict_one("g", "cpu", missing_bytes=2)
        assert case.function.state == "READY"
        assert await budget._evict_one("g", "cpu", missing_bytes=1)
        assert case.function.state == "COLD"
        assert not await budget._evict_one("g", "cpu", missing_bytes=1)

    run(scenario, residency="warm")


def test_nobody_makes_room_for_itself_or_on_another_device(run) -> None:
    async def scenario(case: Case) -> None:
        budget = case.supervisor._budget
        assert not await budget._evict_one("f", "cpu", missing_bytes=1)
        assert not await budget._evict_one("g", "cuda:0", missing_bytes=1)
        assert await budget._evict_one("g", "", missing_bytes=1)  # of the host

    run(scenario, residency="warm")


def test_a_known_function_begins_cold(run) -> None:
    async def scenario(case: Case) -> None:
        spec = dataclasses.replace(SPEC, name="g")
        function = add(case.supervisor, spec)
        await function.residency.begin_cold(Recalled(MemoryTaken(), 700, SIGNATURE))
        assert (function.state, function.accepting, function.residency.load_us) == (
            "COLD",
            True,
            700,
        )
        assert function.segment is not None
        assert function.deployment is not None
        assert function.deployment.workers == []

    run(scenario)


def test_background_work_ends_with_the_function(run) -> None:
    async def scenario(case: Case) -> None:
        assert await case.rest()
        never: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def hangs(device: str) -> None:
            await never

        case.deployment.prepare = hangs  # type: ignore[method-assign]
        case.residency.wake()
        await asyncio.sleep(0)
        assert isinstance(case.residency._tasks, Tasks)
        await case.residency.cancel()
        assert list(case.residency._tasks) == []
        assert not case.function.lock.locked()

    run(scenario)
