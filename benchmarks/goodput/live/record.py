"""What clients and samples of the status say of a run, in the simulation's books."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.goodput.simulate import LOOK_US, Run
from benchmarks.goodput.state import ANSWERED, ARRIVED, EXPIRED, LATE, SHED
from benchmarks.goodput.workloads import Workload
from benchmarks.load import Call

_CHANGE_PERCENT = 0.01
_REFUSALS = ("overload: ", "the queue of ")


@dataclass(frozen=True)
class Sample:
    """The node at some moment.

    Attributes:
        at_s: Since the beginning.
        shares_percent: Effective, by function.
        busy_s: Processor time of the workers so far.
        control_s: Of the daemon.
    """

    at_s: float
    shares_percent: Mapping[str, float]
    busy_s: float
    control_s: float


@dataclass(frozen=True)
class Recording:
    """What a run gave.

    Attributes:
        workload: What was asked.
        start_s: When it began, by `time.perf_counter`.
        calls: All requests, by function.
        samples: In order.
        cores: Of the device.
    """

    workload: Workload
    start_s: float
    calls: Mapping[str, Sequence[Call]]
    samples: Sequence[Sample]
    cores: int = 1

    def run(self) -> Run:
        """The same books as the simulation's."""
        times_s = [sample.at_s for sample in self.samples]
        edges_s = np.arange(_windows(self.workload) + 1) * LOOK_US / 1e6
        busy_s = np.interp(edges_s, times_s, [sample.busy_s for sample in self.samples])
        return Run(
            counts=self.counts(),
            busy_us=np.diff(busy_s)[:, np.newaxis] * 1e6 / self.cores,
            resizes=self.share_changes(),
            control_s=self.samples[-1].control_s - self.samples[0].control_s,
            seconds=times_s[-1] - times_s[0],
        )

    def counts(self) -> NDArray[np.int64]:
        """By window of the arrival, function and column of `state`."""
        windows = _windows(self.workload)
        counts = np.zeros((windows, len(self.workload.functions), 5), np.int64)
        for place, asked in enumerate(self.workload.functions):
            for call in self.calls[asked.name]:
                window = min(int((call.due_s - self.start_s) * 1e6 / LOOK_US), windows - 1)
                here = counts[window, place]
                here[ARRIVED] += 1
                here[EXPIRED] += call.lost
                here[SHED] += bool(call.error)
                if not (call.lost or call.error):
                    here[ANSWERED] += 1
                    here[LATE] += latency_ms(call) > asked.slo_ms
        return counts

    def failures(self) -> Counter[str]:
        """Errors that say anything but that there was too much to do; there should be none."""
        errors = (call.error for calls in self.calls.values() for call in calls if call.error)
        return Counter(error for error in errors if not any(why in error for why in _REFUSALS))

    def share_changes(self) -> int:
        """How often a function's share was seen to be another."""
        return sum(
            abs(after.shares_percent[name] - share) > _CHANGE_PERCENT
            for before, after in itertools.pairwise(self.samples)
            for name, share in before.shares_percent.items()
        )


def latency_ms(call: Call) -> float:
    """From when it was due; NaN: it was not answered."""
    return 1e3 * (call.answered_s - call.due_s)


def _windows(workload: Workload) -> int:
    return round(workload.seconds * 1e6 / LOOK_US)
