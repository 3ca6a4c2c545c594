"""Durations, sizes, percentages and rates: as people write them, and as code keeps them."""

from __future__ import annotations

import re
from decimal import Decimal

from gslice.core.errors import InvalidArgument

_US_BY_UNIT = {"us": 1, "ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000}
_BYTES_BY_UNIT = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-zµμ%]*)", re.ASCII)
_RATE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*/\s*(s|m|h)", re.ASCII)
_RATE_MIN_PER_S, _RATE_MAX_PER_S = 1 / 3600, 1e6
_DEVICES_MAX_PERCENT = 100_000
_INT64_MAX = 2**63 - 1


def parse_duration(text: str) -> int:
    """Microseconds of `30ms`, `5us`, `1.5s`, `1m`, `2h` or `0`.

    Raises:
        InvalidArgument: no number, no unit, another unit, finer than 1 us, or longer than 64 bits.
    """
    # µ has two code points, and both are typed.
    return _parse(text.replace("µ", "u").replace("μ", "u"), _US_BY_UNIT, "duration", "30ms", "1us")


def format_duration(duration_us: int) -> str:
    """The shortest text that `parse_duration` reads back exactly, such as `30ms`."""
    return _format(duration_us, _US_BY_UNIT, "0s")


def parse_size(text: str) -> int:
    """Bytes of `64KiB`, `1.5GiB`, `1GB`, `512B` or `0`: KB is 1000, KiB is 1024.

    Raises:
        InvalidArgument: no number, no unit, another unit, a part of a byte, or beyond 64 bits.
    """
    return _parse(text, _BYTES_BY_UNIT, "size", "64MiB", "1B")


def format_size(size_bytes: int) -> str:
    """The shortest text that `parse_size` reads back exactly, such as `64KiB`."""
    return _format(size_bytes, _BYTES_BY_UNIT, "0B")


def parse_percent(text: str) -> float:
    """The number of `40%` or `12.5%`, above 0 and at most 100.

    Raises:
        InvalidArgument: no number, no percent sign, or out of range.
    """
    number, unit = _split(text, "percentage", "40%")
    if unit != "%":
        raise InvalidArgument(f"{text!r} has no percent sign; write it as 40%")
    if not 0 < number <= 100:
        raise InvalidArgument(f"{text!r} is out of range; write more than 0% and at most 100%")
    return float(number)


def parse_devices_percent(text: str) -> float:
    """The number of `40%` or `250%`, where 100% is one device; above 0.

    Raises:
        InvalidArgument: no number, no percent sign, 0, or more than the largest node has.
    """
    number, unit = _split(text, "percentage", "150%, which is one device and a half")
    if unit != "%":
        raise InvalidArgument(f"{text!r} has no percent sign; write it as 150%")
    if not 0 < number <= _DEVICES_MAX_PERCENT:
        raise InvalidArgument(
            f"{text!r} is out of range; write more than 0% and at most {_DEVICES_MAX_PERCENT}%"
        )
    return float(number)


def format_percent(percent: float) -> str:
    """The text that `parse_percent` reads back exactly, such as `40%`."""
    plain = format(Decimal(repr(float(percent))), "f")  # repr is exact, but may hold an exponent
    return f"{plain.removesuffix('.0')}%"


def parse_rate(text: str) -> float:
    """How many a second, of `200/s`, `30/m` or `5/h`.

    Raises:
        InvalidArgument: no number, another unit, or out of range.
    """
    match = _RATE.fullmatch(text.strip())
    if match is None:
        raise InvalidArgument(f"{text!r} is not a rate; write it as 200/s, 30/m or 5/h")
    per_s = float(match[1]) / (_US_BY_UNIT[match[2]] // 1_000_000)
    if not _RATE_MIN_PER_S <= per_s <= _RATE_MAX_PER_S:
        raise InvalidArgument(f"{text!r} is out of range; write at least 1/h and at most 1000000/s")
    return per_s


def format_rate(per_s: float) -> str:
    """The text that `parse_rate` reads back exactly, such as `200/s`."""
    return f"{format_percent(per_s).removesuffix('%')}/s"


def _split(text: str, what: str, example: str) -> tuple[Decimal, str]:
    match = _QUANTITY.fullmatch(text.strip())
    if match is None:
        raise InvalidArgument(f"{text!r} is not a {what}; write it as {example}")
    return Decimal(match[1]), match[2]


def _parse(text: str, units: dict[str, int], what: str, example: str, finest: str) -> int:
    number, unit = _split(text, what, example)
    if not unit and number == 0:
        return 0
    if not unit:
        raise InvalidArgument(f"{text!r} has no unit; write it as {example}")
    if unit not in units:
        near = next((known for known in units if known.lower() == unit.lower()), None)
        advice = f"did you mean {near!r}?" if near else f"use {', '.join(units)}"
        raise InvalidArgument(f"{text!r} has unknown unit {unit!r}; {advice}")
    scaled = number * units[unit]
    if scaled != int(scaled):
        raise InvalidArgument(f"{text!r} is finer than {finest}, the smallest step of a {what}")
    if scaled > _INT64_MAX:
        raise InvalidArgument(f"{text!r} is too large for a {what}")
    return int(scaled)


def _format(amount: int, units: dict[str, int], zero: str) -> str:
    if amount == 0:
        return zero
    texts = [f"{amount // scale}{unit}" for unit, scale in units.items() if amount % scale == 0]
    return min(texts, key=len)
