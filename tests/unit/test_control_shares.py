from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gslice.control.shares import allocate, allocate_all, shrinks_first
from gslice.core.errors import ResourceExhausted
from gslice.core.types import ShareBounds

AUTO = ShareBounds()
NAMES = st.text("abcdefgh", min_size=1, max_size=3)


def fixed(percent: float) -> ShareBounds:
    return ShareBounds(percent, percent, auto=False)


@st.composite
def fitting(draw: st.DrawFn, limit: int = 100) -> dict[str, ShareBounds]:
    """Requests whose minima are no more than that."""
    names = draw(st.lists(NAMES, min_size=1, max_size=min(8, limit), unique=True))
    left = limit - len(names)
    requests = {}
    for name in draw(st.permutations(names)):
        low = 1 + draw(st.integers(0, left))
        left -= low - 1
        high = draw(st.integers(low, 100))
        requests[name] = ShareBounds(low, high, auto=low != high)
    return requests


limited = st.integers(1, 100).flatmap(lambda n: st.tuples(fitting(n), st.just(n)))


@given(limited)
def test_shares_stay_in_bounds_and_use_what_can_be_used(
    drawn: tuple[dict[str, ShareBounds], int],
) -> None:
    requests, limit = drawn
    granted = allocate(requests, limit)
    assert granted.keys() == requests.keys()
    for name, share in granted.items():
        assert requests[name].min_percent - 1e-6 <= share <= requests[name].max_percent + 1e-6
    total = sum(granted.values())
    assert total <= limit + 1e-6
    unfilled = [n for n, b in requests.items() if granted[n] < b.max_percent - 1e-6]
    assert not unfilled or total >= limit - 1e-6


@given(limited)
def test_max_min_nobody_gains_but_from_somebody_poorer(
    drawn: tuple[dict[str, ShareBounds], int],
) -> None:
    requests, limit = drawn
    granted = allocate(requests, limit)
    for rich, rich_bounds in requests.items():
        if granted[rich] <= rich_bounds.min_percent + 1e-6:
            continue  # cannot give
        for poor, poor_bounds in requests.items():
            if granted[poor] < poor_bounds.max_percent - 1e-6:
                assert granted[poor] >= granted[rich] - 1e-6


@given(requests=fitting(), data=st.data())
def test_the_order_of_requests_does_not_matter(
    requests: dict[str, ShareBounds], data: st.DataObject
) -> None:
    shuffled = dict(data.draw(st.permutations(list(requests.items()))))
    assert allocate(shuffled) == allocate(requests)


@given(before=fitting(), after=fitting())
def test_no_step_of_a_change_over_commits(
    before: dict[str, ShareBounds], after: dict[str, ShareBounds]
) -> None:
    old, new = allocate(before), allocate(after)
    current = {name: share for name, share in old.items() if name in new}
    for name, share in shrinks_first(current, new):
        current[name] = share
        assert sum(current.values()) <= 100 + 1e-6
    assert current == pytest.approx(new)


def test_a_lone_auto_function_gets_everything() -> None:
    assert allocate({"a": AUTO}, 80) == {"a": 80}


def test_autos_share_equally_what_fixed_shares_leave() -> None:
    assert allocate({"a": AUTO, "b": fixed(40), "c": AUTO}) == {"a": 30, "b": 40, "c": 30}


def test_a_maximum_passes_its_rest_on() -> None:
    assert allocate({"a": ShareBounds(1, 10), "b": AUTO, "c": AUTO}) == {"a": 10, "b": 45, "c": 45}


def test_over_commit_shows_the_sum() -> None:
    with pytest.raises(ResourceExhausted, match=r"a 60% \+ b 50% = 110%.*limit of 100%"):
        allocate({"a": fixed(60), "b": fixed(50)})


# ---- several devices -----------------------------------------------------------------------------

by_device = st.integers(1, 100).flatmap(
    lambda n: st.tuples(st.dictionaries(st.sampled_from("xyz"), fitting(n), min_size=1), st.just(n))
)


def tied(drawn: dict[str, dict[str, ShareBounds]]) -> dict[str, dict[str, ShareBounds]]:
    """The same, where each function asks for the same on all of its devices."""
    first: dict[str, ShareBounds] = {}
    for functions in drawn.values():
        for name, bounds in functions.items():
            first.setdefault(name, bounds)
    return {device: {n: first[n] for n in functions} for device, functions in drawn.items()}


@given(by_device)
def test_a_replicated_function_has_one_share_that_every_device_can_give(
    drawn: tuple[dict[str, dict[str, ShareBounds]], int],
) -> None:
    requests, limit = tied(drawn[0]), drawn[1]
    for functions in requests.values():  # what was asked for on one device may not fit on others
        assume(sum(b.min_percent for b in functions.values()) <= limit)
    shares = allocate_all(requests, dict.fromkeys(requests, float(limit)))
    for functions in requests.values():
        for name, bounds in functions.items():
            assert bounds.min_percent - 1e-6 <= shares[name] <= bounds.max_percent + 1e-6
        assert sum(shares[name] for name in functions) <= limit + 1e-6
    # Nothing is left over where somebody who is only there could have it.
    for device, functions in requests.items():
        elsewhere = {n for d, others in requests.items() if d != device for n in others}
        alone = [n for n in functions if n not in elsewhere]
        hungry = [n for n in alone if shares[n] < functions[n].max_percent - 1e-6]
        assert not hungry or sum(shares[n] for n in functions) >= limit - 1e-6


@given(by_device)
def test_without_replicas_each_device_is_divided_by_itself(
    drawn: tuple[dict[str, dict[str, ShareBounds]], int],
) -> None:
    by_device, limit = drawn
    requests = {
        device: {f"{name} on {device}": bounds for name, bounds in functions.items()}
        for device, functions in by_device.items()
    }
    alone = [allocate(functions, limit, device) for device, functions in requests.items()]
    expected = {name: share for shares in alone for name, share in shares.items()}
    assert allocate_all(requests, dict.fromkeys(requests, float(limit))) == expected


def test_what_a_replicated_function_leaves_goes_to_the_others_there() -> None:
    requests = {"x": {"a": AUTO, "f": fixed(70)}, "y": {"a": AUTO, "b": AUTO}}
    limits = {"x": 100.0, "y": 100.0}
    assert allocate_all(requests, limits) == {"f": 70, "a": 30, "b": 70}
    with pytest.raises(ResourceExhausted, match="device y"):
        allocate_all({**requests, "y": {"a": AUTO, "b": fixed(100)}}, limits)
