"""A server as processes: started on one core, asked until it answers rightly, measured, ended."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from benchmarks.cores import pin_process
from benchmarks.peers.calls import Answer, Calls
from benchmarks.peers.streams import Stream

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 20.0
RETRY_S = 0.05  # between two questions to a server that does not answer yet
LOG = "server.log"
_PR_SET_PDEATHSIG = 1
ALIKE = {  # what every server finds in its environment
    "OMP_NUM_THREADS": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "PYTHONUNBUFFERED": "1",
}


@dataclass(frozen=True)
class Command:
    """How a server is started.

    Attributes:
        arguments: Program and arguments.
        environment: Beside this process's own.
        files: What the directory holds, by name: its configuration.
        settings: What else was chosen, in words.
    """

    arguments: list[str]
    environment: dict[str, str]
    files: dict[str, str]
    settings: dict[str, object]


@dataclass(frozen=True)
class Usage:
    """What a server's processes have taken so far.

    Attributes:
        cpu_us: Processor time of all together.
        rss_bytes: Resident memory, summed: what processes share counts in each.
        pss_bytes: Likewise, with what is shared divided among those who share it.
    """

    cpu_us: float
    rss_bytes: int
    pss_bytes: int


class Failed(Exception):
    """A server did not start, or answers wrongly.

    Attributes:
        server: Its name.
    """

    def __init__(self, server: str, reason: str) -> None:
        super().__init__(f"{server} {reason}")
        self.server = server


class Server:
    """Runs while its context is open.

    Args:
        name: In messages.
        command: How it is started.
        directory: An existing directory of its own: configuration, state and log.
        core: Where all its processes run.
    """

    def __init__(self, name: str, command: Command, directory: Path, core: int) -> None:
        self.name = name
        self._command = command
        self._directory = directory
        self._core = core
        self._process: subprocess.Popen[bytes] | None = None
        self._libc = ctypes.CDLL(None)  # loaded here: between fork and exec it would be too late

    async def __aenter__(self) -> Self:
        self._start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self._stop)

    async def ready(self, calls: Calls, stream: Stream) -> Answer:
        """Asks until the right answer comes: no other sign of readiness is worth as much.

        Raises:
            Failed: It ended, took too long, or answers something else.
        """
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        problem = ""
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                code = self._process.returncode
                raise Failed(self.name, f"ended with code {code}: {self._said()}")
            try:
                async with asyncio.timeout(START_TIMEOUT_S):
                    answer = await calls.ask()
            except (OSError, RuntimeError) as failure:
                problem = str(failure) or type(failure).__name__
                await asyncio.sleep(RETRY_S)
                continue
            if not stream.is_right(answer.tensor):
                raise Failed(self.name, f"gave a wrong answer of {len(answer.tensor)} bytes")
            self._pin()
            return answer
        raise Failed(self.name, f"did not answer in time: {problem}; its log: {self._said()}")

    def usage(self) -> Usage:
        """Processor time and memory of all its processes."""
        cpu_s, rss_bytes, pss_bytes = 0.0, 0, 0
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                times, memory = process.cpu_times(), process.memory_full_info()
                cpu_s += times.user + times.system
                rss_bytes += memory.rss
                pss_bytes += memory.pss
        return Usage(cpu_s * 1e6, rss_bytes, pss_bytes)

    def command_lines(self) -> list[list[str]]:
        """Of all its processes."""
        lines = []
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                lines.append(process.cmdline())
        return lines

    def _start(self) -> None:
        for name, text in self._command.files.items():
            path = self._directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        with (self._directory / LOG).open("wb") as log:
            self._process = subprocess.Popen(
                self._command.arguments,
                cwd=self._directory,
                env={**os.environ, **ALIKE, **self._command.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # the terminal's Ctrl-C is for us; we end it in order
                preexec_fn=self._before_exec,
            )

    def _before_exec(self) -> None:
        # Should this process be killed outright, the server is told to stop.
        self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        os.sched_setaffinity(0, {self._core})

    def _processes(self) -> list[psutil.Process]:
        assert self._process is not None
        try:
            root = psutil.Process(self._process.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            raise Failed(self.name, f"has ended: {self._said()}") from None

    def _pin(self) -> None:
        """What a server moved elsewhere comes back: all are given the same core."""
        for process in self._processes():
            with suppress(FileNotFoundError, ProcessLookupError):
                pin_process(process.pid, {self._core})

    def _stop(self) -> None:
        """A request to end, as a terminal or a service manager sends it; then by force."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            family = psutil.Process(process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            family = []
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
        if process.poll() is None:
            process.kill()
            process.wait()
        _end(family)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # whose parent had ended before

    def _said(self) -> str:
        """The last line of its log that says something."""
        text = (self._directory / LOG).read_text(errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return lines[-1] if lines else "nothing"


def _end(processes: Iterable[psutil.Process]) -> None:
    """Kills what its parent has left behind."""
    left = psutil.wait_procs(list(processes), timeout=1.0)[1]
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=STOP_TIMEOUT_S)
