from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gslice.core.errors import InvalidArgument
from gslice.core.units import (
    format_duration,
    format_percent,
    format_size,
    parse_duration,
    parse_percent,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "us"),
    [
        ("5us", 5),
        ("5µs", 5),
        ("5μs", 5),
        ("30ms", 30_000),
        ("1.5ms", 1_500),
        ("2s", 2_000_000),
        ("1m", 60_000_000),
        ("2h", 7_200_000_000),
        (" 10 ms ", 10_000),
        ("0", 0),
        ("0.001ms", 1),
    ],
)
def test_durations(text: str, us: int) -> None:
    assert parse_duration(text) == us


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1B", 1),
        ("64KiB", 65_536),
        ("1GB", 10**9),
        ("60GiB", 60 * 2**30),
        ("1.5MiB", 3 * 2**19),
        ("1KB", 1000),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(("text", "percent"), [("40%", 40.0), ("12.5%", 12.5), ("100%", 100.0)])
def test_percentages(text: str, percent: float) -> None:
    assert parse_percent(text) == percent


@pytest.mark.parametrize(
    ("parse", "text", "told"),
    [
        (parse_duration, "30", "'30' has no unit; write it as 30ms"),
        (parse_duration, "30 msec", "unknown unit 'msec'; use us, ms, s, m, h"),
        (parse_duration, "3S", "unknown unit 'S'; did you mean 's'?"),
        (parse_duration, "soon", "'soon' is not a duration; write it as 30ms"),
        (parse_duration, "", "'' is not a duration"),
        (parse_duration, "-1s", "'-1s' is not a duration"),
        (parse_duration, "0.5us", "finer than 1us"),
        (parse_duration, "9" * 30 + "s", "too large"),
        (parse_duration, "1e3s", "is not a duration"),
        (parse_duration, "\u0661s", "is not a duration"),
        (parse_size, "64", "'64' has no unit; write it as 64MiB"),
        (parse_size, "1gb", "unknown unit 'gb'; did you mean 'GB'?"),
        (parse_size, "0.5B", "finer than 1B"),
        (parse_percent, "0.4", "has no percent sign; write it as 40%"),
        (parse_percent, "0%", "out of range"),
        (parse_percent, "101%", "out of range"),
        (parse_percent, "all", "is not a percentage"),
    ],
)
def test_errors_say_what_was_wrong_and_what_to_write(parse, text: str, told: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse(text)
    assert told in caught.value.message
    assert "\n" not in caught.value.message


@given(st.integers(0, 2**62))
def test_every_duration_survives_the_round_trip(us: int) -> None:
    assert parse_duration(format_duration(us)) == us


@given(st.integers(0, 2**62))
def test_every_size_survives_the_round_trip(size: int) -> None:
    assert parse_size(format_size(size)) == size


@given(st.floats(min_value=0, max_value=100, exclude_min=True))
def test_every_percentage_survives_the_round_trip(percent: float) -> None:
    assert parse_percent(format_percent(percent)) == percent


@pytest.mark.parametrize(
    ("format_", "value", "text"),
    [
        (format_duration, 90_000_000, "90s"),
        (format_duration, 60_000_000, "1m"),
        (format_duration, 0, "0s"),
        (format_size, 65_536, "64KiB"),
        (format_size, 10**9, "1GB"),
        (format_percent, 40.0, "40%"),
    ],
)
def test_text_is_the_shortest(format_, value: float, text: str) -> None:
    assert format_(value) == text
