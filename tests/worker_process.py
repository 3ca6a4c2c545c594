"""A real worker process led by the test in the daemon's place, and a front-end to talk to it."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import numpy as np

from gslice import _native
from gslice.core.errors import from_code
from gslice.core.types import FunctionSpec, Signature
from gslice.ipc import messages
from gslice.ipc.channel import Channel, Received
from gslice.ipc.native import native_signature
from tests.served import WAIT_MS, Arrays, answer_arrays, request_bytes

WAIT_S = 20.0
CPUS = sorted(os.sched_getaffinity(0))
_A = TypeVar("_A")


class WorkerProcess:
    """`python -m gslice.worker`, its control connection, and the segment it serves.

    Args:
        arguments: Of its command line.
        environment: Beside the test's own.
    """

    def __init__(self, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        self._arguments = arguments
        self._environment = {**os.environ, **(environment or {})}
        self._folder = tempfile.TemporaryDirectory(prefix="gs")  # socket paths must be short
        self._path = f"{self._folder.name}/w.sock"
        self.log = Path(self._folder.name, "log")
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(self._path)
            listener.listen(2)
            self.pid = self._begin(listener)
        self._pidfd = os.pidfd_open(self.pid)
        self.exit_code: int | None = None
        self.channel: Channel | None = None
        self.eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.segment: _native.Segment | None = None
        self.signature: Signature | None = None
        self._spec: FunctionSpec | None = None
        self._frontend = _native.Frontend(0)
        self._seq = 0

    def _begin(self, listener: socket.socket) -> int:
        """Starts it; its process id."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        return os.posix_spawn(
            sys.executable,
            [sys.executable, "-P", "-m", "gslice.worker", *self._arguments],
            self._environment,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, listener.fileno(), messages.LISTEN_FD),
                (os.POSIX_SPAWN_OPEN, 2, str(self.log), flags, 0o600),
            ],
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        if self.exit_code is None:
            self._kill()
        self.disconnect()
        os.close(self._pidfd)
        os.close(self.eventfd)
        if kind is not None:
            print(self.log.read_text())
        self._folder.cleanup()

    def _kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.wait_exit()

    # ---- control -----------------------------------------------------------------------------

    def connect(self) -> tuple[messages.Hello, list[int]]:
        """Connects as a daemon does; the worker's Hello and the descriptors that came with it."""
        self.disconnect()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel = Channel(sock)
        sock.settimeout(WAIT_S)
        sock.connect(self._path)
        received = self.channel.recv()
        assert isinstance(received.message, messages.Hello)
        return received.message, received.fds

    def disconnect(self) -> None:
        """The daemon dies."""
        if self.channel is not None:
            self.channel.close()
            self.channel = None

    def request(self, order: messages.Message, answer: type[_A], fds: Sequence[int] = ()) -> _A:
        """Gives an order and waits for its answer; a failure is raised."""
        return self.ask(order, answer, fds)[0]

    def ask(
        self, order: messages.Message, answer: type[_A], fds: Sequence[int] = ()
    ) -> tuple[_A, list[int]]:
        """Likewise; with the descriptors that came with the answer."""
        assert self.channel is not None
        self._seq += 1
        self.channel.send(order, fds, self._seq)
        received: Received = self.channel.recv()
        assert received.seq == self._seq
        if isinstance(received.message, messages.Failed):
            raise from_code(received.message.code, received.message.message)
        assert isinstance(received.message, answer)
        return received.message, received.fds

    def serve(
        self,
        spec: FunctionSpec,
        share_percent: float = 100.0,
        limiter: str = "none",
        gpu: messages.GpuGrant | None = None,
    ) -> messages.Ready:
        """Everything from the connection to the flip."""
        if self.channel is None:
            self.connect()
        order = messages.Load(spec, share_percent, limiter, CPUS, gpu)
        return self.attach(spec, self.request(order, messages.Loaded).signature)

    def attach(
        self, spec: FunctionSpec, signature: Signature, timed: Sequence[int] = ()
    ) -> messages.Ready:
        """Everything from the signature to the flip."""
        self.signature = signature
        self._spec = spec
        self.segment = _native.Segment.create(spec.name, [(1 << 16, 16)], 1 << 16, 4)
        self.segment.activate_frontend(0)
        index = self.segment.add_instance()
        self.request(messages.AddFrontend(0), messages.Ok, [self.eventfd])
        order = messages.Attach(index, timed=list(timed))
        ready = self.request(order, messages.Ready, [self.segment.fd])
        native = native_signature(self.signature)
        self._frontend.add_function(spec.name, spec.version, self.segment, native, 0)
        self.segment.flip(None, index)
        return ready

    def wait_exit(self) -> int:
        """Waits for the end of the process; its exit code, negative for a signal."""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        assert poll.poll(WAIT_MS), f"it does not end: {self.log.read_text()}"
        _, status = os.waitpid(self.pid, 0)
        self.exit_code = os.waitstatus_to_exitcode(status)
        return self.exit_code

    # ---- requests ----------------------------------------------------------------------------

    def submit(self, inputs: Mapping[str, np.ndarray]) -> int:
        """Queues a request; its ticket."""
        assert self.signature is not None
        assert self._spec is not None
        return self._frontend.submit(request_bytes(self._spec.name, inputs, self.signature), None)

    def answer(self, ticket: int) -> Arrays:
        """Waits for the answer of a request that was submitted last."""
        poll = select.poll()
        poll.register(self.eventfd, select.POLLIN)
        while ticket not in self._frontend.take_done():
            assert poll.poll(WAIT_MS), f"no answer: {self.log.read_text()}"
            os.eventfd_read(self.eventfd)
        return answer_arrays(self._frontend.respond(ticket))

    def infer(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """One request."""
        return self.answer(self.submit(inputs))


class HostedWorker(WorkerProcess):
    """A worker in a host, which is connected; both are led by the test.

    Args:
        host: Where it is to live.
        name: Of its socket, for the host.
    """

    def __init__(self, host: WorkerProcess, name: str) -> None:
        self._host = host
        self._name = name
        super().__init__()

    def _begin(self, listener: socket.socket) -> int:
        with self.log.open("a") as log:
            order = messages.TakeIn(self._name)
            self._host.request(order, messages.Ok, [listener.fileno(), log.fileno()])
        return self._host.pid

    def _kill(self) -> None:
        """It dies with its host."""

    def leave(self) -> None:
        """Has it end in order, and waits for its word."""
        assert self.channel is not None
        self.channel.send(messages.Exit())
        assert isinstance(self.channel.recv().message, messages.Left)
        self.disconnect()


def scale_class(factor: int) -> str:
    """A module with `Scale`, the user's class of a function of a GPU: x * factor, and a line."""
    return _SCALE.replace("FACTOR", str(factor))


_SCALE = """
import ctypes
import logging
import numpy as np

class Scale:
    inputs = outputs = [("x", "FP32", [-1, 4])]
    batch_max = 4

    def setup(self):
        self.driver = ctypes.CDLL("libcuda.so.1")

    def infer(self, inputs):
        logging.warning("scales by FACTOR")
        x = inputs["x"]
        assert self.driver.cuStreamSynchronize(ctypes.c_void_p(self.stream)) == 0
        count = x.shape[0] * x.shape[1]
        values = np.frombuffer((ctypes.c_float * count).from_address(x.pointer), np.float32)
        return {"x": (values * FACTOR).reshape(x.shape)}
"""
