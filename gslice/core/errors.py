"""The one error tree.

Each class carries its gRPC status code (`code`, the number of google.rpc.Code), and whether the
same call may succeed when tried again (`retriable`). A message is one line that says what is wrong
and where; `hint` says what to do.
"""

from __future__ import annotations


class GsliceError(Exception):
    """Base of every error gslice raises on purpose.

    Args:
        message: One line: what is wrong, and where.
        hint: One line: what to do about it; may be empty.
        retry_after_ms: When the same call is expected to succeed; None: nobody knows.
    """

    code: int = 2  # UNKNOWN
    retriable: bool = False

    def __init__(self, message: str, *, hint: str = "", retry_after_ms: int | None = None) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class Cancelled(GsliceError):
    """The caller gave the request up."""

    code = 1


class InvalidArgument(GsliceError):
    """The request can never succeed as it is."""

    code = 3


class ConfigError(InvalidArgument):
    """A configuration value is wrong; the message names file, line and key."""


class DeadlineExceeded(GsliceError):
    """The request's deadline passed before its answer was ready."""

    code = 4


class NotFound(GsliceError):
    """No such function, version, device or file."""

    code = 5


class AlreadyExists(GsliceError):
    """The name is taken."""

    code = 6


class PermissionDenied(GsliceError):
    """The caller may not do this."""

    code = 7


class ResourceExhausted(GsliceError):
    """A queue, a pool, a budget or a device is full."""

    code = 8
    retriable = True


class FailedPrecondition(GsliceError):
    """The system is not in the state that the call needs."""

    code = 9


class Unimplemented(GsliceError):
    """gslice does not offer this."""

    code = 12


class Internal(GsliceError):
    """A model, an engine or gslice itself failed while running the request."""

    code = 13


class Unavailable(GsliceError):
    """The function or the daemon cannot be reached now."""

    code = 14
    retriable = True


class Unauthenticated(GsliceError):
    """Nobody knows who asks."""

    code = 16


class ChannelClosed(Unavailable):
    """The process at the other end of a control channel is gone."""


class LoadFailed(FailedPrecondition):
    """A function could not be loaded; the message gives the engine's reason."""


class SegmentError(Internal):
    """A shared-memory segment is not one of ours: magic, version, size or a bound is wrong."""


_BY_CODE: dict[int, type[GsliceError]] = {
    cls.code: cls
    for cls in (
        Cancelled,
        InvalidArgument,
        DeadlineExceeded,
        NotFound,
        AlreadyExists,
        PermissionDenied,
        ResourceExhausted,
        FailedPrecondition,
        Unimplemented,
        Internal,
        Unavailable,
        Unauthenticated,
    )
}


def from_code(code: int, message: str) -> GsliceError:
    """The error of the tree that a gRPC status code stands for.

    Args:
        code: google.rpc.Code number.
        message: The status message.

    Returns:
        An instance of the matching class; `GsliceError` for codes that gslice never sends.
    """
    return _BY_CODE.get(code, GsliceError)(message)
