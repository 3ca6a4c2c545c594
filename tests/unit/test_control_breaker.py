from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gslice.control.breaker import SECOND_US, Breaker, RestartPolicy


def test_the_first_restart_is_immediate_then_delays_double_then_it_gives_up() -> None:
    breaker = Breaker()
    delays = [breaker.death(second * SECOND_US) for second in range(5)]
    assert delays == [0, 100_000, 200_000, 400_000, None]


def test_old_deaths_are_forgotten() -> None:
    breaker = Breaker()
    assert [breaker.death(n * 60 * SECOND_US) for n in range(20)] == [0] * 20


def test_who_had_served_for_a_while_did_not_die_in_a_loop() -> None:
    breaker = Breaker(RestartPolicy(settled_us=10))
    deaths = [(0, 0), (1, 9), (2, 9), (12, 10), (13, 0), (30, 11), (41, 10)]
    delays = [breaker.death(now, served_us=served) for now, served in deaths]
    assert delays == [0, 100_000, 200_000, 0, 100_000, 0, 0]


def test_reset_gives_another_try() -> None:
    breaker = Breaker(RestartPolicy(deaths_max=2))
    assert [breaker.death(0), breaker.death(1)] == [0, None]
    breaker.reset()
    assert breaker.death(2) == 0


def test_each_of_several_has_deaths_of_its_own() -> None:
    breaker = Breaker(RestartPolicy(deaths_max=2))
    assert [breaker.death(0, 3) for _ in range(6)] == [0, 0, 0, 100_000, 100_000, None]


def test_a_loop_that_goes_on_is_still_one() -> None:
    breaker = Breaker(RestartPolicy(deaths_max=2))
    assert [breaker.death(now) for now in range(5)] == [0, None, None, None, None]


@given(gaps=st.lists(st.integers(0, 100 * SECOND_US), max_size=50))
def test_never_more_restarts_in_a_window_than_allowed(gaps: list[int]) -> None:
    policy = RestartPolicy()
    breaker, now, restarts = Breaker(policy), 0, []
    for gap in gaps:
        now += gap
        delay = breaker.death(now)
        if delay is None:
            break
        assert 0 <= delay <= policy.max_delay_us
        restarts.append(now)
    for start in restarts:
        inside = [t for t in restarts if start <= t < start + policy.window_us]
        assert len(inside) < policy.deaths_max
