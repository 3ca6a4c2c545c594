"""The figure that autoscalers go by."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gslice.control.need import demand_ratios, need_percent
from gslice.core.types import ShareBounds
from tests.unit.test_control_plan import demand, plan


def test_what_is_needed_follows_the_rate_not_the_share() -> None:
    (quiet,) = plan(demand("a", 20)).values()
    (busy,) = plan(demand("a", 400)).values()
    assert quiet.share_percent == busy.share_percent == 100  # nobody else wants it
    assert 0 < need_percent(quiet) < need_percent(busy) < 100


def test_beyond_the_whole_device_it_grows_with_the_rate() -> None:
    (much,) = plan(demand("a", 3_000)).values()
    (twice,) = plan(demand("a", 6_000)).values()
    assert much.capacity_per_s < 3_000
    assert need_percent(much) > 100
    assert need_percent(twice) == pytest.approx(2 * need_percent(much))


def test_what_is_fixed_or_not_measured_counts_as_it_is() -> None:
    pinned = demand("a", 20, bounds=ShareBounds(37.0, 37.0, auto=False))
    (fixed,) = plan(pinned).values()
    assert need_percent(fixed) == 37
    (new,) = plan(demand("a", 20, models={})).values()
    assert need_percent(new) == new.share_percent
    (hopeless,) = plan(demand("a", 20, slo_ms=0.1)).values()
    assert need_percent(hopeless) == hopeless.share_percent


def test_ratios_are_of_what_gslice_may_use() -> None:
    decided = {name: [each] for name, each in plan(demand("a", 100), demand("b", 200)).items()}
    whole = demand_ratios(decided, {"cpu": 100.0})
    assert whole["b", "cpu"] == need_percent(decided["b"][0]) / 100
    half = demand_ratios(decided, {"cpu": 50.0})
    assert half == {key: ratio * 2 for key, ratio in whole.items()}
    assert demand_ratios({"a": [replace(decided["a"][0], device="gone")]}, {"cpu": 100.0}) == {}
