"""The mark: a bare echo on nghttp2 (`benchmarks/native/echo_nghttp2.cpp`), in its own process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.child import child
from benchmarks.frontend.built import built


@dataclass(frozen=True)
class Bare:
    """A running echo.

    Attributes:
        address: Where it listens.
        pid: Its process.
    """

    address: str
    pid: int


@contextlib.contextmanager
def bare_echo(core: int) -> Iterator[Bare]:
    """Runs the echo on one core."""
    with child("the bare echo", [str(built("echo_nghttp2")), "0"], core) as process:
        yield Bare(f"127.0.0.1:{int(process.read())}", process.pid)
