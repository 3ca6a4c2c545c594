"""How long requests take when batches are made of whatever is queued: the distribution."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import erfc, exp, hypot, inf, log, sqrt
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from gslice.control.latency import LatencyModel
    from gslice.control.latency_table import Curve

_Z99 = 2.3263
_BUSY_MAX = 0.995
_LEVELS = (0.0, 0.5, 0.8, 0.92, 0.975, 1.0)
_GROUP_LEVELS = (0.0, 0.4, 0.7, 0.85, 0.93, 0.97, 0.99, 1.0)
_SIEGMUND = 0.583
_SMALL_BATCH = 16
_FEEDBACK_MAX = 0.9
_FEEDBACK_STEPS = 3
_AVERAGING = 1.5


@dataclass(frozen=True)
class Load:
    """What arrives at a function, and who takes it.

    Attributes:
        rate_per_s: Of requests.
        instances: That pull from the function's one queue.
        rows_per_request: On average.
        burstiness: Index of dispersion of counts; 1: Poisson.
        delay_us: How long a batch that is not full waits for more.
    """

    rate_per_s: float
    instances: int = 1
    rows_per_request: float = 1.0
    burstiness: float = 1.0
    delay_us: float = 0.0


class Wait(NamedTuple):
    """How long something waits: on average, and at the 99th percentile."""

    mean_us: float
    p99_us: float


NO_WAIT = Wait(0.0, 0.0)


class _Case(NamedTuple):
    """One of the ways a request can meet the function: its probability, and what follows."""

    weight: float
    wait_us: float
    own_us: float
    deviation_us: float

    def late(self, within_us: float) -> float:
        """The part of such requests that takes longer."""
        return _above(within_us - self.wait_us, self.own_us, self.deviation_us)


class Prediction:
    """The distribution of a request's latency in a steady state.

    An instance that is free claims all that is queued, up to the batch limit. So a request's time
    is the rest of the batch that is running, the batches that those before it fill, and its own
    batch, which is the larger the longer it waited:

    - Typical batch `n = x + exp(-x)`, `x` the arrivals in its time: bulk service of all that is
      queued, or of the first that comes (the `exp(-x)`).
    - All instances busy: `busy ** (sqrt(2 (c + 1)) - 1)` (Sakasegawa 1977). The rest of the batch
      that ends first: the least of `c` uniform ones, of a batch longer than the average (length
      bias). Own batch: log-normal, of what arrives since the last claim, whose variance feeds back
      into itself through the batch's time.
    - More than a batch queued: a random walk of arrivals less a full batch a turn. It is above
      zero as Siegmund (1985) and Spitzer (1956) have it for Gaussian steps, and falls off at the
      root of Lundberg's equation, for compound Poisson arrivals. Close to capacity that is
      Kingman's heavy-traffic limit.
    - Burstiness `I`: requests come in groups of geometric size, at one instant, with mean
      `(I + 1) / 2`, which gives counts that index of dispersion.

    The combination is ours; tests hold it against a simulation. Times in us.

    Args:
        model: Of a batch.
        share_percent: Of one instance.
        batch_rows_max: The most rows that a batch may have.
        load: What arrives.
        turn: How long a batch waits until it may begin: it then takes so much longer.

    Attributes:
        batch_us: Time of a typical batch, once it has begun.
        batches_per_s: How many begin.
    """

    def __init__(
        self,
        model: LatencyModel,
        share_percent: float,
        batch_rows_max: int,
        load: Load,
        turn: Wait = NO_WAIT,
    ) -> None:
        self._load = load
        self._turn = turn
        self._mean: Curve = model.mean_curve(share_percent)
        self._tail: Curve = model.p99_curve(share_percent)
        self._rate = load.rate_per_s / 1e6
        self._full = max(1.0, batch_rows_max / load.rows_per_request)
        self._full_us = self._mean_us(self._full)
        self.capacity_per_s = load.instances * self._full / self._full_us * 1e6
        self.is_stable = load.rate_per_s < _BUSY_MAX * self.capacity_per_s
        # A member of a group is followed by another one with this probability.
        self._again = (load.burstiness - 1) / (load.burstiness + 1)
        if self.is_stable:
            self._set_up()

    def late(self, within_us: float) -> float:
        """The part of requests that takes longer."""
        if not self.is_stable:
            return 1.0
        alone = sum(case.weight * case.late(within_us) for case in self._idle_cases)
        if not self._rate:
            return alone
        busy = 0.0
        for case in self._busy_cases:
            over_us = within_us - case.wait_us - self._full_us * (1 + 0.5 / self._load.instances)
            beyond = self._beyond * exp(-max(0.0, over_us) / self._beyond_us)
            busy += case.weight * max(case.late(within_us), beyond)
        return (1 - self._all_busy) * alone + self._all_busy * busy

    def percentile_us(self, percentile: float) -> float:
        """What that part of requests takes at most; infinite if the queue grows forever."""
        if not self.is_stable:
            return inf
        low_us, high_us = 0.0, self._mean_us(1.0)
        while self.late(high_us) > 1 - percentile:
            low_us, high_us = high_us, 2 * high_us
        while high_us - low_us > 0.002 * high_us:
            middle_us = (low_us + high_us) / 2
            if self.late(middle_us) > 1 - percentile:
                low_us = middle_us
            else:
                high_us = middle_us
        return high_us

    def _mean_us(self, requests: float) -> float:
        return self._turn.mean_us + self._mean.time_us(requests * self._load.rows_per_request)

    def _mean_and_deviation_us(self, requests: float) -> tuple[float, float]:
        rows, turn = requests * self._load.rows_per_request, self._turn
        mean_us = self._mean.time_us(rows)
        deviation_us = max(0.0, self._tail.time_us(rows) - mean_us)
        if turn is not NO_WAIT:
            deviation_us = hypot(deviation_us, turn.p99_us - turn.mean_us)
        return turn.mean_us + mean_us, deviation_us / _Z99

    def _set_up(self) -> None:
        full, instances = self._full, self._load.instances
        delay_us = self._delay_us()
        typical = self._typical_batch()
        typical_us = self._mean_us(typical)
        self.batch_us = typical_us - self._turn.mean_us
        self.batches_per_s = self._load.rate_per_s / typical
        claimed = min(full, self._rate * typical_us / instances)
        busy = min(1.0, self._rate * typical_us / (instances * typical))
        self._idle_cases = self._cases_of_idle(delay_us, busy)
        if not self._rate:
            return
        self._all_busy: float = busy ** (sqrt(2 * (instances + 1)) - 1)
        slope_us, feedback = self._feedback(typical, typical_us)
        self._busy_cases = self._cases_of_busy(typical, slope_us, feedback, delay_us)
        self._set_up_queue(claimed, feedback)

    def _delay_us(self) -> float:
        """How long a batch waits for more, unless enough come, which may take them long."""
        missing = self._full - 1
        slow = missing + _Z99 * sqrt(missing * self._load.burstiness)
        return min(self._load.delay_us, slow / self._rate if self._rate else inf)

    def _typical_batch(self) -> float:
        rate = self._rate / self._load.instances
        group = (self._load.burstiness + 1) / 2
        low, high = 1.0, self._full
        while high - low > 0.02 * high:
            middle = (low + high) / 2
            arrived = rate * self._mean_us(middle)
            if arrived + group * exp(-arrived / group) > middle:
                low = middle
            else:
                high = middle
        return high

    def _slope_us(self, requests: float) -> float:
        """What one request more adds to a batch."""
        low, high = max(1.0, requests - 1), min(self._full, requests + 1)
        return (self._mean_us(high) - self._mean_us(low)) / (high - low) if high > low else 0.0

    def _feedback(self, typical: float, typical_us: float) -> tuple[float, float]:
        """What a request more adds to the batches of a bad moment, and how much that feeds back.

        A longer batch makes the next one longer; instances average it out. Small batches may cost
        the same whatever their size, and large ones not: what counts is the way from the typical
        batch to one that is rarely exceeded, which is the longer the more feeds back.
        """
        slope_us = self._slope_us(typical)
        arrived = self._load.burstiness * self._rate * typical_us
        arrived /= self._load.instances
        feedback = 0.0
        for _ in range(_FEEDBACK_STEPS):
            feedback = self._rate * slope_us / self._load.instances**_AVERAGING
            feedback = min(_FEEDBACK_MAX, feedback)
            large = min(self._full, typical + _Z99 * sqrt(arrived / (1 - feedback**2)))
            steeper_us = slope_us
            if large > typical:
                longer_us = self._mean_us(large) - typical_us
                steeper_us = max(slope_us, longer_us / (large - typical))
            if steeper_us == slope_us:
                break
            slope_us = steeper_us
        return slope_us, feedback

    def _spread(self, requests: float, variance: float) -> float:
        """The deviation of a batch's size, such that its tail ends at a full batch."""
        return min(sqrt(variance), (self._full - requests) / _Z99)

    def _cases_of_idle(self, delay_us: float, busy: float) -> list[_Case]:
        """An instance is free: the own group decides."""
        full, instances = self._full, self._load.instances
        joining = self._rate * delay_us

        def case(weight: float, wait_us: float, requests: float) -> _Case:
            own = min(full, requests)
            spread_us = self._slope_us(own) * self._spread(own, self._load.burstiness * joining)
            own_us, deviation_us = self._mean_and_deviation_us(own)
            return _Case(weight, wait_us, own_us, hypot(deviation_us, spread_us))

        if self._again <= 0:
            return [case(1.0, delay_us, 1 + joining)]
        cases = []
        for low, high in pairwise(_GROUP_LEVELS):
            level = (low + high) / 2
            ahead = int(log(1 - level) / log(self._again))
            group = max(1.0, _two_exponentials(level) / -log(self._again))
            turns = int(ahead / (full * instances) + busy)
            own = group + joining if ahead < full else full
            cases.append(case(high - low, delay_us + turns * self._full_us, own))
        return cases

    def _cases_of_busy(
        self, typical: float, slope_us: float, feedback: float, delay_us: float
    ) -> list[_Case]:
        """All instances run: how long the first of them still will, in some quantiles."""
        instances, group, rate = self._load.instances, self._load.burstiness, self._rate
        per_us = group * rate / (1 - feedback**2)  # variance of what arrives, feedback included
        stretch = per_us * slope_us / instances
        long = min(self._full, typical + stretch)
        long_us, long_deviation_us = self._mean_and_deviation_us(long)
        before_us = slope_us * self._spread(long, per_us * long_us / instances)
        cases = []
        for low, high in pairwise(_LEVELS):
            rest = 1 - (1 - (low + high) / 2) ** (1 / instances)
            wait_us = max(rest * long_us, delay_us)
            since_us = wait_us + (1 - rest) * long_us / instances
            own = min(self._full, group + rate * since_us)
            mean_us, deviation_us = self._mean_and_deviation_us(own)
            variance = deviation_us**2 + (rest * long_deviation_us) ** 2
            own_us = slope_us * self._spread(own, per_us * since_us)
            variance += own_us**2 + (rest * before_us) ** 2
            variance += 2 * feedback * rest * own_us * before_us
            cases.append(_Case(high - low, wait_us, mean_us, sqrt(variance)))
        return cases

    def _set_up_queue(self, claimed: float, feedback: float) -> None:
        """How often more than a batch is queued, and how the wait for it falls off."""
        full, instances = self._full, self._load.instances
        arrived = self._rate * self._full_us / instances
        service = (self._rate / instances * self._mean_and_deviation_us(full)[1]) ** 2
        step = sqrt(self._load.burstiness * arrived + service) / sqrt(1 - feedback**2)
        beyond = _reach((full - claimed) / step)
        if full <= _SMALL_BATCH:
            beyond = max(beyond, _surplus(claimed, int(full)))
        beyond += (1 - beyond) * self._again**full
        # A group meets the queue that others of it make. The root is what simulations suggest.
        self._beyond: float = min(1.0, beyond * sqrt(self._load.burstiness))
        decay = _decay(round(arrived, 4), full, round(self._again, 4), round(service, 4))
        self._beyond_us = self._full_us / (instances * full * decay)


def _above(time_us: float, mean_us: float, deviation_us: float) -> float:
    """The tail of a log-normal time with that mean and deviation."""
    if time_us <= 0:
        return 1.0
    if deviation_us <= 0:
        return 1.0 if time_us < mean_us else 0.0
    square = log(1 + (deviation_us / mean_us) ** 2)
    return 0.5 * erfc((log(time_us / mean_us) + square / 2) / sqrt(2 * square))


def _reach(drift: float) -> float:
    """How likely a Gaussian walk that falls by `drift` deviations a step is above its start."""
    if drift < 0.7:
        return exp(-2 * _SIEGMUND * drift)
    return 1 - exp(-sum(0.5 * erfc(sqrt(k / 2) * drift) / k for k in (1, 2, 3, 4)))


def _surplus(arrived: float, full: int) -> float:
    """The part of Poisson arrivals that comes after the first `full` of its turn."""
    chance, short = exp(-arrived), 0.0
    for count in range(full):
        short += (full - count) * chance
        chance *= arrived / (count + 1)
    return (arrived - full + short) / arrived


@lru_cache(maxsize=4096)
def _decay(arrived: float, full: float, again: float, service: float) -> float:
    """Lundberg's exponent a request: where a turn's arrivals and its service cancel."""
    low, high = 0.0, -log(again) if again > 0 else 50.0
    for _ in range(20):
        middle = (low + high) / 2
        grown = exp(middle)
        group = (1 - again) * grown / (1 - again * grown)
        groups = arrived * (1 - again)
        if groups * (group - 1) + service * middle**2 / 2 > full * middle:
            high = middle
        else:
            low = middle
    return low or high  # service that varies beyond measure: it falls off, if hardly


@lru_cache(maxsize=len(_GROUP_LEVELS))
def _two_exponentials(level: float) -> float:
    """The quantile of the sum of two exponential times of mean 1."""
    time = 1.0
    for _ in range(60):
        time = -log((1 - level) / (1 + time))
    return time
