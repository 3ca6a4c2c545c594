"""A control loop: daemons connect, are told what is here, and give orders, one at a time.

One thread, one poll. It outlives its daemon: while none is connected it goes on for the orphan
grace, and whoever connects within is told everything by Hello, which is adoption.
"""

from __future__ import annotations

import abc
import contextlib
import logging
import select
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from gslice.core.errors import ChannelClosed, FailedPrecondition, GsliceError, Internal, from_code
from gslice.ipc.channel import ANSWERS, Channel, Received
from gslice.ipc.messages import Failed, Hello, Message

_log = logging.getLogger(__name__)

_SIGNALS_MAX = 4096
_A = TypeVar("_A")

Handler = Callable[[Any, Received], Message | None]
"""Takes an order of the type that it is for; its answer, if it has one."""


class ControlLoop(abc.ABC):
    """See the module. Subclasses say what is here, what they obey, and how they end.

    Args:
        listener: Where daemons connect.
        orphan_grace_s: How long to go on without a daemon.
        handlers: By type of order.
    """

    def __init__(
        self,
        listener: socket.socket,
        orphan_grace_s: float,
        handlers: dict[type, Handler],
    ) -> None:
        self._listener = listener
        self._orphan_grace_s = orphan_grace_s
        self._handlers = handlers
        self._channels: dict[int, Channel] = {}
        self._obeyed: Channel | None = None  # whose order is carried out
        self._later: deque[Received] = deque()  # that came while it was asked something
        self._asked = 0
        self._met_daemon = False
        self._running = True
        self._terminated, self._wakeup = socket.socketpair()
        self._wakeup.setblocking(False)
        self._catches_signals = False
        self._poll = select.poll()

    def run(self) -> None:
        """Obeys until it is told to end, or nobody tells it anything for the orphan grace."""
        self._poll.register(self._listener, select.POLLIN)
        self._poll.register(self._terminated, select.POLLIN)
        try:
            while self._running:
                for fd, _ in self._wait():
                    self._turn_to(fd)
        finally:
            self._close()

    def catch_signals(self) -> None:
        """Ctrl-C is the daemon's to handle; SIGTERM becomes readable in the poll."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.set_wakeup_fd(self._wakeup.fileno())
        self._catches_signals = True

    def terminate(self) -> None:
        """The same as SIGTERM to its process; from any thread, and no harm once it has ended."""
        self._wake(signal.SIGTERM)

    def ask(self, question: Message, answer: type[_A]) -> _A:
        """Asks the daemon whose order is carried out, and waits for its answer.

        Raises:
            GsliceError: it answered so, or is gone.
        """
        assert self._obeyed is not None
        self._asked += 1
        self._obeyed.send(question, seq=self._asked)
        while True:
            received = self._obeyed.recv()
            if received.seq == self._asked and isinstance(received.message, ANSWERS):
                break
            self._later.append(received)
        received.close()
        if isinstance(received.message, Failed):
            raise from_code(received.message.code, received.message.message)
        if not isinstance(received.message, answer):
            raise Internal(f"{type(question).__name__} was not answered as it should be")
        return received.message

    # ---- what subclasses say -------------------------------------------------------------------

    @abc.abstractmethod
    def _hello(self) -> tuple[Hello, list[int]]:
        """What a daemon is told first, with which descriptors."""

    @abc.abstractmethod
    def _patience_s(self) -> float | None:
        """How long to wait for a daemon; None: nobody has to come."""

    @abc.abstractmethod
    def _end(self, reason: str) -> None:
        """Ends in order."""

    def _along(self, _answer: Message) -> list[int]:
        """The descriptors that go along with an answer."""
        return []

    def _other(self, fd: int) -> None:  # noqa: B027
        """Something else that is polled is readable."""

    # ---- the loop ----------------------------------------------------------------------------

    def _wait(self) -> list[tuple[int, int]]:
        patience_s = self._patience_s()
        if patience_s is None:
            return self._poll.poll()
        # Without a daemon: until one connects, or the grace ends.
        deadline = time.monotonic() + patience_s
        while (left_s := deadline - time.monotonic()) > 0:
            if events := self._poll.poll(left_s * 1000):
                return events
        without = f"no daemon for {patience_s:g} s"
        self._end(without if patience_s else "the daemon is gone and nothing is served")
        return []

    def _turn_to(self, fd: int) -> None:
        if fd == self._listener.fileno():
            self._accept()
        elif fd == self._terminated.fileno():
            # The wake-up socket tells of every signal that has a handler, the user's included.
            if signal.SIGTERM in self._terminated.recv(_SIGNALS_MAX):
                self._end("SIGTERM")
        elif fd in self._channels:
            self._receive(self._channels[fd])
        else:
            self._other(fd)

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        channel = Channel(connection)
        try:
            channel.send(*self._hello())
        except ChannelClosed:
            channel.close()
            return
        except Exception:  # whoever cannot be greeted must not end what serves
            _log.exception("a daemon could not be told what is served here")
            channel.close()
            return
        self._met_daemon = True
        self._channels[channel.fileno()] = channel
        self._poll.register(channel.fileno(), select.POLLIN)

    def _receive(self, channel: Channel) -> None:
        try:
            received = channel.recv()
        except GsliceError as error:
            if not isinstance(error, ChannelClosed):
                _log.error("a daemon that breaks the protocol is dropped: %s", error)
            self._drop(channel)
            return
        self._obey(channel, received)
        while self._later:
            received = self._later.popleft()
            if channel.fileno() in self._channels:
                self._obey(channel, received)
            received.close()

    def _obey(self, channel: Channel, received: Received) -> None:
        self._obeyed = channel
        try:
            answer = self._handle(received)
        finally:
            self._obeyed = None
            received.close()
        if received.seq and answer is not None:
            try:
                channel.send(answer, self._along(answer), seq=received.seq)
            except ChannelClosed:
                self._drop(channel)

    def _handle(self, received: Received) -> Message | None:
        name = type(received.message).__name__
        handler = self._handlers.get(type(received.message))
        try:
            if handler is None:
                raise FailedPrecondition(f"{name} is no order for a {type(self).__name__.lower()}")
            return handler(received.message, received)
        except GsliceError as error:
            _log.error("%s failed: %s", name, error)
            return Failed(error.code, str(error))
        except Exception as error:
            _log.exception("%s failed", name)
            return Failed(Internal.code, f"{name} failed: {type(error).__name__}: {error}")

    def _drop(self, channel: Channel) -> None:
        self._poll.unregister(channel.fileno())
        del self._channels[channel.fileno()]
        channel.close()

    def _wake(self, byte: int) -> None:
        with contextlib.suppress(OSError):  # it has ended; or so much waits that it wakes anyway
            self._wakeup.send(bytes([byte]))

    def _close(self) -> None:
        """Daemons take the end of their channels for the end of everything, so these come last."""
        if self._catches_signals:
            signal.set_wakeup_fd(-1)
        for channel in list(self._channels.values()):
            self._drop(channel)
        for sock in (self._terminated, self._wakeup, self._listener):
            sock.close()
