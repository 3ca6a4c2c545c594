"""Groups of SMs: what shares are worth, who has which, and that nobody moves for somebody else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gslice.core.errors import ResourceExhausted
from gslice.device.sm_groups import BESIDE, Allotment, Seat, Split

H100 = Split(groups=15, group_sms=8, sms=132)
NAMES = ("a", "b", "c", "d", "e")

splits = st.builds(
    lambda groups, each, rest: Split(groups, each, groups * each + rest),
    *(st.integers(len(NAMES), 80), st.integers(1, 16), st.integers(0, 40)),
)
orders = st.lists(
    st.tuples(st.sampled_from(NAMES), st.one_of(st.none(), st.floats(0.1, 100))), max_size=12
)


def ask(
    allotment: Allotment, name: str, share: float, *, number: int = 0, edition: str = ""
) -> int:
    """Takes what a share is worth, as one holder for each edition; how many groups that is."""
    seat, holder = Seat(name, number), f"{name}{number}{edition}"
    groups = allotment.planned(holder, seat, share)
    allotment.take(holder, seat, share, groups)
    return len(groups)


def test_shares_of_an_h100() -> None:
    for shares, counts in (
        ([100], [15]),
        ([40], [6]),
        ([0.1], [1]),
        ([50, 50], [7, 8]),
        ([100 / 3, 100 / 3, 100 / 3], [5, 5, 5]),
        ([30, 30, 40], [4, 5, 6]),
        ([1, 1, 98], [1, 1, 13]),
    ):
        allotment = Allotment(H100)
        assert [ask(allotment, n, s) for n, s in zip("abc", shares, strict=False)] == counts
    assert H100.effective_percent(15) == pytest.approx(90.909, abs=1e-3)


def test_who_grows_gets_what_others_gave_back_and_keeps_its_own() -> None:
    allotment = Allotment(H100)
    ask(allotment, "a", 60)
    ask(allotment, "b", 40)
    before = allotment.held("a0"), allotment.held("b0")
    assert ask(allotment, "a", 20) == 3
    assert ask(allotment, "b", 80) == 12
    assert allotment.held("a0") < before[0]
    assert allotment.held("b0") > before[1]


def test_editions_of_a_function_are_on_the_same_groups() -> None:
    allotment = Allotment(H100)
    ask(allotment, "a", 60, edition="old")
    ask(allotment, "b", 40)
    assert ask(allotment, "a", 60, edition="new") == 9
    assert allotment.held("a0new") == allotment.held("a0old")
    assert ask(allotment, "a", 20, edition="new") == 3  # the old one counts no more, though there
    assert ask(allotment, "b", 80) == 12
    assert not allotment.held("b0") & allotment.held("a0new")
    allotment.give_back("a0new")
    assert ask(allotment, "a", 20, edition="old") == 3


def test_instances_of_a_function_have_groups_of_their_own() -> None:
    allotment = Allotment(H100)
    ask(allotment, "a", 50, number=0)
    ask(allotment, "a", 50, number=1)
    assert not allotment.held("a0") & allotment.held("a1")


def test_who_is_measured_takes_nothing_away() -> None:
    allotment = Allotment(H100)
    ask(allotment, "a", 100)
    assert ask(allotment, "a", 40, number=BESIDE) == 6
    assert ask(allotment, "a", 100) == 15
    assert ask(allotment, "b", 100, number=BESIDE) == 15


def test_more_instances_than_groups_are_refused() -> None:
    allotment = Allotment(Split(1, 8, 8))
    ask(allotment, "a", 1)
    with pytest.raises(ResourceExhausted, match="2 instances cannot share 1 groups of 8 SMs"):
        allotment.planned("b0", Seat("b"), 1)


@given(splits, orders)
def test_only_who_asks_gets_others_and_they_are_free(
    split: Split, orders: list[tuple[str, float | None]]
) -> None:
    """As the daemon orders: together they are never more than 100."""
    allotment = Allotment(split)
    shares: dict[str, float] = {}
    for name, share in orders:
        if share is None:
            allotment.give_back(f"{name}0")
            shares.pop(name, None)
            assert allotment.held(f"{name}0") == frozenset()
            continue
        others = {n: allotment.held(f"{n}0") for n in shares if n != name}
        left = 100 - sum(s for n, s in shares.items() if n != name)
        if share > left:
            continue
        mine, exact = allotment.held(f"{name}0"), split.worth(share)
        shares[name] = share
        count = ask(allotment, name, share)
        now = allotment.held(f"{name}0")
        assert {n: allotment.held(f"{n}0") for n in others} == others
        taken = frozenset().union(*others.values())
        assert not now & taken or len(taken) == split.groups
        assert now <= mine or mine <= now
        assert 1 <= count < max(1, exact) + 1
        assert allotment.planned(f"{name}0", Seat(name), share) == now


def test_a_plan_alone_changes_nothing() -> None:
    allotment = Allotment(H100)
    groups = allotment.planned("a", Seat("a"), 20)
    assert groups == frozenset({0, 1, 2})
    assert allotment.held("a") == frozenset()
    allotment.take("a", Seat("a"), 20, groups)
    assert allotment.planned("a", Seat("a"), 21) == groups
    assert allotment.planned("a", Seat("a"), 7) == frozenset({0})
