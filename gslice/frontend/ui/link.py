"""The control API for the page: what `gslice.client.control` is for the CLI, on our event loop."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

from gslice.core.audit import FOR_HEADER, PID_HEADER
from gslice.core.errors import GsliceError, Unavailable, from_code
from gslice.protos import message, service

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

_SERVICE = "gslice.v1.Control"
_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]


class ControlLink:
    """Calls whichever daemon listens on the socket. Connects when there is something to ask.

    Args:
        path: Of the daemon's control socket.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._channel: Any = None

    async def stream(
        self, method: str, caller: str = "", **fields: Any
    ) -> AsyncGenerator[Any, None]:
        """One call with many answers; it is given up when this is closed.

        Args:
            method: Of gslice.v1.Control.
            caller: For whom, for the audit log.
            fields: Of the request.

        Raises:
            Unavailable: the daemon is away, or goes.
            GsliceError: its answer.
        """
        call = getattr(self._stub(caller), method)(_request(method, fields))
        try:
            with self._told():
                async for answer in call:
                    yield answer
        finally:
            call.cancel()

    async def close(self) -> None:
        """Ends the connection, and every call."""
        if self._channel is not None:
            await self._channel.close()
            self._channel = None

    def _stub(self, caller: str) -> Any:
        import grpc.aio  # only where somebody looks

        from gslice.protos.rpc import Stub

        if self._channel is None:
            self._channel = grpc.aio.insecure_channel(f"unix:{self._path}", options=_OPTIONS)
        who = ((FOR_HEADER, caller),) if caller else ()
        headers = ((PID_HEADER, str(os.getpid())), *who)  # for the audit log
        return Stub(self._channel, _SERVICE, headers)

    @contextlib.contextmanager
    def _told(self) -> Any:
        """Errors of gRPC as ours."""
        import grpc

        try:
            yield
        except grpc.RpcError as error:
            raise _error(error) from error


def _request(method: str, fields: dict[str, Any]) -> Any:
    kind = service(_SERVICE).methods_by_name[method].input_type.full_name
    return message(kind)(**fields)


def _error(error: Any) -> GsliceError:
    number, name = error.code().value[0], error.code().name
    if name in ("UNAVAILABLE", "CANCELLED"):  # the latter where it ends over our call
        return Unavailable(
            "the daemon is away", hint="functions serve on; `gslice serve` brings it back"
        )
    return from_code(number, error.details() or name)
