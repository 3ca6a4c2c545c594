"""Single requests that the data path recorded: traces go to a collector, failures to the log."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gslice import _native
    from gslice.frontend.settings import Settings
    from gslice.frontend.traces import Traces

log = logging.getLogger("gslice.frontend")

_PERIOD_S = 1.0
_LINES_MAX = 100  # a period


class Stamps(NamedTuple):
    """Moments of a request's life in ns of the monotonic clock; 0: it did not come so far."""

    received: int
    queued: int
    claimed: int
    compute: int
    computed: int
    done: int
    answered: int


class Record(NamedTuple):
    """As `take_records` gives it."""

    traced: bool
    trace_id: bytes
    parent_id: bytes
    function: str
    version: str
    request_id: str
    rows: int
    code: int
    message: str
    stamps: Stamps


class Journal:
    """Takes records once a second, until it is closed.

    Args:
        data_path: Where they are.
        traces: Takes those that are traced; None: none are.
    """

    def __init__(
        self, data_path: _native.Frontend | _native.GrpcServer, traces: Traces | None
    ) -> None:
        self._data_path = data_path
        self._traces = traces
        self._task = asyncio.get_running_loop().create_task(self._run())

    @classmethod
    def of(
        cls, data_path: _native.Frontend | _native.GrpcServer, settings: Settings
    ) -> Journal | None:
        """What a front-end is to have, if anything."""
        if settings.journal is None:
            return None
        if settings.tracing is None:
            return cls(data_path, None)
        from gslice.frontend.traces import Traces  # an extra

        return cls(data_path, Traces(settings.tracing.otlp))

    async def close(self) -> None:
        """Tells what is left."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self.look()
        if self._traces is not None:
            await asyncio.to_thread(self._traces.close)

    def look(self) -> None:
        """Takes what there is."""
        found, lost = self._data_path.take_records()
        records = [Record._make((*each[:-1], Stamps._make(each[-1]))) for each in found]
        if self._traces is not None:
            self._traces.add([record for record in records if record.traced])
        _log_failures([record for record in records if record.code])
        if lost:
            log.warning("%d more requests were to be told of, too many for a second", lost)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_PERIOD_S)
            try:
                self.look()
            except Exception:  # requests are served whatever becomes of their records
                log.exception("records of requests are lost")


def _log_failures(records: Sequence[Record]) -> None:
    for each in records[:_LINES_MAX]:
        log.debug(
            "request %s to %s failed with %d: %s",
            _printable(each.request_id) or "without id",
            each.function,
            each.code,
            _printable(each.message),
            extra={
                "function": each.function,
                "request_id": each.request_id,
                "trace_id": each.trace_id.hex() if any(each.trace_id) else "",
                "code": each.code,
            },
        )
    if len(records) > _LINES_MAX:
        log.debug("%d more requests failed within a second", len(records) - _LINES_MAX)


def _printable(text: str) -> str:
    """What clients sent, without what would make another line of the log, or steer a terminal."""
    return "".join(each if each.isprintable() else "\ufffd" for each in text)
