"""The worker's control loop: orders of the daemon in, answers out.

One thread, one poll. It outlives its daemon: while no daemon is connected it serves on for the
orphan grace, and whoever connects within is told everything by Hello, which is adoption.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from gslice.core.errors import (
    ChannelClosed,
    DeadlineExceeded,
    FailedPrecondition,
    GsliceError,
    Internal,
)
from gslice.core.logs import JsonLines
from gslice.device.tasks import thread_ids
from gslice.ipc.channel import Channel, Received
from gslice.ipc.messages import (
    EXIT_DEVICE_LOST,
    AddFrontend,
    Assign,
    Attach,
    Drain,
    Exit,
    Failed,
    Load,
    Loaded,
    Measure,
    Message,
    Ok,
    Prepare,
    Ready,
    RemoveFrontend,
    SetShare,
    ShareSet,
    WorkerState,
)
from gslice.ipc.process import hello
from gslice.worker.engines import preload
from gslice.worker.function import ServedFunction

_log = logging.getLogger(__name__)

_SIGNALS_MAX = 4096

LAST_DRAIN_S = 10.0
"""How long requests in flight may take when no daemon says so."""


class Worker:
    """See the module.

    Args:
        listener: Where daemons connect.
        orphan_grace_s: How long to serve without a daemon.
        lines: Makes the lines of its log; those of JSON name the function.
    """

    def __init__(
        self,
        listener: socket.socket,
        orphan_grace_s: float,
        lines: logging.Formatter | None = None,
    ) -> None:
        self._listener = listener
        self._orphan_grace_s = orphan_grace_s
        self._lines = lines
        self._channels: dict[int, Channel] = {}
        self._function: ServedFunction | None = None
        self._eventfds: dict[int, int] = {}
        self._state = "empty"
        self._met_daemon = False
        self._running = True
        self._control_tids = thread_ids()  # no engine has been imported yet
        self._terminated, self._wakeup = socket.socketpair()
        self._poll = select.poll()
        self._handlers: dict[type, Callable[[Any, Received], Message | None]] = {
            Prepare: self._on_prepare,
            Assign: self._on_assign,
            Load: self._on_load,
            Attach: self._on_attach,
            Measure: self._on_measure,
            AddFrontend: self._on_add_frontend,
            RemoveFrontend: self._on_remove_frontend,
            SetShare: self._on_set_share,
            Drain: self._on_drain,
            Exit: self._on_exit,
        }

    def run(self) -> None:
        """Serves until it is told to exit, or nobody tells it anything for the orphan grace."""
        self._catch_signals()
        self._poll.register(self._listener, select.POLLIN)
        self._poll.register(self._terminated, select.POLLIN)
        try:
            while self._running:
                self._turn()
        finally:
            self._close()

    # ---- the loop ----------------------------------------------------------------------------

    def _turn(self) -> None:
        for fd, _ in self._wait():
            if fd == self._listener.fileno():
                self._accept()
            elif fd == self._terminated.fileno():
                self._signalled()
            elif fd in self._channels:
                self._receive(self._channels[fd])
            elif self._function is not None and fd == self._function.fault_fd:
                self._lost()

    def _wait(self) -> list[tuple[int, int]]:
        if self._channels:
            return self._poll.poll()
        if self._met_daemon and self._state != "ready":
            self._end("the daemon is gone and nothing is served")
            return []
        # Without a daemon: until one connects, or the grace ends.
        deadline = time.monotonic() + self._orphan_grace_s
        while (left_s := deadline - time.monotonic()) > 0:
            if events := self._poll.poll(left_s * 1000):
                return events
        self._end(f"no daemon for {self._orphan_grace_s:g} s")
        return []

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        channel = Channel(connection)
        try:
            channel.send(hello(worker=self._told()), self._descriptors())
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
        try:
            answer = self._handle(received)
        finally:
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
                raise FailedPrecondition(f"{name} is no order for a worker")
            return handler(received.message, received)
        except GsliceError as error:
            _log.error("%s failed: %s", name, error)
            return Failed(error.code, str(error))
        except Exception as error:
            _log.exception("%s failed", name)
            return Failed(Internal.code, f"{name} failed: {type(error).__name__}: {error}")

    def _along(self, answer: Message) -> list[int]:
        """Whoever made weights hands them over."""
        store = self._function.weights if self._function is not None else None
        made = isinstance(answer, Loaded) and store is not None and store.made_bytes > 0
        return [store.fd] if made and store is not None else []

    def _drop(self, channel: Channel) -> None:
        self._poll.unregister(channel.fileno())
        del self._channels[channel.fileno()]
        channel.close()

    # ---- orders ------------------------------------------------------------------------------

    def _on_prepare(self, order: Prepare, _received: Received) -> Message:
        self._check_empty()
        preload(order.engine)
        return Ok()

    def _on_assign(self, order: Assign, received: Received) -> Message:
        self._check_empty()
        log_fd = received.take_fd()
        try:
            for standard in (sys.stdout.fileno(), sys.stderr.fileno()):
                os.dup2(log_fd, standard)
        finally:
            os.close(log_fd)
        os.environ.update(order.environment)
        return Ok()

    def _on_load(self, order: Load, received: Received) -> Message:
        self._check_empty()
        self._state = "loading"
        if isinstance(self._lines, JsonLines):
            self._lines.function = order.spec.name
        weights_fd = received.fds[0] if order.weights is not None and received.fds else -1
        with self._passing_to("loaded"):
            function = self._function = ServedFunction(order, self._control_tids, weights_fd)
        store = function.weights
        if store is None:
            return Loaded(function.signature, function.memory)
        return Loaded(function.signature, function.memory, store.shared, store.own)

    def _on_attach(self, order: Attach, received: Received) -> Message:
        function = self._loaded()
        fds = received.take_fds(1 if order.turn < 0 else 2)
        try:
            with self._passing_to("ready"):
                function.attach(order, fds, self._eventfds)
        finally:
            for fd in fds:
                os.close(fd)
        if function.fault_fd >= 0:
            self._poll.register(function.fault_fd, select.POLLIN)
        return Ready(
            function.share_effective_percent,
            function.limiter,
            function.memory,
            function.threads,
            function.timed,
        )

    def _on_measure(self, order: Measure, _received: Received) -> Message:
        return self._loaded().measure(order)

    def _on_add_frontend(self, order: AddFrontend, received: Received) -> Message:
        eventfd = received.take_fd()
        self._forget_frontend(order.index)
        self._eventfds[order.index] = eventfd
        if self._function is not None:
            self._function.add_frontend(order.index, eventfd)
        return Ok()

    def _on_remove_frontend(self, order: RemoveFrontend, _received: Received) -> Message:
        if self._function is not None:
            self._function.remove_frontend(order.index)
        self._forget_frontend(order.index)
        return Ok()

    def _on_set_share(self, order: SetShare, _received: Received) -> Message:
        return ShareSet(self._loaded().set_share(order.share_percent))

    def _on_drain(self, order: Drain, _received: Received) -> Message:
        self._state = "draining"
        if not self._loaded().drain(order.timeout_ms / 1000):
            raise DeadlineExceeded(f"batches were still in flight after {order.timeout_ms} ms")
        return Ok()

    def _on_exit(self, _order: Exit, _received: Received) -> None:
        self._running = False

    @contextlib.contextmanager
    def _passing_to(self, state: str) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._state = "failed"
            raise
        self._state = state

    def _check_empty(self) -> None:
        if self._state != "empty":
            raise FailedPrecondition(f"this worker is {self._state}; it loads one function only")

    def _loaded(self) -> ServedFunction:
        if self._function is None:
            raise FailedPrecondition("no function is loaded")
        return self._function

    def _forget_frontend(self, index: int) -> None:
        eventfd = self._eventfds.pop(index, None)
        if eventfd is not None:
            os.close(eventfd)

    # ---- life --------------------------------------------------------------------------------

    def _descriptors(self) -> list[int]:
        """What goes along with Hello: of the segment first, then of the turn board and weights."""
        function = self._function
        if function is None or function.segment is None:
            return []
        board = function.board.fd if function.board is not None else -1
        shared = function.weights.fd if function.weights is not None else -1
        return [function.segment.fd, *(fd for fd in (board, shared) if fd >= 0)]

    def _told(self) -> WorkerState:
        function = self._function
        if function is None:
            return WorkerState(state=self._state)
        return WorkerState(
            spec=function.spec,
            signature=function.signature,
            instance=function.index,
            state=self._state,
            share_percent=function.share_percent,
            share_effective_percent=function.share_effective_percent,
            limiter=function.limiter,
            limiter_ordered=function.order.limiter,
            cpus=function.order.cpus,
            memory=function.memory,
            threads=function.threads,
            weights=function.weights.shared if function.weights else None,
            turn=function.turn,
        )

    def _catch_signals(self) -> None:
        """Ctrl-C is the daemon's to handle; SIGTERM becomes readable in the poll."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: None)
        self._wakeup.setblocking(False)
        signal.set_wakeup_fd(self._wakeup.fileno())

    def _signalled(self) -> None:
        # The wake-up socket tells of every signal that has a handler, the user's included.
        if signal.SIGTERM in self._terminated.recv(_SIGNALS_MAX):
            self._end("SIGTERM")

    def _lost(self) -> NoReturn:
        """The device takes nothing more, so nothing can be given back in order.

        What is claimed stays so: the daemon knows by the exit code that it is to run again.
        """
        _log.error("the device is lost: %s", self._loaded().fault())
        logging.shutdown()
        os._exit(EXIT_DEVICE_LOST)

    def _end(self, reason: str) -> None:
        _log.info("ending: %s", reason)
        self._state = "draining"
        if self._function is not None and not self._function.drain(LAST_DRAIN_S):
            _log.warning("batches were still in flight after %g s", LAST_DRAIN_S)
        self._running = False

    def _close(self) -> None:
        if self._function is not None:
            self._function.close()
        signal.set_wakeup_fd(-1)
        for index in list(self._eventfds):
            self._forget_frontend(index)
        for channel in list(self._channels.values()):
            self._drop(channel)
        for sock in (self._terminated, self._wakeup, self._listener):
            sock.close()
