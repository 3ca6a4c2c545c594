"""Groups of SMs: what shares are worth, who has which, and that nothing moves without need."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gslice.core.errors import ResourceExhausted
from gslice.device.sm_groups import Allotment, Split, divide

H100 = Split(groups=15, group_sms=8, sms=132)
NAMES = ("a", "b", "c", "d", "e")

splits = st.builds(
    lambda groups, each, rest: Split(groups, each, groups * each + rest),
    *(st.integers(len(NAMES), 80), st.integers(1, 16), st.integers(0, 40)),
)
shares = st.dictionaries(st.sampled_from(NAMES), st.floats(0.1, 100), min_size=1)
orders = st.lists(
    st.tuples(st.sampled_from(NAMES), st.one_of(st.none(), st.floats(0.1, 100))), max_size=12
)


def test_shares_of_an_h100() -> None:
    assert divide({"a": 100}, H100) == {"a": 15}
    assert divide({"a": 40}, H100) == {"a": 6}
    assert divide({"a": 0.1}, H100) == {"a": 1}
    assert divide({"a": 50, "b": 50}, H100) == {"a": 8, "b": 7}
    assert divide({"a": 100 / 3, "b": 100 / 3, "c": 100 / 3}, H100) == {"a": 5, "b": 5, "c": 5}
    assert divide({"a": 98, "b": 1, "c": 1}, H100) == {"a": 13, "b": 1, "c": 1}
    assert divide({"a": 100, "b": 50}, H100) == {"a": 10, "b": 5}  # they over-commit
    assert H100.effective_percent(15) == pytest.approx(90.909, abs=1e-3)


def test_who_was_rounded_up_stays_so() -> None:
    assert divide({"a": 50, "b": 50}, H100, {"a": 7, "b": 8}) == {"a": 7, "b": 8}


def test_more_functions_than_groups_are_refused() -> None:
    message = "2 functions cannot share 1 groups of 8 SMs"
    with pytest.raises(ResourceExhausted, match=message):
        divide({"a": 1, "b": 1}, Split(1, 8, 8))


@given(splits, shares)
def test_a_division_is_fair_and_fits(split: Split, shares: dict[str, float]) -> None:
    counts = divide(shares, split)
    together = sum(shares.values())
    assert min(counts.values()) >= 1
    assert sum(counts.values()) <= split.groups
    exact = {name: split.groups * share / max(100, together) for name, share in shares.items()}
    assert sum(counts.values()) >= int(sum(exact.values()) - 1e-6)
    for name, count in counts.items():  # nobody gets a whole group more than it should
        assert count < exact[name] + 1 + 1e-6
    if all(groups >= 1 for groups in exact.values()):  # nor less, if nobody is raised to one
        for name, count in counts.items():
            assert count > exact[name] - 1 - 1e-6


@given(splits, shares)
def test_a_division_is_stable(split: Split, shares: dict[str, float]) -> None:
    counts = divide(shares, split)
    assert divide(shares, split, counts) == counts


@given(splits, orders)
def test_groups_change_hands_only_where_they_must(
    split: Split, orders: list[tuple[str, float | None]]
) -> None:
    allotment = Allotment(split)
    shares: dict[str, float] = {}
    for name, share in orders:
        if share is None:
            allotment.give_back(name)
            shares.pop(name, None)
            assert allotment.held(name) == frozenset()
            continue
        shares[name] = share
        before = {other: allotment.held(other) for other in NAMES}
        counts = divide(shares, split, {n: len(held) for n, held in before.items() if held})
        for changed, groups in allotment.planned(name, share):
            assert changed == name or groups != before[changed]
            assert groups <= frozenset(range(split.groups))
            # In this order every group is free when it is taken.
            others = [allotment.held(other) for other in NAMES if other != changed]
            assert not any(groups & held for held in others)
            assert groups <= before[changed] or groups >= before[changed]
            allotment.take(changed, shares[changed], groups)
        for other in shares:
            assert len(allotment.held(other)) == counts[other]
            if counts[other] == len(before[other]):
                assert allotment.held(other) == before[other]


def test_a_plan_alone_changes_nothing() -> None:
    allotment = Allotment(H100)
    ((name, groups),) = allotment.planned("a", 20)
    assert (name, groups) == ("a", frozenset({0, 1, 2}))
    assert allotment.held("a") == frozenset()
    allotment.take("a", 20, groups)
    assert allotment.planned("a", 21) == [("a", groups)]
    assert allotment.planned("a", 7) == [("a", frozenset({0}))]
