"""A control daemon of MPS for a trial: started in a directory of its own, ended with it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from gslice.core.errors import DeadlineExceeded, FailedPrecondition, GsliceError
from gslice.device.inventory import PROBE, PROBE_TIMEOUT_S, probe_answer
from gslice.device.mps import MpsControl, MpsPaths, client_environment, find_control

_START_TIMEOUT_S = 20.0
_END_TIMEOUT_S = 10.0
_POLL_S = 0.02


class MpsTrial:
    """The daemon, while the `with` block lasts.

    Args:
        uuid: Of the GPU.
        library: The path of libcuda.
        flags: More for its command line: `-S` has it partition SMs statically.

    Raises:
        FailedPrecondition: there is no MPS here, or it does not start; the message has its words.
    """

    def __init__(self, uuid: str, library: str, *flags: str) -> None:
        self._uuid = uuid
        self._flags = flags
        self._program = find_control(library)
        self._folder = Path(tempfile.mkdtemp(prefix="gslice-mps-"))
        self.paths = MpsPaths(self._folder / "pipe", self._folder / "log")
        self.control = MpsControl(self._program, self.paths)
        self._log = self._folder / "control.out"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.paths.check()
            for name in ("pipe", "log"):
                (self._folder / name).mkdir(mode=0o700)
            environment = {**self.control.environment(), "CUDA_VISIBLE_DEVICES": self._uuid}
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    [self._program, "-f", *self._flags],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            self._await_answer(self._process)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def client(self, share_percent: float, *arguments: str) -> TrialClient:
        """A process that makes a context under a share; see `gslice.device.probe`."""
        limits = client_environment(self.paths, share_percent, 0, low_priority=False)
        return self._client(limits, arguments)

    def partition_sms(self, chunks: int) -> int:
        """Has a static partition carved, and a client see how many SMs it has.

        Raises:
            GsliceError: what MPS or the client says instead.
        """
        answer = self.control.ask(f"sm_partition add {self._uuid} {chunks}")
        named = re.search(rf"{re.escape(self._uuid)}/\S+", answer)
        if named is None:
            raise FailedPrecondition(f"MPS names no partition: {' '.join(answer.split())}")
        partition = {**self.paths.environment, "CUDA_MPS_SM_PARTITION": named[0]}
        with self._client(partition, ()) as client:
            return int(client.answer()["sms"])

    def clients(self) -> set[int]:
        """Process ids of all clients."""
        servers = self.control.servers()
        return {pid for server in servers for pid in self.control.clients(server)}

    def _client(self, variables: Mapping[str, str], arguments: tuple[str, ...]) -> TrialClient:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("CUDA_MPS_")}
        environment = {**inherited, **variables, "CUDA_VISIBLE_DEVICES": self._uuid}
        return TrialClient(environment, arguments)

    def _await_answer(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while True:
            try:
                process.wait(_POLL_S)
            except subprocess.TimeoutExpired:
                pass
            else:
                lines = self._log.read_text(errors="replace").strip().splitlines()
                raise FailedPrecondition(
                    f"MPS does not start: {(lines or ['it said nothing'])[-1]}"
                )
            try:
                self.control.servers()
            except GsliceError as error:
                if time.monotonic() > deadline:
                    raise FailedPrecondition(f"MPS does not start: {error.message}") from None
            else:
                return

    def _end(self) -> None:
        if self._process is not None:
            with contextlib.suppress(GsliceError):  # it is killed then
                self.control.quit()
            try:
                self._process.wait(_END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


class TrialClient:
    """A probe that is a client, while the `with` block lasts."""

    def __init__(self, environment: Mapping[str, str], arguments: tuple[str, ...]) -> None:
        self._environment = environment
        self._arguments = arguments

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [*PROBE, "client", *self._arguments],
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._process.communicate(timeout=_END_TIMEOUT_S)  # closes its standard input
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

    def answer(self) -> dict[str, Any]:
        """What it sees, once it has made its context.

        Raises:
            GsliceError: what went wrong in it.
            DeadlineExceeded: it hangs.
        """
        assert self._process.stdout is not None
        line = _line_of(self._process)
        try:
            found = json.loads(line)
        except ValueError:
            found = {"error": ""}
        if "error" in found:  # then it has ended, too
            output, errors = self._process.communicate(timeout=_END_TIMEOUT_S)
            return probe_answer(line + output, errors)
        return dict(found)


def _line_of(process: subprocess.Popen[str]) -> str:
    """The next line of a process's output; a hang of the driver must not hang its caller."""
    import select

    assert process.stdout is not None
    poll = select.poll()
    poll.register(process.stdout, select.POLLIN)
    if not poll.poll(PROBE_TIMEOUT_S * 1000):
        process.kill()
        raise DeadlineExceeded(f"a client of MPS did not come up within {PROBE_TIMEOUT_S:g} s")
    return process.stdout.readline()
