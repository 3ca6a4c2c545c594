"""What goes wrong, as HTTP says it: the status of each error, and when to come again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from gslice.core.errors import (
    DeadlineExceeded,
    GsliceError,
    InvalidArgument,
    Unauthenticated,
    from_code,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    import grpc

_STATUS = {  # of google.rpc.Code
    1: 499,
    2: 500,
    3: 400,
    4: 504,
    5: 404,
    6: 409,
    7: 403,
    8: 429,
    9: 400,
    12: 501,
    13: 500,
    14: 503,
    16: 401,
}
_RETRY_AFTER_S = 1  # where nobody knows better


class TooLarge(InvalidArgument):
    """A body is larger than `node.request_max`."""

    http_status = 413


class UnknownPacking(InvalidArgument):
    """A body is compressed in a way that is not offered."""

    http_status = 415


class TooSlow(DeadlineExceeded):
    """A body does not come."""

    http_status = 408


def http_status(error: GsliceError) -> int:
    """The status that an error is answered with."""
    return int(getattr(error, "http_status", _STATUS[error.code]))


def failure_headers(error: GsliceError) -> dict[str, str]:
    """When the same call is worth another try, in whole seconds; or how to say who calls."""
    if isinstance(error, Unauthenticated):
        return {"WWW-Authenticate": "Bearer"}
    if error.retry_after_ms is not None:
        return {"Retry-After": str(max(1, -(-error.retry_after_ms // 1000)))}
    return {"Retry-After": str(_RETRY_AFTER_S)} if error.retriable else {}


class Call:
    """A call as a servicer's method sees it, with which gRPC's and ours are alike.

    Args:
        headers: Of the request.
    """

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = headers

    def invocation_metadata(self) -> list[tuple[str, str]]:
        """The headers, with names in lower case."""
        return [(name.lower(), value) for name, value in self._headers.items()]

    def time_remaining(self) -> float | None:
        """None: a request that must be answered in time says so by its parameter `timeout`."""
        return None

    async def abort(
        self, code: grpc.StatusCode, text: str, trailing: tuple[tuple[str, str], ...] = ()
    ) -> NoReturn:
        """Ends the call with an error."""
        error = from_code(_number(code), text)
        for _, pushback_ms in trailing:
            error.retry_after_ms = int(pushback_ms)
        raise error


def _number(code: Any) -> int:
    return int(code.value[0])
