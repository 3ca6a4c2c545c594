"""Changes to demands, as `gslice plan --what-if` takes them."""

from __future__ import annotations

import pytest

from gslice.control.demand import Demand
from gslice.control.whatif import WhatIf, what_if
from gslice.core.errors import InvalidArgument, NotFound

DEMANDS = [Demand("a", 10.0, 50_000.0), Demand("b.c", 20.0)]


def changed(*changes: str) -> dict[str, tuple[float, float]]:
    found = what_if(DEMANDS, [WhatIf.parse(change) for change in changes])
    return {demand.name: (demand.rate_per_s, demand.slo_us) for demand in found}


@pytest.mark.parametrize(
    ("changes", "a", "other"),
    [
        ((), (10.0, 50_000.0), (20.0, 0.0)),
        (("a.rate=200",), (200.0, 50_000.0), (20.0, 0.0)),
        (("b.c.rate=1.5x",), (10.0, 50_000.0), (30.0, 0.0)),
        (("rate=2x",), (20.0, 50_000.0), (40.0, 0.0)),
        (("a.slo=20ms", "a.slo=2x"), (10.0, 40_000.0), (20.0, 0.0)),
        (("rate=5", "a.rate=7"), (7.0, 50_000.0), (5.0, 0.0)),
    ],
)
def test_changes(
    changes: tuple[str, ...], a: tuple[float, float], other: tuple[float, float]
) -> None:
    assert changed(*changes) == {"a": a, "b.c": other}


@pytest.mark.parametrize("text", ["", "a.rate", "a.share=20%", "rate=fast", "a.slo=20", "=3"])
def test_what_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        WhatIf.parse(text)


def test_nobody_of_that_name() -> None:
    with pytest.raises(NotFound, match="there is no function z") as caught:
        changed("z.rate=1")
    assert caught.value.hint == "functions: a, b.c"


def test_a_rate_comes_evenly_unless_it_is_times_the_one_that_there_is() -> None:
    bursty = Demand("a", 100.0, peak_per_s=300.0)
    (half,) = what_if([bursty], [WhatIf.parse("rate=0.5x")])
    (ten,) = what_if([bursty], [WhatIf.parse("rate=10")])
    assert (half.rate_per_s, half.busiest_per_s) == (50, 150)
    assert (ten.rate_per_s, ten.busiest_per_s) == (10, 10)
