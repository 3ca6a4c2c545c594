"""The mark: a bare echo on nghttp2 (`benchmarks/native/echo_nghttp2.cpp`), in its own process."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.cores import pinned
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
    process = subprocess.Popen(
        [str(built("echo_nghttp2")), "0"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=pinned(core),
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield Bare(f"127.0.0.1:{int(process.stdout.readline())}", process.pid)
        finally:
            process.stdin.close()
            process.wait(10)
