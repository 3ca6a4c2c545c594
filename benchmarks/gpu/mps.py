"""A private MPS control daemon, and clients in processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.cores import ROOT
from benchmarks.gpu.step import Skipped
from gslice.core.errors import GsliceError
from gslice.device.inventory import read_inventory
from gslice.device.mps import find_control, pids_of

_ANSWER_S = 30.0
_GREEN_CONTEXTS = 12050  # CUDA 12.5


def is_installed() -> bool:
    """Whether there are a GPU's driver and its MPS."""
    try:
        find_control(read_inventory().library)
    except GsliceError:
        return False
    return True


def has_green_contexts() -> bool:
    """Whether there are a GPU and a driver that can limit streams to a part of it."""
    try:
        inventory = read_inventory()
    except GsliceError:
        return False
    return bool(inventory.gpus) and inventory.driver_version >= _GREEN_CONTEXTS


class Mps:
    """A control daemon with directories of its own, while its context is open.

    Args:
        flags: More for its command line, such as `-S`.

    Raises:
        Skipped: There is no MPS here, or it does not start; the message has its words.
    """

    def __init__(self, *flags: str) -> None:
        self._flags = flags
        self._control = ""
        self._folder = Path()

    def __enter__(self) -> Mps:
        try:
            self._control = find_control(read_inventory().library)
        except GsliceError as error:
            raise Skipped(error.message) from error
        self._folder = Path(tempfile.mkdtemp(prefix="gs-mps-", dir="/tmp"))  # sockets: short paths
        for name in ("pipe", "log"):
            (self._folder / name).mkdir()
        started = self._run(["-d", *self._flags])
        if started.returncode != 0:
            shutil.rmtree(self._folder)
            words = (started.stdout + started.stderr).strip() or f"code {started.returncode}"
            raise Skipped(f"MPS does not start: {words}")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.say("quit")
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def environment(self) -> dict[str, str]:
        """What makes a process its client."""
        return {
            "CUDA_MPS_PIPE_DIRECTORY": str(self._folder / "pipe"),
            "CUDA_MPS_LOG_DIRECTORY": str(self._folder / "log"),
        }

    def say(self, command: str) -> str:
        """A command to the control daemon; its answer."""
        answer = self._run([], command + "\n")
        return (answer.stdout + answer.stderr).strip()

    def clients(self) -> list[int]:
        """Processes that are attached."""
        servers = pids_of(self.say("get_server_list"))
        return [pid for server in servers for pid in pids_of(self.say(f"get_client_list {server}"))]

    def log_tail(self, lines: int = 12) -> dict[str, list[str]]:
        """The last lines of its logs."""
        logs = sorted((self._folder / "log").glob("*.log"))
        return {log.stem: log.read_text(errors="replace").splitlines()[-lines:] for log in logs}

    def client(self, role: str, percent: float | None = None, **arguments: Any) -> Client:
        """Starts a client in a role of `benchmarks.gpu.clients`."""
        environment = dict(self.environment)
        if percent is not None:
            environment["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] = f"{percent:g}"
        return Client(role, environment, **arguments)

    def _run(self, arguments: list[str], said: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self._control, *arguments],
            input=said,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=_ANSWER_S,
        )


class Client:
    """A running `python -m benchmarks.gpu.clients ROLE`, which answers in JSON, a line each.

    Args:
        role: One of its roles.
        environment: Beside this process's own.
        pass_fds: Descriptors that it inherits.
        arguments: Of the role.
    """

    def __init__(
        self,
        role: str,
        environment: Mapping[str, str],
        *,
        pass_fds: Sequence[int] = (),
        **arguments: Any,
    ) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.gpu.clients", role, json.dumps(arguments)],
            cwd=ROOT,
            env={**os.environ, **environment},
            pass_fds=pass_fds,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid
        self._end: dict[str, Any] = {}

    def read(self) -> dict[str, Any]:
        """Its next answer; once it has ended, `failed` with its last words."""
        assert self._process.stdout is not None
        if self._end:
            return self._end
        if line := self._process.stdout.readline():
            answer: dict[str, Any] = json.loads(line)
            return answer
        _, errors = self._process.communicate()
        words = [text for text in errors.splitlines() if text.strip()]
        self._end = {"failed": (words or [f"ended with code {self._process.returncode}"])[-1]}
        return self._end

    def go_on(self, **said: Any) -> None:
        """Lets a role that waits go on, with what it is told."""
        assert self._process.stdin is not None
        if self._process.stdin.closed:
            return  # read() has told of its end
        try:
            self._process.stdin.write(json.dumps(said) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return  # it has ended, and read() says why

    def finish(self, timeout_s: float = 60.0) -> dict[str, Any]:
        """Its next answer and then its end."""
        try:
            return self.read()
        finally:
            self.close(timeout_s)

    def close(self, timeout_s: float = 60.0) -> None:
        """Lets it end; kills it if it does not."""
        self.go_on()
        try:
            self._process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Ends it by force, if it has not ended."""
        self._process.kill()
        self._process.communicate()
