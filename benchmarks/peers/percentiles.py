"""Percentiles of latencies, by an HDR histogram: three digits at every magnitude."""

from __future__ import annotations

from collections.abc import Iterable

from hdrh.histogram import HdrHistogram

HIGHEST_NS = 10 * 60 * 1_000_000_000
DIGITS = 3
PERCENTILES = {"p50_us": 50.0, "p99_us": 99.0, "p999_us": 99.9}


def percentiles_us(latencies_ns: Iterable[int]) -> dict[str, float | None]:
    """The percentiles of rows; None where so few values are no evidence for one.

    Raises:
        ValueError: A latency is negative, or longer than the histogram reaches.
    """
    histogram = HdrHistogram(1, HIGHEST_NS, DIGITS)
    for latency_ns in latencies_ns:
        if not histogram.record_value(latency_ns):
            raise ValueError(f"a latency of {latency_ns} ns is outside 0 to {HIGHEST_NS} ns")
    count = histogram.get_total_count()
    found = histogram.get_percentile_to_value_dict(list(PERCENTILES.values())) if count else {}
    return {
        name: found[percent] / 1e3 if count >= values_needed(percent) else None
        for name, percent in PERCENTILES.items()
    }


def values_needed(percent: float) -> int:
    """How many values have one beyond the percentile."""
    return round(100 / (100 - percent))
