"""The decision as a whole: shares, batches, shedding, placement, and how steady it is."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gslice.control.demand import Allotment, Demand, DeviceShares, Policy
from gslice.control.explain import predicted_p99_us, reason
from gslice.control.latency import LatencyModel, Measurement
from gslice.control.plan import Planner
from gslice.core.types import ShareBounds

BUCKETS = (1, 2, 4, 8)
SHARES = (10.0, 25.0, 50.0, 100.0)
CPU = {"cpu": DeviceShares("cpu")}


def model(work_us: float, fixed_us: float = 500.0) -> LatencyModel:
    """Of batches that take `work_us` a row on the whole device."""
    return LatencyModel.fit(
        [
            Measurement(rows, share, median := fixed_us + work_us * rows * 100 / share, median, 50)
            for rows in BUCKETS
            for share in SHARES
        ]
    )


FAST, SLOW = model(500.0), model(5_000.0)


def demand(name: str, rate_per_s: float, slo_ms: float = 50.0, **other: object) -> Demand:
    on_cpu = {"models": {"cpu": FAST}, "devices": ("cpu",), "rows_max": 8}
    return replace(
        Demand(name, rate_per_s, slo_ms * 1000, **on_cpu),  # type: ignore[arg-type]
        **other,  # type: ignore[arg-type]
    )


def plan(
    *demands: Demand, devices: dict[str, DeviceShares] = CPU, planner: Planner | None = None
) -> dict[str, Allotment]:
    decided = (planner or Planner()).plan(0.0, demands, devices, {})
    return {name: allotments[0] for name, allotments in decided.items()}


def test_an_slo_gets_what_it_needs_and_a_reason() -> None:
    light, heavy = plan(demand("light", 20), demand("heavy", 400)).values()
    assert heavy.share_percent > light.share_percent
    assert heavy.capacity_per_s >= 400
    assert predicted_p99_us(heavy) <= 50_000
    assert heavy.shed_us == 0
    assert "400 requests/s within 50 ms" in reason(heavy)
    assert "predicted p99" in reason(heavy)


def test_what_nobody_needs_goes_to_those_without_an_slo() -> None:
    decided = plan(demand("promised", 100), demand("other", 100, slo_ms=0.0))
    assert decided["promised"].capacity_per_s >= 200  # headroom first
    assert decided["other"].share_percent > 50
    assert "no SLO" in reason(decided["other"])
    assert sum(each.share_percent for each in decided.values()) == pytest.approx(100)


def test_a_pinned_share_stays_and_bounds_hold() -> None:
    bounded = ShareBounds(20.0, 30.0)
    decided = plan(
        demand("pinned", 10, bounds=ShareBounds(37.0, 37.0, auto=False)),
        demand("bounded", 1_000, bounds=bounded),
        demand("free", 100),
    )
    assert decided["pinned"].share_percent == 37.0
    assert 20 <= decided["bounded"].share_percent <= 30
    assert decided["bounded"].shed_us > 0  # it may not have what it needs


def test_overload_serves_the_same_part_of_everybody() -> None:
    decided = plan(demand("a", 1_500), demand("b", 1_500), demand("c", 3_000))
    served = [each.capacity_per_s / each.rate_per_s for each in decided.values()]
    assert max(served) < 1
    assert max(served) - min(served) < 0.12
    assert all(each.shed_us > 0 for each in decided.values())
    assert all("overload" in reason(each) for each in decided.values())


def test_in_overload_priority_comes_first() -> None:
    decided = plan(
        demand("low", 1_000, priority="low"),
        demand("high", 1_000, priority="high"),
        demand("normal", 1_000),
    )
    assert decided["high"].shed_us == 0
    assert decided["high"].capacity_per_s >= 1_000
    part = {n: each.capacity_per_s / each.rate_per_s for n, each in decided.items()}
    assert part["high"] >= part["normal"] >= part["low"]


def test_an_slo_that_no_share_keeps_is_said_so() -> None:
    decided = plan(demand("slow", 10, slo_ms=4.0, models={"cpu": SLOW}))
    assert "out of its reach" in reason(decided["slow"])


def test_somebody_who_is_not_profiled_gets_a_part_of_the_rest() -> None:
    decided = plan(demand("new", 10, models={}), demand("old", 100))
    assert decided["new"].share_percent > 0
    assert "not profiled" in reason(decided["new"])


def test_a_steady_load_moves_nothing() -> None:
    generator, planner = random.Random(1), Planner()
    current: dict[str, list[Allotment]] = {}
    changes = 0
    for tick in range(240):  # a minute
        demands = [
            demand(name, rate * generator.uniform(0.95, 1.05))
            for name, rate in (("a", 100), ("b", 300), ("c", 40))
        ]
        decided = planner.plan(tick / 4, demands, CPU, current)
        changes += current != {} and shares_of(decided) != shares_of(current)
        current = decided
    assert changes <= 1


def test_a_step_of_the_load_is_followed_at_once() -> None:
    planner = Planner()
    before = planner.plan(0.0, [demand("a", 100), demand("b", 100)], CPU, {})
    after = planner.plan(0.25, [demand("a", 1_000), demand("b", 100)], CPU, before)
    assert after["a"][0].share_percent > before["a"][0].share_percent
    assert after["a"][0].capacity_per_s >= 1_000


def test_until_a_share_is_in_effect_limits_are_for_what_serves() -> None:
    planner, loads = Planner(), (demand("a", 1_500), demand("b", 100))
    before = planner.plan(0.0, [demand("a", 100)], CPU, {})["a"][0]
    now = {"a": [replace(before, share_percent=10.0, effective_percent=10.0)]}
    on_its_way = planner.plan(1.0, loads, CPU, now)["a"][0]
    assert on_its_way.share_percent > 50
    assert on_its_way.shed_us > 0
    assert on_its_way.batch_rows_max < 8
    assert on_its_way.capacity_per_s >= 1_500
    assert not on_its_way.short  # nobody has to move for that
    there = replace(on_its_way, effective_percent=on_its_way.share_percent)
    done = planner.plan(2.0, loads, CPU, {"a": [there]})["a"][0]
    assert done.share_percent == on_its_way.share_percent
    assert done.shed_us == 0


def test_what_comes_now_is_served_before_what_came_once() -> None:
    now = demand("now", 1_000)
    once, too = (demand(name, 10, peak_per_s=peak) for name, peak in (("once", 1_500), ("too", 10)))
    decided = plan(now, once, too)
    assert decided["now"].capacity_per_s >= 1_000
    assert decided["once"].capacity_per_s > 3 * decided["too"].capacity_per_s
    assert decided["once"].short
    assert not decided["now"].short


def shares_of(decided: dict[str, list[Allotment]]) -> dict[str, list[tuple[str, float]]]:
    return {
        name: [(each.device, each.share_percent) for each in allotments]
        for name, allotments in decided.items()
    }


# ---- several devices -------------------------------------------------------------------------


def anywhere(name: str, rate_per_s: float, count: int = 3, **other: object) -> Demand:
    models = {f"cuda:{index}": FAST for index in range(count)}
    return demand(name, rate_per_s, models=models, devices=(), **other)


GPUS = {f"cuda:{index}": DeviceShares(f"cuda:{index}") for index in range(3)}


def test_few_devices_are_used_if_that_is_the_policy() -> None:
    demands = [anywhere("a", 100), anywhere("b", 100), anywhere("c", 100)]
    few = Planner(Policy(packing="fewest")).plan(0.0, demands, GPUS, {})
    assert len({each.device for parts in few.values() for each in parts}) == 1
    many = Planner(Policy(packing="headroom")).plan(0.0, demands, GPUS, {})
    assert len({each.device for parts in many.values() for each in parts}) == 3


def test_what_no_device_can_serve_alone_is_replicated() -> None:
    decided = Planner().plan(0.0, [anywhere("big", 4_000)], GPUS, {})
    assert len(decided["big"]) >= 2
    assert sum(each.rate_per_s for each in decided["big"]) == pytest.approx(4_000)
    assert sum(each.capacity_per_s for each in decided["big"]) >= 4_000
    assert all(each.shed_us == 0 for each in decided["big"])


def test_a_lost_device_moves_its_functions_and_no_others() -> None:
    planner = Planner(Policy(packing="headroom"))
    demands = [anywhere(name, 300) for name in "abc"]
    before = planner.plan(0.0, demands, GPUS, {})
    lost = before["a"][0].device
    left = {name: device for name, device in GPUS.items() if name != lost}
    after = planner.plan(1.0, demands, left, before)
    assert after["a"][0].device != lost
    for name in "bc":
        assert [each.device for each in after[name]] == [each.device for each in before[name]]


def test_where_nobody_can_go_from_the_worst_device_the_next_is_relieved() -> None:
    pinned = ShareBounds(90.0, 90.0, auto=False)
    stuck = [replace(anywhere(name, 10, bounds=pinned), devices=("cuda:0",)) for name in "xy"]
    movers = [anywhere(name, 1_100, replicas_max=1) for name in "ab"]
    current = {each.name: [Allotment("cuda:0", 90.0)] for each in stuck}
    current |= {each.name: [Allotment("cuda:1", 50.0)] for each in movers}
    where = Planner().place([*stuck, *movers], GPUS, current)
    assert where["x"] == where["y"] == {"cuda:0": 1.0}
    assert sorted(device for name in "ab" for device in where[name]) == ["cuda:1", "cuda:2"]


def test_an_overloaded_device_gives_one_function_away() -> None:
    planner = Planner(Policy(packing="fewest"))
    demands = [anywhere("a", 100), anywhere("b", 100), anywhere("c", 100)]
    before = planner.plan(0.0, demands, GPUS, {})
    after = planner.plan(1.0, [replace(d, rate_per_s=700) for d in demands], GPUS, before)
    moved = [n for n in after if after[n][0].device != before[n][0].device]
    assert len(moved) == 1


# ---- properties ------------------------------------------------------------------------------

names = st.integers(0, 11)
demands_strategy = st.lists(
    st.builds(
        lambda index, rate, slo_ms, priority, low, span: demand(
            f"f{index}",
            rate,
            slo_ms,
            priority=priority,
            bounds=ShareBounds(low, min(100.0, low + span)),
            models={} if index == 11 else {"cpu": FAST if index % 2 else SLOW},
        ),
        names,
        st.floats(0.1, 3_000),
        st.sampled_from([0.0, 5.0, 20.0, 100.0, 1_000.0]),
        st.sampled_from(["low", "normal", "high"]),
        st.sampled_from([1.0, 5.0]),
        st.sampled_from([0.0, 20.0, 99.0]),
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda each: each.name,
)


@given(demands_strategy, demands_strategy)
def test_divisions_fit_and_keep_bounds(first: list[Demand], second: list[Demand]) -> None:
    planner = Planner()
    before = planner.plan(0.0, first, CPU, {})
    for decided, demands in (
        (before, first),
        (planner.plan(1.0, second, CPU, before), second),
        (planner.plan(100.0, second, CPU, before), second),
    ):
        assert decided.keys() == {each.name for each in demands}
        shares = {name: parts[0].share_percent for name, parts in decided.items()}
        assert sum(shares.values()) <= 100 + 1e-6
        for each in demands:
            low, high = each.bounds.min_percent, each.bounds.max_percent
            assert low - 1e-6 <= shares[each.name] <= max(low, high, 2.5) + 1e-6


# ---- replicas ------------------------------------------------------------------------------------


def test_a_replicated_function_has_one_share_and_the_rest_goes_to_others() -> None:
    planner = Planner()
    both = anywhere("r", 600, count=2, replicas_min=2, replicas_max=2)
    tight = replace(
        anywhere("tight", 10, bounds=ShareBounds(70.0, 70.0, auto=False)), devices=("cuda:0",)
    )
    hungry = replace(anywhere("hungry", 300), devices=("cuda:1",))
    gpus = {name: GPUS[name] for name in ("cuda:0", "cuda:1")}
    current: dict[str, list[Allotment]] = {}
    for now_s in (0.0, 100.0, 200.0):
        decided = planner.plan(now_s, [both, tight, hungry], gpus, current)
        shares = {each.share_percent for each in decided["r"]}
        assert len(shares) == 1
        assert max(shares) <= 30
        assert decided["hungry"][0].share_percent > 60, "what r leaves on its other device"
        assert current in ({}, decided), "nothing changes any more, so nothing rests in vain"
        current = decided


def test_who_does_not_fit_a_whole_device_gets_more_of_them() -> None:
    planner = Planner()
    alone = anywhere("a", 3_500)
    current = {"a": [Allotment("cuda:0", 100.0)]}
    where = planner.place([alone], GPUS, current)
    assert len(where["a"]) > 1
    assert "cuda:0" in where["a"], "what runs stays"
    whole = replace(alone, replicas_max=1)
    assert planner.place([whole], GPUS, current)["a"] == {"cuda:0": 1.0}
    busy = [
        replace(anywhere(name, 10, bounds=ShareBounds(95.0, 95.0, auto=False)), devices=(gpu,))
        for name, gpu in (("x", "cuda:1"), ("y", "cuda:2"))
    ]
    current |= {each.name: [Allotment(each.devices[0], 95.0)] for each in busy}
    assert planner.place([alone, *busy], GPUS, current)["a"] == {"cuda:0": 1.0}, "no room for it"


def test_fewer_devices_hold_if_all_slos_are_kept_there() -> None:
    planner = Planner()
    mine = replace(anywhere("a", 500), devices=("cuda:0",))
    neighbour = replace(anywhere("b", 500), devices=("cuda:0", "cuda:1"))
    assert planner.holds([mine, neighbour], ["cuda:0"], GPUS)
    assert not planner.holds([replace(mine, rate_per_s=1_500), neighbour], ["cuda:0"], GPUS)
    assert not planner.holds([replace(mine, rate_per_s=5_000)], ["cuda:0"], GPUS)


wild_times = st.tuples(
    st.floats(0.1, 1e6), st.sampled_from([0.0, 0.1, 3.0, 100.0, 1e5]), st.sampled_from([1, 5, 50])
)


@given(
    st.lists(wild_times, min_size=4, max_size=4),
    st.sampled_from([0.0, 1.0, 50.0, 5_000.0, 1e5]),
    st.sampled_from([0.5, 20.0, 500.0]),
)
def test_whatever_was_measured_something_is_decided(
    times: list[tuple[float, float, int]], rate_per_s: float, slo_ms: float
) -> None:
    measured = [
        Measurement(rows, 100.0, median_us, median_us * (1 + spread), batches)
        for rows, (median_us, spread, batches) in zip(BUCKETS, times, strict=True)
    ]
    asked = [
        demand(name, rate_per_s, slo_ms, models={"cpu": LatencyModel.fit(measured)})
        for name in "ab"
    ]
    plan = Planner(Policy(turns=True)).plan(0.0, asked, CPU, {})
    assert [bool(reason(each)) for allotments in plan.values() for each in allotments] == [True] * 2
