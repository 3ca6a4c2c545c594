"""What a front-end logs of single requests."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from gslice.frontend.journal import Journal


class DataPath:
    """One that kept a record of a request that failed."""

    def take_records(self) -> tuple[list[Any], int]:
        times = (1, 2, 0, 0, 0, 0, 3)
        text = "no input 'x\x1b[2J'"
        return [
            (False, bytes(16), bytes(8), "f", "1", "a\n2026 INFO all is well", 1, 3, text, times)
        ], 0


def test_no_request_writes_lines_of_its_own(caplog) -> None:
    async def look() -> None:
        journal = Journal(DataPath(), None)  # type: ignore[arg-type]
        journal.look()
        journal._task.cancel()

    with caplog.at_level(logging.DEBUG, "gslice.frontend"):
        asyncio.run(look())
    (record,) = caplog.records
    assert record.getMessage() == (
        "request a\ufffd2026 INFO all is well to f failed with 3: no input 'x\ufffd[2J'"
    )
    assert record.request_id == "a\n2026 INFO all is well"  # JSON has its own way
