"""A real front-end process led by the test in the daemon's place, without daemon and workers.

The test owns each function's segment and runs its pump on threads of its own, so it can hold
requests in the queue (`hold`, `release`) and see every slot.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from gslice import _native
from gslice.core.errors import from_code
from gslice.core.types import FunctionSpec, Signature, TensorSpec
from gslice.ipc import messages
from gslice.ipc.channel import ANSWERS, Channel, Received
from gslice.ipc.native import native_signature

WAIT_S = 20.0
COMMAND = (sys.executable, "-P", "-m", "gslice.frontend", "--index", "0")


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = WAIT_S) -> None:
    """Returns as soon as the condition holds; fails the test if it never does."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"waited {timeout_s} s in vain: {what}"
        time.sleep(0.002)


def signature(dtype: str = "FP32", dims: Sequence[int] = (-1, 4), rows_max: int = 8) -> Signature:
    """x -> y of one type and shape, for the identity engine."""
    tensors = [TensorSpec(name, dtype, tuple(dims)) for name in ("x", "y")]
    return Signature((tensors[0],), (tensors[1],), rows_max)


class FrontendProcess:
    """`python -m gslice.frontend` with the test at the other end of its control socket.

    Args:
        folder: For its socket and its log.
        kind: What speaks gRPC in it.
        arguments: More of its command line.
    """

    def __init__(self, folder: Path, kind: str, *arguments: str) -> None:
        self.kind = kind
        self._path = str(folder / "f.sock")
        self.log = folder / "frontend.log"
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(self._path)
            listener.listen(2)
            self.pid = os.posix_spawn(
                sys.executable,
                [*COMMAND, "--kind", kind, *arguments],
                dict(os.environ),
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, listener.fileno(), messages.LISTEN_FD),
                    (
                        os.POSIX_SPAWN_OPEN,
                        2,
                        str(self.log),
                        os.O_WRONLY | os.O_CREAT | os.O_APPEND,
                        0o600,
                    ),
                ],
                setsid=True,
            )
        self.pidfd = os.pidfd_open(self.pid)
        self.eventfd = -1
        self.calls: list[Received] = []
        self._channel: Channel | None = None
        self._seq = 0
        self.hello = self.connect()
        self.address = ""

    def connect(self) -> messages.FrontendState:
        """Takes the control connection over, as a new daemon does; what the front-end says."""
        if self._channel is not None:
            self._channel.close()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.settimeout(WAIT_S)
        sock.connect(self._path)
        self._channel = Channel(sock)
        received = self._channel.recv()
        hello = received.message
        assert isinstance(hello, messages.Hello)
        assert (hello.protocol, hello.pid) == (messages.PROTOCOL_VERSION, self.pid)
        assert hello.frontend is not None
        eventfd = received.take_fd()
        if self.eventfd < 0:
            self.eventfd = eventfd
        else:
            os.close(eventfd)
        return hello.frontend

    def disconnect(self) -> None:
        """The daemon dies."""
        assert self._channel is not None
        self._channel.close()
        self._channel = None

    def request(self, order: messages.Message, fds: Sequence[int] = ()) -> messages.Message:
        """Gives an order and waits for its answer; a failure is raised."""
        answer = self.begin(order, fds)()
        if isinstance(answer, messages.Failed):
            raise from_code(answer.code, answer.message)
        return answer

    def begin(
        self, order: messages.Message, fds: Sequence[int] = ()
    ) -> Callable[[], messages.Message]:
        """Gives an order; the result waits for its answer."""
        assert self._channel is not None
        self._seq += 1
        seq = self._seq
        self._channel.send(order, fds, seq)
        return lambda: self._answer(seq)

    def next_call(self) -> Received:
        """The next thing that the front-end asks of its daemon."""
        if not self.calls:
            assert self._channel is not None
            self.calls.append(self._channel.recv())
        return self.calls.pop(0)

    def answer(self, call: Received, answer: messages.Message) -> None:
        """Answers what the front-end asked."""
        assert self._channel is not None
        self._channel.send(answer, seq=call.seq)

    def serve(self, address: str = "127.0.0.1:0") -> str:
        """Has it listen; the address."""
        serving = self.request(messages.Serve(address))
        assert isinstance(serving, messages.Serving)
        self.address = serving.address
        return serving.address

    def wait_exit(self) -> int:
        """Waits for the end of the process; its exit code."""
        assert os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT) is not None
        _, status = os.waitpid(self.pid, 0)
        self.pid = -1
        return os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        """Ends it by SIGTERM, and sees that it ends well."""
        if self.pid > 0:
            os.kill(self.pid, signal.SIGTERM)
            code = self.wait_exit()
            assert code == 0, f"exit code {code}: {self.log.read_text()}"
        if self._channel is not None:
            self._channel.close()
        os.close(self.eventfd)
        os.close(self.pidfd)
        assert "Traceback" not in self.log.read_text(), self.log.read_text()

    def _answer(self, seq: int) -> messages.Message:
        assert self._channel is not None
        while True:
            received = self._channel.recv()
            if isinstance(received.message, ANSWERS) and received.seq == seq:
                return received.message
            self.calls.append(received)


class LocalFunction:
    """A function whose pump runs in the test process, with the native identity engine."""

    def __init__(
        self,
        frontend: FrontendProcess,
        spec: FunctionSpec,
        shape: Signature,
        slots: Sequence[tuple[int, int]] = ((4096, 8),),
        prepared: Callable[[int, int], Callable[[_native.Batch], None]] | None = None,
    ) -> None:
        self.name = spec.name
        self.spec, self.signature = spec, shape
        self._frontend = frontend
        self.segment = _native.Segment.create(spec.name, list(slots), 1 << 20, 4)
        self.segment.activate_frontend(0)
        self._index = self.segment.add_instance()
        self._pump = _native.Instance(
            self.segment, self._index, native_signature(shape), 2, prepared
        )
        self._pump.add_frontend(0, frontend.eventfd)
        self._pump.start()
        self.release()
        self.show()

    def show(self) -> None:
        """Makes it known to the front-end, READY."""
        order = messages.AddFunction(self.spec, self.signature)
        self._frontend.request(order, [self.segment.fd])
        self.set_state("READY")

    def set_state(self, state: str, reason: str = "") -> None:
        """Tells the front-end its state."""
        self._frontend.request(messages.SetFunction(self.name, state, reason, self.spec))

    def hold(self) -> None:
        """Requests stay in the queue from now on."""
        self.segment.flip(self._index, None)

    def release(self) -> None:
        """The queue is served again."""
        self.segment.flip(None, self._index)

    def count(self, state: str) -> int:
        """How many slots are in a state."""
        return self.segment.counts()[state]

    def wait_count(self, state: str, count: int) -> None:
        """Waits until so many slots are in a state."""
        wait_until(
            lambda: self.count(state) == count,
            f"{self.name}: {count} slots {state}, {self.segment.counts()}",
        )

    def wait_idle(self) -> None:
        """Waits until every slot is FREE and no overflow block is in use."""
        busy = ("leased", "queued", "claimed", "done", "quarantined", "blocks_in_use")
        wait_until(
            lambda: not any(self.count(state) for state in busy),
            f"{self.name} is idle: {self.segment.counts()}",
        )

    def close(self) -> None:
        """Forgets it and stops its pump."""
        self.release()
        self.wait_idle()
        self._frontend.request(messages.RemoveFunction(self.name))
        self.stop()

    def stop(self) -> None:
        """Stops its pump; for a front-end that is gone already."""
        assert self._pump.drain(WAIT_S)
        self._pump.stop()
