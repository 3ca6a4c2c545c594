"""The command line, called in this process."""

from __future__ import annotations

import contextlib
import os

from typer.testing import CliRunner, Result

from gslice.cli.main import app


def gslice(*args: str, status: int = 0) -> Result:
    result = CliRunner().invoke(app, list(args))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status, result.output
    return result


def failing(*args: str) -> list[str]:
    """The lines that a failed command leaves on standard error; nothing else may be there."""
    result = gslice(*args, status=1)
    assert result.stdout == ""
    return result.stderr.splitlines()


def read_all(descriptor: int) -> bytes:
    """What is written to a terminal until its last user closes it."""
    seen = b""
    with contextlib.suppress(OSError):  # EIO is how a terminal says so
        while chunk := os.read(descriptor, 65536):
            seen += chunk
    os.close(descriptor)
    return seen
