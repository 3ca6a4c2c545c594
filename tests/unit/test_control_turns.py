"""Turns in time: when they are taken, with which shares, and how steady that is."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gslice.control.demand import Allotment, Demand, DeviceShares, Policy
from gslice.control.division import Part, divide
from gslice.control.explain import predicted_p99_us, reason
from gslice.control.ladder import Ladders
from gslice.control.latency import LatencyModel, Measurement
from gslice.control.plan import Planner
from gslice.control.turns import best_turns, keeps_all, late_in_turns, turns_of
from gslice.control.waiting import NO_WAIT
from gslice.core.types import ShareBounds

GPU = DeviceShares("cuda:0")
POLICY = Policy(turns=True)


def model(work_us: float, widest_percent: float = 60.0) -> LatencyModel:
    """Of batches that take `work_us` a row on the whole device, and no less with a part of it."""
    return LatencyModel.fit(
        [
            Measurement(rows, share, time_us, 1.05 * time_us, 50)
            for rows in (1, 2, 4, 8)
            for share in (10.0, 20.0, 40.0, 60.0, 100.0)
            for time_us in [
                work_us * (1 + 0.5 * rows) * widest_percent / min(share, widest_percent)
            ]
        ]
    )


SHORT, LONG = model(1_000.0), model(4_000.0)
MODELS = {"short": SHORT, "long": LONG, "free": SHORT}


def demand(name: str, rate_per_s: float, slo_ms: float, **other: object) -> Demand:
    made = Demand(name, rate_per_s, slo_ms * 1e3, rows_max=8, models={"cuda:0": SHORT})
    return replace(made, **other)  # type: ignore[arg-type]


def tight(rate_per_s: float = 60.0, count: int = 3) -> list[Demand]:
    """Each needs about half of the device for its SLO, and is busy a tenth of the time."""
    return [demand(f"f{i}", rate_per_s, 4.5) for i in range(count)]


def parts(*demands: Demand) -> list[Part]:
    ladders = Ladders()
    return [Part(each, ladders.of(each, GPU, POLICY.margin)) for each in demands]


def plan(planner: Planner, *demands: Demand, now_s: float = 0.0, **current: list[Allotment]):
    return planner.plan(now_s, demands, {"cuda:0": GPU}, current)


def test_turns_keep_slos_that_shares_side_by_side_cannot() -> None:
    decided = plan(Planner(POLICY), *tight())
    shares = [each[0].share_percent for each in decided.values()]
    assert sum(shares) > 100
    assert max(shares) <= 100
    assert all(each[0].turns and not each[0].shed_us for each in decided.values())
    assert "in turns" in reason(decided["f0"][0])
    alone = decided["f0"][0].part
    assert alone is not None
    assert alone.ladder is not None
    p99_us = predicted_p99_us(decided["f0"][0])
    assert alone.ladder.predicted_p99_us(shares[0], 60) < p99_us <= 4_500


def test_nobody_takes_turns_unless_the_policy_allows_it() -> None:
    decided = plan(Planner(), *tight())
    assert sum(each[0].share_percent for each in decided.values()) <= 100
    assert not any(each[0].turns for each in decided.values())


def test_shares_side_by_side_are_better_where_they_suffice() -> None:
    decided = plan(Planner(POLICY), *tight(count=2), demand("loose", 20, 50))
    assert not any(each[0].turns for each in decided.values())


def test_turns_do_not_help_whose_batches_fill_the_device() -> None:
    decided = plan(Planner(POLICY), *tight(500))
    assert not any(each[0].turns for each in decided.values())
    assert sum(each[0].share_percent for each in decided.values()) <= 100


@pytest.mark.parametrize(
    "other",
    [
        demand("new", 10, 50, models={}),
        demand("pinned", 10, 50, bounds=ShareBounds(20.0, 20.0, auto=False)),
        demand("two", 10, 50, instances=2),
    ],
)
def test_of_whom_it_is_not_known_what_he_does_to_others_none_take_turns(other: Demand) -> None:
    assert best_turns(parts(*tight(), other), GPU, POLICY) is None


def test_who_was_promised_nothing_always_finds_room() -> None:
    free = demand("free", 100, 0.0)
    shares = best_turns(parts(*tight(30), free), GPU, POLICY)
    assert shares is not None
    assert 0 < shares["free"] <= 100 - max(shares[f"f{i}"] for i in range(3))


def test_a_long_batch_of_another_is_waited_for() -> None:
    short = parts(*tight(30))
    long = parts(*tight(30), demand("long", 20, 100, models={"cuda:0": LONG}))
    shares = dict.fromkeys(("f0", "f1", "f2"), 60.0)
    assert late_in_turns(short, shares, GPU, POLICY) < 0.01
    assert late_in_turns(long, {**shares, "long": 60.0}, GPU, POLICY) > 0.04


def test_turns_begin_and_end_seldom() -> None:
    generator, planner = random.Random(1), Planner(POLICY)
    current: dict[str, list[Allotment]] = {}
    seen = []
    for tick in range(240):
        rate = 55 * generator.uniform(0.9, 1.1) if tick < 160 else 5.0
        current = plan(planner, *tight(rate), now_s=tick / 2, **current)
        seen.append((current["f0"][0].turns, current["f0"][0].share_percent))
    assert all(turns for turns, _ in seen[:160])
    assert len({share for _, share in seen[:160]}) <= 2
    assert not any(turns for turns, _ in seen[161:])


def test_an_estimate_that_overshoots_does_not_end_turns() -> None:
    planner, current, seen = Planner(POLICY), {}, []
    for tick in range(24):
        rate = 400.0 if 2 <= tick < 6 or tick >= 16 else 55.0
        current = plan(planner, *tight(rate), now_s=tick / 2, **current)
        seen.append(current["f0"][0].turns)
    assert all(seen[:16])
    assert not any(seen[16:])  # what lasts, ends them


@pytest.mark.parametrize("left", [0, 1, 2])
def test_who_is_left_while_shares_are_on_their_way_waits_for_nobody_else(left: int) -> None:
    planner, changing = Planner(POLICY), replace(GPU, changing=True)
    current = plan(planner, *tight())
    assert all(each[0].turns for each in current.values())
    decided = planner.plan(1.0, tight(count=left), {"cuda:0": changing}, current)
    shares = {name: each[0].share_percent for name, each in decided.items()}
    assert shares == {f"f{i}": current[f"f{i}"][0].share_percent for i in range(left)}
    if left == 1:
        assert decided["f0"][0].turn == NO_WAIT


def test_what_was_put_off_is_sought_later_though_nothing_changes() -> None:
    planner = Planner(POLICY)
    plan(planner, *tight(500), now_s=20.0)  # in vain
    current: dict[str, list[Allotment]] = {}
    seen = []
    for now_s in (21.0, 21.5, 30.0, 30.5):
        current = plan(planner, *tight(), now_s=now_s, **current)
        seen.append(current["f0"][0].turns)
    assert seen == [False, False, True, True]


@pytest.mark.parametrize(("rate_per_s", "swing"), [(8, 4), (62, 8)])
def test_a_load_around_an_edge_does_not_switch_to_and_fro(rate_per_s: float, swing: float) -> None:
    """Peaks are told as `ArrivalEstimator` does: for 100 s."""
    planner, current, switches, before = Planner(POLICY), {}, 0, False
    history: list[list[float]] = []
    for tick in range(400):
        history.append([rate_per_s + swing * math.sin(tick / 5 + i) for i in range(3)])
        peaks = np.max(history[-200:], axis=0)
        demands = [
            demand(f"f{i}", rate, 4.5, peak_per_s=peak)
            for i, (rate, peak) in enumerate(zip(history[-1], peaks, strict=True))
        ]
        current = plan(planner, *demands, now_s=tick / 2, **current)
        switches += current["f0"][0].turns != before
        before = current["f0"][0].turns
    assert switches <= 2


loads = st.lists(
    st.tuples(
        st.floats(20, 80), st.floats(4, 8), st.sampled_from(["short", "short", "long", "free"])
    ),
    min_size=3,
    max_size=5,
)


@settings(max_examples=settings.default.max_examples // 5)
@given(loads)
def test_never_worse_than_side_by_side(asked: list[tuple[float, float, str]]) -> None:
    promised = {"short": 1.0, "long": 4.0, "free": 0.0}
    here = parts(
        *(
            demand(f"f{i}", rate, promised[kind] * slo_ms, models={"cuda:0": MODELS[kind]})
            for i, (rate, slo_ms, kind) in enumerate(asked)
        )
    )
    side = divide(here, GPU, POLICY)
    shares = turns_of(here, side, {}, GPU, POLICY, taking=False, rested=True)
    assume(shares is not None)
    assert shares is not None
    assert not keeps_all(here, side)  # else nobody would wait for anybody
    assert late_in_turns(here, shares, GPU, POLICY) <= 0.01
    assert shares.keys() == side.keys()
    beside = sum(shares[p.demand.name] for p in here if not p.promised)
    assert max(shares[p.demand.name] for p in here if p.promised) + beside <= 100 + 1e-6
