"""A load, and the figures of one turn under it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.peers.percentiles import percentiles_us
from benchmarks.peers.server import Usage

DRIVER = "driver"
H2LOAD = "h2load"
PERF_ANALYZER = "perf_analyzer"


@dataclass(frozen=True)
class Load:
    """How requests come.

    Attributes:
        client: Who sends them.
        concurrency: Calls in flight of a closed loop; 0: it is open.
        percent: Of an open loop: its rate, of the slower server's peak under our driver.
        rate_per_s: The same, absolute.
    """

    client: str
    concurrency: int = 0
    percent: int = 0
    rate_per_s: float = 0.0

    @property
    def is_open(self) -> bool:
        """Requests come whether or not others were answered."""
        return not self.concurrency

    @property
    def name(self) -> str:
        """In rows."""
        return f"open {self.percent} %" if self.is_open else f"closed {self.concurrency}"


@dataclass(frozen=True)
class Turn:
    """One run of one load on one server.

    Attributes:
        rps: Answers a second.
        latencies_us: Percentiles; None where too few requests came for one.
        late_p99_us: How late the driver itself sent, of an open loop.
        errors: Requests that failed.
        example: The first error.
        cpu_us_per_request: Processor time of all the server's processes; None: a client that does
            not tell how many requests it sent.
        rss_bytes: Their resident memory, at the end of the turn.
        pss_bytes: Likewise, shared pages divided.
    """

    rps: float
    latencies_us: dict[str, float | None]
    late_p99_us: float | None
    errors: int
    example: str
    cpu_us_per_request: float | None
    rss_bytes: int
    pss_bytes: int

    @classmethod
    def of(
        cls,
        rps: float,
        latencies_ns: Sequence[int],
        late_ns: Sequence[int],
        errors: int,
        example: str,
        before: Usage,
        after: Usage,
    ) -> Turn:
        """From what a client saw, and what the server had taken before and after."""
        asked = len(latencies_ns) + errors
        return cls(
            rps=rps,
            latencies_us=percentiles_us(latencies_ns),
            late_p99_us=percentiles_us(late_ns)["p99_us"],
            errors=errors,
            example=example,
            cpu_us_per_request=(after.cpu_us - before.cpu_us) / max(1, asked),
            rss_bytes=after.rss_bytes,
            pss_bytes=after.pss_bytes,
        )

    def figures(self) -> dict[str, float | None]:
        """What rows have medians of."""
        return {
            "rps": self.rps,
            **self.latencies_us,
            "server_cpu_us_per_request": self.cpu_us_per_request,
            "server_rss_bytes": self.rss_bytes,
            "server_pss_bytes": self.pss_bytes,
            "late_p99_us": self.late_p99_us,
        }
