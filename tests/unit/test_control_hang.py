from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gslice._native import Segment
from gslice.control.hang import HangWatch, Stamps

TIMEOUT_NS = 1000


def stamps(
    pump: int = 0, claim: int = 0, lanes: tuple[int, ...] = (0, 0), *, sleeping: bool = True
) -> Stamps:
    return Stamps(pump, claim, lanes, sleeping)


def test_stamps_are_what_the_segment_shows() -> None:
    segment = Segment.create("f", [(4096, 4)], 0, 0)
    instance = segment.add_instance()
    fresh = Stamps(**segment.instance_stamps(instance))
    assert (fresh.last_claim_ns, fresh.ready_since_ns, fresh.first_wait_ns) == (0, 0, -1)
    segment.flip(None, instance)
    assert Stamps(**segment.instance_stamps(instance)).ready_since_ns > 0


def test_an_idle_instance_never_hangs() -> None:
    watch = HangWatch(TIMEOUT_NS)
    idle = stamps(pump=5, claim=5)
    assert not any(watch.hangs(now, 0, idle) for now in range(10, 100_000, 500))


def test_a_lane_that_is_busy_too_long_hangs() -> None:
    watch = HangWatch(TIMEOUT_NS)
    assert not watch.hangs(1400, 0, stamps(lanes=(0, 500)))
    assert watch.hangs(1600, 0, stamps(lanes=(0, 500)))


def test_a_pump_that_does_not_turn_hangs_unless_it_sleeps() -> None:
    assert HangWatch(TIMEOUT_NS).hangs(2000, 0, stamps(pump=500, sleeping=False))
    assert not HangWatch(TIMEOUT_NS).hangs(2000, 0, stamps(pump=500, sleeping=True))
    assert not HangWatch(TIMEOUT_NS).hangs(2000, 0, stamps(pump=0, sleeping=False))


def test_a_queue_that_is_ignored_for_long_is_a_hang() -> None:
    watch = HangWatch(TIMEOUT_NS)
    assert [watch.hangs(now, 3, stamps(claim=7)) for now in (0, 500, 1000, 1001)] == [
        False,
        False,
        False,
        True,
    ]


def test_requests_after_a_long_idle_time_are_no_hang() -> None:
    watch = HangWatch(TIMEOUT_NS)
    assert not watch.hangs(0, 0, stamps(claim=7))
    assert not watch.hangs(50_000, 1, stamps(claim=7))
    assert not watch.hangs(50_900, 1, stamps(claim=7))


@given(steps=st.lists(st.tuples(st.integers(1, 400), st.integers(0, 5)), max_size=60))
def test_who_claims_between_looks_never_hangs(steps: list[tuple[int, int]]) -> None:
    watch, now = HangWatch(TIMEOUT_NS), 0
    for gap, queued in steps:
        now += gap
        assert not watch.hangs(now, queued, stamps(pump=now, claim=now))
