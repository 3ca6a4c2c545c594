"""Tenants' share quotas: in the division without an SLO, and in the controller's."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gslice.control.demand import Allotment, Demand, DeviceShares, Policy
from gslice.control.explain import reason
from gslice.control.plan import Planner
from gslice.control.quotas import Quotas, fit, tied
from gslice.control.shares import Holding, allocate_all
from gslice.core.access import ShareQuota
from gslice.core.errors import ResourceExhausted
from gslice.core.types import ShareBounds
from tests.unit.test_control_plan import GPUS, anywhere, demand, model
from tests.unit.test_control_shares import AUTO, fixed

SHOP, LAB = ShareQuota("shop", 40.0), ShareQuota("lab", 60.0)
LIMITS = dict.fromkeys("xyz", 100.0)
NAMES = "abcdef"

# ---- without an SLO ------------------------------------------------------------------------------


@st.composite
def nodes(
    draw: st.DrawFn,
) -> tuple[dict[str, dict[str, ShareBounds]], dict[ShareQuota, dict[str, Holding]]]:
    """Functions on one to three devices, each nobody's or one tenant's."""
    requests: dict[str, dict[str, ShareBounds]] = {}
    holdings: dict[ShareQuota, dict[str, Holding]] = {}
    quotas = [ShareQuota(name, draw(st.integers(1, 300))) for name in ("shop", "lab")]
    for name in draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True)):
        low = draw(st.integers(1, 30))
        bounds = ShareBounds(low, draw(st.integers(low, 100)))
        devices = draw(st.lists(st.sampled_from("xyz"), min_size=1, unique=True))
        for device in devices:
            requests.setdefault(device, {})[name] = bounds
        if quota := draw(st.sampled_from([None, *quotas])):
            holdings.setdefault(quota, {})[name] = Holding(bounds, len(devices))
    return requests, holdings


def is_feasible(
    requests: dict[str, dict[str, ShareBounds]], holdings: dict[ShareQuota, dict[str, Holding]]
) -> bool:
    return all(
        sum(bounds.min_percent for bounds in functions.values()) <= 100
        for functions in requests.values()
    ) and all(
        sum(each.bounds.min_percent * each.devices for each in held.values()) <= quota.percent
        for quota, held in holdings.items()
    )


def held_of(held: dict[str, Holding], shares: dict[str, float]) -> float:
    return sum(shares[name] * each.devices for name, each in held.items())


@given(node=nodes())
def test_what_is_feasible_is_divided_and_never_over_a_quota(node) -> None:
    requests, holdings = node
    if not is_feasible(requests, holdings):
        with pytest.raises(ResourceExhausted):
            allocate_all(requests, LIMITS, holdings)
        return
    shares = allocate_all(requests, LIMITS, holdings)
    for quota, held in holdings.items():
        assert held_of(held, shares) <= quota.percent + 1e-6
    for functions in requests.values():
        assert sum(shares[name] for name in functions) <= 100 + 1e-6
        for name, bounds in functions.items():
            assert bounds.min_percent - 1e-6 <= shares[name] <= bounds.max_percent + 1e-6


@given(node=nodes(), ample=st.integers(1_000, 10_000))
def test_an_ample_quota_changes_nothing(node, ample: int) -> None:
    requests, holdings = node
    assume(is_feasible(requests, {}))
    wide = {replace(quota, percent=float(ample)): held for quota, held in holdings.items()}
    assert allocate_all(requests, LIMITS, wide) == pytest.approx(allocate_all(requests, LIMITS))


@given(node=nodes(), more=st.integers(1, 100))
def test_of_a_larger_quota_the_poorest_of_all_has_no_less(node, more: int) -> None:
    requests, holdings = node
    assume(is_feasible(requests, holdings))
    wider = {replace(quota, percent=quota.percent + more): h for quota, h in holdings.items()}
    before, after = (allocate_all(requests, LIMITS, each) for each in (holdings, wider))
    assert min(after.values()) >= min(before.values()) - 1e-6


@given(bounds=st.lists(st.integers(1, 20), min_size=1, max_size=5), more=st.integers(1, 100))
def test_on_one_device_a_larger_quota_is_more_for_its_tenant(bounds: list[int], more: int) -> None:
    requests = {f"f{i}": ShareBounds(low, 100) for i, low in enumerate(bounds)}
    held = {name: Holding(each) for name, each in requests.items()}
    assume(sum(bounds) <= 50)
    asked = {"x": requests | {"other": AUTO}}

    def mine(percent: float) -> float:
        shares = allocate_all(asked, LIMITS, {ShareQuota("shop", percent): held})
        return held_of(held, shares)

    assert mine(50.0) <= mine(50.0 + more) + 1e-6


def test_each_replica_counts_and_the_error_says_how_often() -> None:
    requests = {"x": {"a": fixed(30), "b": AUTO}, "y": {"a": fixed(30)}}
    held = {"a": Holding(fixed(30), 2), "b": Holding(AUTO)}
    shares = allocate_all(requests, LIMITS, {ShareQuota("shop", 80.0): held})
    assert shares == {"a": 30, "b": 20}
    with pytest.raises(ResourceExhausted) as caught:
        allocate_all(requests, LIMITS, {ShareQuota("shop", 60.0): held})
    assert "tenant shop: a 2 x 30% + b 1% = 61%, more than its share quota of 60%" in str(
        caught.value
    )
    assert "node.access.tenants.shop.share" in (caught.value.hint or "")


def test_what_a_quota_leaves_goes_to_others() -> None:
    requests = {"x": {"a": AUTO, "b": AUTO, "c": AUTO}}
    held = {"a": Holding(AUTO), "b": Holding(AUTO)}
    shares = allocate_all(requests, LIMITS, {SHOP: held})
    assert shares == pytest.approx({"a": 20, "b": 20, "c": 60})


# ---- turns ---------------------------------------------------------------------------------------


def test_in_turns_no_more_counts_than_runs_at_once() -> None:
    quotas = Quotas({"a": LAB, "b": LAB, "c": LAB}, LIMITS)
    shares = {"x": {"a": 80.0, "b": 80.0}, "y": {"c": 10.0}}
    assert quotas.taken(shares) == {LAB: 110.0}
    assert quotas.overdrawn(shares) == [LAB]
    ((names, room),) = quotas.rooms("x", shares)
    assert (names, room) == ({"a", "b"}, 50.0)
    assert fit({"a": 20, "b": 30}, [(names, room)], 100)
    assert not fit({"a": 20, "b": 31}, [(names, room)], 100)
    assert fit({"a": 80, "b": 80}, [(names, 100.0)], 100)


# ---- the controller's ----------------------------------------------------------------------------


def total(decided: dict[str, list[Allotment]], quota: ShareQuota) -> float:
    return sum(
        each.share_percent
        for allotments in decided.values()
        for each in allotments
        if each.part is not None and each.part.demand.quota == quota
    )


@st.composite
def demands(draw: st.DrawFn) -> list[Demand]:
    """Of functions on two GPUs, some of them the only ones that a tenant may use."""
    found = []
    for name in draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=5, unique=True)):
        low = draw(st.sampled_from([1.0, 5.0, 10.0]))
        here = draw(st.sampled_from([("cuda:0",), ("cuda:1",), ("cuda:0", "cuda:1")]))
        found.append(
            anywhere(
                name,
                draw(st.sampled_from([1, 50, 400, 2_000])),
                slo_ms=draw(st.sampled_from([0.0, 8.0, 50.0])),
                priority=draw(st.sampled_from(["high", "normal", "low"])),
                bounds=ShareBounds(low, draw(st.sampled_from([low, 50.0, 100.0]))),
                replicas_min=len(here),
                replicas_max=len(here),
                quota=draw(st.sampled_from([None, ShareQuota("shop", 60.0), LAB])),
            )
        )
        found[-1] = replace(found[-1], devices=here)
    return found


TWO = {name: GPUS[name] for name in ("cuda:0", "cuda:1")}


@settings(deadline=None, max_examples=60)
@given(looks=st.lists(demands(), min_size=1, max_size=4))
def test_decisions_keep_within_quotas_whatever_comes(looks: list[list[Demand]]) -> None:
    planner, decided = Planner(Policy(turns=True)), dict[str, list[Allotment]]()
    for look, wanted in enumerate(looks):
        decided = planner.plan(look * 7.0, wanted, TWO, decided)
        limits = {name: device.limit_percent for name, device in TWO.items()}
        quotas = Quotas({each.name: each.quota for each in wanted if each.quota}, limits)
        shares: dict[str, dict[str, float]] = {}
        for name, allotments in decided.items():
            for each in allotments:
                shares.setdefault(each.device, {})[name] = each.share_percent
        least = {
            device: {n: next(d for d in wanted if d.name == n).bounds.min_percent for n in own}
            for device, own in shares.items()
        }
        rounded = {d: {n: -(-m // 2.5) * 2.5 for n, m in own.items()} for d, own in least.items()}
        if not quotas.overdrawn(rounded):
            assert not quotas.overdrawn(shares)


@settings(deadline=None, max_examples=40)
@given(looks=st.lists(demands(), min_size=1, max_size=3))
def test_a_quota_that_nobody_reaches_changes_no_decision(looks: list[list[Demand]]) -> None:
    ample, free = Planner(Policy(turns=True)), Planner(Policy(turns=True))
    before: list[dict[str, list[Allotment]]] = [{}, {}]
    for look, wanted in enumerate(looks):
        with_ = [replace(each, quota=ShareQuota("shop", 10_000.0)) for each in wanted]
        without = [replace(each, quota=None) for each in wanted]
        one = ample.plan(look * 7.0, with_, TWO, before[0])
        other = free.plan(look * 7.0, without, TWO, before[1])
        assert [told(each) for each in one.values()] == [told(each) for each in other.values()]
        before = [one, other]


def told(allotments: list[Allotment]) -> list[Allotment]:
    return [replace(each, part=None) for each in allotments]


def test_a_quota_goes_where_it_is_needed_and_the_rest_to_others() -> None:
    decided = Planner().plan(
        0.0,
        [
            demand("busy", 900, quota=SHOP),
            demand("calm", 10, quota=SHOP),
            demand("other", 900),
        ],
        {"cpu": DeviceShares("cpu")},
        {},
    )
    busy, calm, other = (decided[name][0] for name in ("busy", "calm", "other"))
    assert busy.share_percent > calm.share_percent
    assert busy.share_percent + calm.share_percent <= 40
    assert busy.share_percent + calm.share_percent + other.share_percent > 95
    assert not other.short


def test_who_is_short_by_its_quota_is_told_so() -> None:
    decided = Planner().plan(
        0.0, [demand("busy", 2_000, quota=SHOP)], {"cpu": DeviceShares("cpu")}, {}
    )
    (busy,) = decided["busy"]
    assert busy.share_percent == 40
    assert busy.shed_us > 0
    assert "tenant shop may have 40%" in reason(busy)


def test_a_quota_holds_over_devices() -> None:
    wanted = [
        replace(anywhere("a", 900, quota=LAB), devices=("cuda:0",)),
        replace(anywhere("b", 900, quota=LAB), devices=("cuda:1",)),
        replace(anywhere("c", 900), devices=("cuda:1",)),
    ]
    decided = Planner().plan(0.0, wanted, TWO, {})
    assert total(decided, LAB) <= 60
    assert decided["a"][0].share_percent == pytest.approx(decided["b"][0].share_percent, abs=2.5)
    assert decided["c"][0].share_percent >= 60


def test_turns_begin_only_within_the_quota() -> None:
    tight = model(1_000.0)
    wanted = [
        replace(demand(name, 60, slo_ms=7.0), models={"cpu": tight}) for name in ("a", "b", "c")
    ]
    device = {"cpu": DeviceShares("cpu")}
    free = Planner(Policy(turns=True)).plan(0.0, wanted, device, {})
    assert sum(each[0].share_percent for each in free.values()) > 100
    for percent, turns in ((100.0, True), (80.0, False)):
        held = [replace(each, quota=ShareQuota("shop", percent)) for each in wanted]
        decided = Planner(Policy(turns=True)).plan(0.0, held, device, {})
        assert all(each[0].turns == turns for each in decided.values())


def test_devices_that_share_a_quota_are_decided_together() -> None:
    wanted = [
        replace(anywhere("a", 10, quota=LAB), devices=("cuda:0",)),
        replace(anywhere("b", 10, quota=LAB), devices=("cuda:1",)),
        replace(anywhere("c", 10, quota=SHOP), devices=("cuda:1",)),
        replace(anywhere("d", 10, quota=SHOP), devices=("cuda:2",)),
    ]
    assert tied(wanted, {"cuda:0"}) == {"cuda:0", "cuda:1", "cuda:2"}
    assert tied(wanted[:1], {"cuda:0"}) == {"cuda:0"}
    assert tied([replace(each, quota=None) for each in wanted], {"cuda:0"}) == {"cuda:0"}
