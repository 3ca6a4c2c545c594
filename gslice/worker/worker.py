"""The worker: orders of the daemon about one instance of one function, and their answers."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import sys
from collections.abc import Iterator
from typing import NoReturn

from gslice.core.errors import ChannelClosed, DeadlineExceeded, FailedPrecondition
from gslice.core.hardening import become
from gslice.core.logs import JsonLines
from gslice.device.tasks import thread_ids
from gslice.ipc.channel import Received
from gslice.ipc.messages import (
    EXIT_DEVICE_LOST,
    AddFrontend,
    Assign,
    Attach,
    Drain,
    Exit,
    Hello,
    Left,
    Load,
    Loaded,
    Measure,
    Message,
    Ok,
    Prepare,
    Ready,
    Record,
    Recorded,
    RemoveFrontend,
    SetShare,
    TakeRecorded,
    WorkerState,
)
from gslice.ipc.process import hello
from gslice.worker.brokered import BrokeredLimiter
from gslice.worker.engines import preload
from gslice.worker.function import ServedFunction
from gslice.worker.green import GREEN
from gslice.worker.household import Household
from gslice.worker.loop import ControlLoop, Handler
from gslice.worker.readable import check_readable

_log = logging.getLogger(__name__)

LAST_DRAIN_S = 10.0
"""How long requests in flight may take when no daemon says so."""


class Worker(ControlLoop):
    """See the module. It has a process to itself, or a thread of a host.

    Args:
        listener: Where daemons connect.
        orphan_grace_s: How long to serve without a daemon.
        household: What it shares with others of its host; None: the process is its own.
        lines: Makes the lines of its log; those of JSON name the function.
    """

    def __init__(
        self,
        listener: socket.socket,
        orphan_grace_s: float,
        household: Household | None = None,
        lines: logging.Formatter | None = None,
    ) -> None:
        self._lines = lines
        handlers: dict[type, Handler] = {
            Prepare: self._on_prepare,
            Assign: self._on_assign,
            Load: self._on_load,
            Attach: self._on_attach,
            Measure: self._on_measure,
            AddFrontend: self._on_add_frontend,
            RemoveFrontend: self._on_remove_frontend,
            SetShare: self._on_set_share,
            Record: self._on_record,
            TakeRecorded: self._on_take_recorded,
            Drain: self._on_drain,
            Exit: self._on_exit,
        }
        super().__init__(listener, orphan_grace_s, handlers)
        self._household = household
        self._function: ServedFunction | None = None
        self._eventfds: dict[int, int] = {}
        self._state = "empty"
        self._control_tids = thread_ids()  # no engine has been imported yet

    @property
    def lane_tids(self) -> frozenset[int]:
        """Of the threads in which its function's batches run."""
        return self._function.lane_tids if self._function is not None else frozenset()

    # ---- orders ------------------------------------------------------------------------------

    def _on_prepare(self, order: Prepare, _received: Received) -> Message:
        self._check_empty()
        preload(order.engine)
        return Ok()

    def _on_assign(self, order: Assign, received: Received) -> Message:
        self._check_empty()
        if self._household is not None:
            raise FailedPrecondition("others are in this process; it cannot be assigned")
        log_fd = received.take_fd()
        try:
            for standard in (sys.stdout.fileno(), sys.stderr.fileno()):
                os.dup2(log_fd, standard)
        finally:
            os.close(log_fd)
        if (user := order.user) is not None:
            become(user.uid, user.gid, user.groups)
            os.environ.update(user.environment)
        os.environ.update(order.environment)
        return Ok()

    def _on_load(self, order: Load, received: Received) -> Message:
        self._check_empty()
        if self._household is not None and order.limiter != GREEN:
            raise FailedPrecondition(f"limiter {order.limiter} needs a process of its own")
        self._state = "loading"
        if isinstance(self._lines, JsonLines):
            self._lines.function = order.spec.name
        weights_fd = received.fds[0] if order.weights is not None and received.fds else -1
        with self._passing_to("loaded"):
            check_readable(order.spec)
            held = BrokeredLimiter(order.cpus, self.ask) if order.brokered else None
            function = ServedFunction(order, self._control_tids, weights_fd, self._household, held)
            self._function = function
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
        return self._loaded().set_share(order.share_percent)

    def _on_record(self, order: Record, _received: Received) -> Message:
        self._loaded().record(order)
        return Ok()

    def _on_take_recorded(self, order: TakeRecorded, received: Received) -> Recorded:
        function = self._loaded()
        if not order.end:
            return function.recorded()
        recorded, data = function.take_recorded()
        if received.fds:
            with os.fdopen(received.take_fd(), "wb") as file:
                file.write(data)
        return recorded

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

    def _hello(self) -> tuple[Hello, list[int]]:
        return hello(worker=self._told()), self._descriptors()

    def _patience_s(self) -> float | None:
        if self._channels:
            return None
        return 0.0 if self._met_daemon and self._state != "ready" else self._orphan_grace_s

    def _other(self, fd: int) -> None:
        if self._function is not None and fd == self._function.fault_fd:
            self._lost()

    def _along(self, answer: Message) -> list[int]:
        """Whoever made weights hands them over."""
        store = self._function.weights if self._function is not None else None
        made = isinstance(answer, Loaded) and store is not None and store.made_bytes > 0
        return [store.fd] if made and store is not None else []

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
            return WorkerState(state=self._state, hosted=self._household is not None)
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
            seat=function.order.seat,
            hosted=self._household is not None,
        )

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
        for index in list(self._eventfds):
            self._forget_frontend(index)
        if self._household is not None:
            for channel in self._channels.values():
                with contextlib.suppress(ChannelClosed):
                    channel.send(Left())
        super()._close()
