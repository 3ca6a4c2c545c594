"""A child process with a line in and a line out, on one core; it ends when its input does.

Light, as `benchmarks.cores` is: what bare onnxruntime imports counts as its memory.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Sequence

from benchmarks.cores import ROOT, pinned

STOP_TIMEOUT_S = 10.0


class Child:
    """A running child.

    Attributes:
        pid: Its process.
    """

    def __init__(self, name: str, process: subprocess.Popen[str]) -> None:
        self.pid = process.pid
        self._name = name
        self._process = process

    def write(self, line: str) -> None:
        """Sends it a line."""
        assert self._process.stdin is not None
        print(line, file=self._process.stdin, flush=True)

    def read(self) -> str:
        """Waits for its next line.

        Raises:
            RuntimeError: It has ended instead.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._name} ended with code {self._process.wait()}")
        return line.rstrip("\n")


@contextlib.contextmanager
def child(name: str, command: Sequence[str], core: int, **environment: str) -> Iterator[Child]:
    """Runs a command beside this process.

    Args:
        name: In messages.
        command: The program and its arguments.
        core: Where it runs, and whatever it starts.
        environment: Added to this process's.

    Raises:
        TimeoutExpired: It did not end with its input, and was killed.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
        preexec_fn=pinned(core),
    )
    with process:
        try:
            yield Child(name, process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
