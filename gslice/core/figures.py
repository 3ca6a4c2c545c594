"""Figures as people read them; `units` has the texts that can be read back exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


def milliseconds(duration_us: float) -> str:
    """A latency with three significant digits, such as `0.412 ms` or `12.3 ms`."""
    value = duration_us / 1000
    if value >= 1000:
        return f"{value / 1000:.2f} s"
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:.{digits}f} ms"


def megabytes(size_bytes: float) -> str:
    """A size for people, such as `12.3 MiB`."""
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def percent(share_percent: float) -> str:
    """A share for people, such as `25%`."""
    return f"{share_percent:.0f}%" if share_percent >= 10 else f"{share_percent:.2g}%"


def requested_share(min_percent: float, max_percent: float) -> str:
    """A share as it was asked for: `auto`, `25%`, or `20-60%`."""
    if min_percent == max_percent:
        return percent(min_percent)
    if max_percent - min_percent >= 99:
        return "auto"
    return f"{percent(min_percent).removesuffix('%')}-{percent(max_percent)}"


def shares_sum(shares: Mapping[str, tuple[float, int]]) -> str:
    """An addition such as `a 2 x 30% + b 40% = 100%`.

    Args:
        shares: By function, its share in percent, and on how many devices.
    """
    parts = (
        f"{name} {f'{count} x ' if count > 1 else ''}{percent:g}%"
        for name, (percent, count) in shares.items()
    )
    return f"{' + '.join(parts)} = {sum(p * count for p, count in shares.values()):g}%"
