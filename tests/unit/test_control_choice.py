"""Where a function goes of which no rate is known."""

from __future__ import annotations

import pytest

from gslice.control.choice import choose
from gslice.core.types import ShareBounds

AUTO = ShareBounds()
LIMITS = {"a": 100.0, "b": 100.0, "c": 50.0}


def pinned(percent: float) -> ShareBounds:
    return ShareBounds(percent, percent, auto=False)


@pytest.mark.parametrize(
    ("there", "most", "fewest"),
    [
        ({}, "a", "a"),
        ({"a": {"x": AUTO}}, "b", "a"),
        ({"a": {"x": AUTO}, "b": {"y": AUTO, "z": AUTO}}, "a", "a"),
        ({"a": {"x": AUTO}, "b": {"y": pinned(70)}}, "a", "a"),
        ({"a": {"x": pinned(60)}, "b": {"y": AUTO}}, "b", "a"),
        ({"a": {"x": pinned(100)}, "b": {"y": pinned(100)}}, "c", "c"),
        ({"a": {"f": AUTO}, "b": {"y": AUTO}}, "a", "a"),
    ],
)
def test_where_it_gets_most_or_the_first_that_holds_it(there, most: str, fewest: str) -> None:
    assert choose("f", AUTO, list(LIMITS), there, LIMITS, "headroom") == most
    assert choose("f", AUTO, list(LIMITS), there, LIMITS, "fewest") == fewest


def test_what_fits_nowhere_goes_to_the_first_where_that_is_told() -> None:
    there = {device: {"x": pinned(40)} for device in LIMITS}
    assert choose("f", pinned(70), list(LIMITS), there, LIMITS, "headroom") == "a"


def test_what_is_better_comes_first_among_equals() -> None:
    assert choose("f", AUTO, ["b", "a"], {}, LIMITS, "headroom") == "b"
