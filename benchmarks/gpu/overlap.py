"""Do two lanes overlap copies and compute, at the number of hardware queues that MPS gives them?

`overlap_percent`: of the time that copies of one lane take, how much lies within the other lane's
kernels. An event before a piece is reached when the stream is, not when the hardware begins; so a
piece counts from its end backwards, for as long as it takes alone. What merely waited for the other
lane overlaps nothing then. `one_lane_us` and `two_lanes_us` are the same batches after each other
and in two lanes; `pump_*` the same of gslice's pump, from the first claim to the last DONE.

gslice leaves CUDA_DEVICE_MAX_CONNECTIONS alone, and MPS's own setting is 2. One queue for both
lanes shows what the setting does.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.common import Row
from benchmarks.gpu.mps import Client, Mps
from benchmarks.gpu.report import GpuReport
from benchmarks.gpu.step import Clock, main

CONNECTIONS = "CUDA_DEVICE_MAX_CONNECTIONS"
SERVED = "mps"
"""The arm that is as gslice's workers are."""
ARMS: Mapping[str, Mapping[str, str]] = {
    SERVED: {},
    "mps, 1 connection": {CONNECTIONS: "1"},
    "mps, 8 connections": {CONNECTIONS: "8"},
    "without mps": {},
}
OVERLAPS_PERCENT = 50.0
COMPUTE = "compute"

Interval = tuple[float, float]
"""Begin and end, in microseconds."""


@dataclass(frozen=True)
class Span:
    """A piece of a batch.

    Attributes:
        lane: Whose.
        batch: Of that lane, from 0.
        kind: One of `lanes.KINDS`.
        begin_us: When its stream got to it.
        end_us: When it was done.
    """

    lane: int
    batch: int
    kind: str
    begin_us: float
    end_us: float

    def active(self, alone_us: Mapping[str, float]) -> Interval:
        """When it certainly ran; before, it may have waited for the hardware."""
        return max(self.begin_us, self.end_us - alone_us[self.kind]), self.end_us


def overlap_percent(spans: Sequence[Span], alone_us: Mapping[str, float]) -> float:
    """See the module; only while both lanes have work."""
    lanes = {span.lane for span in spans}
    window = (
        max(min(span.begin_us for span in spans if span.lane == lane) for lane in lanes),
        min(max(span.end_us for span in spans if span.lane == lane) for lane in lanes),
    )
    copied_us = within_us = 0.0
    for copy in (span for span in spans if span.kind != COMPUTE):
        own = _common(copy.active(alone_us), window)
        copied_us += max(0.0, own[1] - own[0])
        for kernel in spans:
            if kernel.kind == COMPUTE and kernel.lane != copy.lane:
                both = _common(own, kernel.active(alone_us))
                within_us += max(0.0, both[1] - both[0])
    return round(100 * within_us / copied_us, 1) if copied_us else 0.0


def measure(report: GpuReport, clock: Clock) -> None:
    """A row for each arm; the spans are under `settings.traces`."""
    traces: dict[str, Any] = {}
    with Mps() as mps:
        for done, (name, environment) in enumerate(ARMS.items()):
            if traces and clock.left_s < 1.0:
                break
            attached = {} if name == "without mps" else mps.environment
            seconds = clock.share_s(len(ARMS) - done) / 2
            found = Client("lanes", {**attached, **environment}, seconds=seconds).finish()
            if "failed" in found:
                raise RuntimeError(f"{name}: {found['failed']}")
            traces[name] = {key: found.pop(key) for key in ("spans", "alone_us")}
            queues = environment.get(CONNECTIONS) or os.environ.get(CONNECTIONS, "unset")
            report.add(name, connections=queues, **figures(traces[name]), **found)
            report.setting(traces=traces)
            report.headline(headline(report.rows))


def figures(trace: Mapping[str, Any]) -> Row:
    """The figures of a trace."""
    alone_us = trace["alone_us"]
    found = overlap_percent(spans_of(trace), alone_us)
    pieces = {f"{kind.replace(' ', '_')}_us": us for kind, us in alone_us.items()}
    return {**pieces, "overlap_percent": found, "overlaps": found >= OVERLAPS_PERCENT}


def spans_of(trace: Mapping[str, Any]) -> list[Span]:
    """The pieces of a trace, as a result file has them."""
    return [Span(*span) for span in trace["spans"]]


def headline(rows: Sequence[Row]) -> str:
    """Whether lanes overlap where gslice's workers run, and elsewhere."""
    served, *others = rows
    verb = "overlap" if served["overlaps"] else "do not overlap"
    saved = round(100 * (1 - served["pump_two_lanes_us"] / served["pump_one_lane_us"]))
    told = [
        f"two lanes under MPS {verb}: {served['overlap_percent']:g} % of copy time lies in the"
        f" other lane's compute; the pump takes {saved} % less time with two"
    ]
    told += [f"{row['name']}: {row['overlap_percent']:g} %" for row in others]
    return "; ".join(told)


def _common(one: Interval, other: Interval) -> Interval:
    return max(one[0], other[0]), min(one[1], other[1])


if __name__ == "__main__":
    main("overlap", measure)
