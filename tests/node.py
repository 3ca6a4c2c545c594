"""A real node for tests: daemon, front-end and workers over loopback, configured by a dict.

Everything that is waited for is waited for by an event: the daemon's Watch stream, a process's
pidfd. Only counters in shared memory are polled.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from gslice._native import Segment
from gslice.client import Client
from gslice.client.control import Control
from gslice.core.errors import Unavailable
from gslice.demo.leftovers import Traces

WAIT_S = 60.0
_POLL_S = 0.002
_START_POLL_S = 0.02  # a daemon's start takes a second, and every look takes from it
ANY_PORT = "127.0.0.1:0"


class Node:
    """One node in a directory of its own.

    Args:
        directory: Of its node.yaml and state; unique to the node.
        functions: What goes under `functions`.
        node: Settings that replace or add to those of a test node.
        devices: What goes under `devices`.
        defaults: What goes under `defaults`.
        options: More of the daemon's command line.
        interpreter: What runs it.
    """

    def __init__(
        self,
        directory: Path,
        functions: Mapping[str, Any],
        *,
        node: Mapping[str, Any] | None = None,
        devices: Mapping[str, Any] | None = None,
        defaults: Mapping[str, Any] | None = None,
        options: Sequence[str] = (),
        interpreter: str = sys.executable,
    ) -> None:
        self._options = options
        self._interpreter = interpreter
        self.directory = directory
        self.config_path = directory / "node.yaml"
        self.state_dir = directory / "state"
        self.grpc_address = ""
        self._traces = Traces(directory)
        self._daemon: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._pids: set[int] = set()
        settings = {
            "grpc": ANY_PORT,
            "http": "off",  # as `spares`
            "metrics": ANY_PORT,
            "state_dir": "./state",
            "orphan_grace": "30s",
            "pinned_memory": "512MiB",
            "spares": 0,  # most tests need none, and they take a second of processor time
        }
        self.write_config(functions, settings | dict(node or {}), devices, defaults)

    # ---- life ------------------------------------------------------------------------------

    def write_config(
        self,
        functions: Mapping[str, Any],
        node: Mapping[str, Any],
        devices: Mapping[str, Any] | None = None,
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        """Writes node.yaml; a running daemon does not see it."""
        config: dict[str, Any] = {
            "version": 1,
            "node": dict(node),
            "functions": {name: dict(body) for name, body in functions.items()},
        }
        if devices is not None:
            config["devices"] = {name: dict(body) for name, body in devices.items()}
        if defaults is not None:
            config["defaults"] = dict(defaults)
        with self.config_path.open("w") as file:
            YAML().dump(config, file)

    def start(self, *, ready: bool = True) -> Node:
        """Starts the daemon; with `ready`, waits until it serves and every load has ended."""
        with (self.directory / "daemon.out").open("ab") as output:
            self._daemon = subprocess.Popen(
                [
                    self._interpreter,
                    "-m",
                    "gslice.daemon",
                    "-c",
                    str(self.config_path),
                    *self._options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **self._traces.environment},
                start_new_session=True,
            )
        self._pidfd = os.pidfd_open(self._daemon.pid)
        self._pids.add(self._daemon.pid)
        if ready:
            self.wait_status(lambda status: status.state == "SERVING")
        return self

    def wait_exit(self, timeout_s: float = WAIT_S) -> int:
        """Waits for the daemon's end and returns its exit code."""
        assert self._daemon is not None
        assert wait_pidfd(self._pidfd, timeout_s), "the daemon did not end"
        os.close(self._pidfd)
        code = self._daemon.wait()
        self._daemon = None
        return code

    def kill_daemon(self) -> None:
        """kill -9 of the daemon alone."""
        assert self._daemon is not None
        self._daemon.kill()
        self.wait_exit()

    def signal_daemon(self, number: signal.Signals) -> None:
        """Sends the daemon a signal."""
        assert self._daemon is not None
        self._daemon.send_signal(number)

    def stop(self) -> None:
        """Stops in order and checks that nothing is left."""
        if self._daemon is not None:
            self.signal_daemon(signal.SIGTERM)
            assert self.wait_exit() == 0, self.output()
        self.assert_nothing_left()

    def destroy(self) -> None:
        """Ends everything by force, after a test that failed."""
        if self._daemon is not None:
            self.kill_daemon()
        self._traces.kill(WAIT_S)

    @property
    def running(self) -> bool:
        """Whether this test's daemon has been started and not ended."""
        return self._daemon is not None

    def assert_nothing_left(self) -> None:
        """No process, socket, segment or cgroup of this node exists."""
        left = [trace for trace in self._traces.left() if self._is_ours(trace)]
        assert not left, f"left behind: {left}; {self.output()}"

    def _is_ours(self, trace: str) -> bool:
        """Control groups end in the process id of their maker: others' nodes have theirs, too."""
        return not trace.startswith("cgroup ") or int(trace.rpartition("-")[2]) in self._pids

    # ---- looking -----------------------------------------------------------------------------

    def output(self) -> str:
        """What the daemon wrote, for a failing test."""
        path = self.directory / "daemon.out"
        return path.read_text() if path.exists() else ""

    def control(self) -> Control:
        """A control client; waits for the socket of a daemon that is starting."""
        deadline = time.monotonic() + WAIT_S
        while True:
            try:
                return Control(self.state_dir)
            except Unavailable:
                assert time.monotonic() < deadline, f"no daemon came up: {self.output()}"
                ended = wait_pidfd(self._pidfd, _START_POLL_S)
                assert not ended, f"the daemon ended: {self.output()}"

    def status(self) -> Any:
        """The `gslice.v1.Status` of now."""
        with self.control() as control:
            return self._noted(control.status())

    def function(self, name: str) -> Any:
        """One function of the status."""
        (found,) = (f for f in self.status().functions if f.name == name)
        return found

    def wait_status(self, condition: Callable[[Any], bool], timeout_s: float = WAIT_S) -> Any:
        """The first status of the Watch stream that meets a condition."""
        deadline = time.monotonic() + timeout_s
        with self.control() as control:
            for status in map(self._noted, control.watch(interval_ms=100)):
                if condition(status):
                    self.grpc_address = status.grpc_address
                    return status
                assert time.monotonic() < deadline, f"waited in vain; now {status}"
        raise AssertionError("the Watch stream ended")

    def wait_function(self, name: str, condition: Callable[[Any], bool]) -> Any:
        """The first state of a function that meets a condition."""
        found = []

        def met(status: Any) -> bool:
            found[:] = [f for f in status.functions if f.name == name and condition(f)]
            return bool(found)

        self.wait_status(met)
        return found[0]

    def _noted(self, status: Any) -> Any:
        for function in status.functions:
            self._pids.update(worker.pid for worker in function.workers)
        return status

    def client(self, timeout_s: float = WAIT_S) -> Client:
        """A client of the front-end."""
        return Client(self.grpc_address, timeout_s=timeout_s)

    def http(self, address: str, path: str) -> tuple[int, str]:
        """Status and text of an HTTP page."""
        try:
            with urllib.request.urlopen(f"http://{address}{path}", timeout=WAIT_S) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def worker_pids(self, name: str) -> list[int]:
        """Processes that serve a function."""
        return [worker.pid for worker in self.function(name).workers]

    def frontend_pids(self) -> list[int]:
        """Front-end processes."""
        return [frontend.pid for frontend in self.status().frontends]

    def segment(self, name: str) -> Segment:
        """A function's segment, mapped by the test as well."""
        found: list[Segment] = []

        def met(_status: Any) -> bool:
            for pid in self.worker_pids(name):  # one that loads has none, one that ended neither
                with contextlib.suppress(FileNotFoundError, PermissionError):
                    found.extend(each for each in _segments_of(pid) if each.name == name)
            return bool(found)

        self.wait_status(met)
        return found[0]

    def wait_all_free(self, name: str) -> None:
        """Waits until every slot of a function is FREE and no overflow block is in use."""
        wait_all_free(self.segment(name))


def _segments_of(pid: int) -> Iterator[Segment]:
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        if str(entry.readlink()).startswith("/memfd:gslice:"):
            fd = os.open(entry, os.O_RDWR)
            try:
                yield Segment.open(fd)
            finally:
                os.close(fd)


def wait_all_free(segment: Segment, timeout_s: float = WAIT_S) -> None:
    """Waits until every slot of a segment is FREE and no overflow block is in use."""
    deadline = time.monotonic() + timeout_s
    while True:
        counts = segment.counts()
        if counts["free"] == sum(counts.values()):
            return
        assert time.monotonic() < deadline, f"slots do not come back: {counts}"
        time.sleep(_POLL_S)


def wait_counts(
    segment: Segment, condition: Callable[[dict[str, int]], bool], timeout_s: float = WAIT_S
) -> None:
    """Waits until the counts of a segment's slots meet a condition."""
    deadline = time.monotonic() + timeout_s
    while not condition(counts := segment.counts()):
        assert time.monotonic() < deadline, f"waited in vain; now {counts}"
        time.sleep(_POLL_S)


def wait_pidfd(pidfd: int, timeout_s: float) -> bool:
    """Waits for the death of a process."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


def kill_and_wait(pid: int) -> None:
    """kill -9, and waits until the process is gone."""
    pidfd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        assert wait_pidfd(pidfd, WAIT_S)
    finally:
        os.close(pidfd)


def in_background(call: Callable[[], Any]) -> Future[Any]:
    """Runs a call in a thread; its result or its error is in the future."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run).start()
    return future
