from __future__ import annotations

import pytest

from gslice.core.figures import megabytes, milliseconds, percent, requested_share


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (milliseconds(412.3), "0.412 ms"),
        (milliseconds(1234), "1.23 ms"),
        (milliseconds(12_345), "12.3 ms"),
        (milliseconds(123_456), "123 ms"),
        (milliseconds(1_234_567), "1.23 s"),
        (megabytes(512), "512 B"),
        (megabytes(12.3 * 2**20), "12.3 MiB"),
        (megabytes(2**31), "2.0 GiB"),
        (percent(25), "25%"),
        (percent(0.5), "0.5%"),
        (requested_share(1, 100), "auto"),
        (requested_share(25, 25), "25%"),
        (requested_share(20, 60), "20-60%"),
        (requested_share(20, 100), "20-100%"),
    ],
)
def test_figures_for_people(shown: str, expected: str) -> None:
    assert shown == expected
