"""A host: the one process in which all functions of a GPU are, under green contexts.

Each has a worker of its own here, in a thread: a control loop with its own socket, so that a daemon
leads it as if it were a process. What is the process's is the host's: its environment, its signals,
its standard output, its end. What cannot be ended in order ends it, and with it every function.
"""

from __future__ import annotations

import logging
import os
import socket
import threading

from gslice.core.errors import FailedPrecondition
from gslice.ipc.channel import Received
from gslice.ipc.messages import Exit, Hello, HostState, Message, Ok, TakeIn
from gslice.ipc.process import hello
from gslice.worker.household import Household
from gslice.worker.loop import ControlLoop
from gslice.worker.worker import Worker

_log = logging.getLogger(__name__)

EXIT_DISORDER = 70  # os.EX_SOFTWARE: a worker's thread ended, and nobody knows what it left


class Host(ControlLoop):
    """See the module.

    Args:
        listener: Where daemons connect to the host itself.
        orphan_grace_s: How long its workers serve without a daemon.
        device: The GPU's name, for daemons to come.
    """

    def __init__(self, listener: socket.socket, orphan_grace_s: float, device: str) -> None:
        super().__init__(listener, orphan_grace_s, {TakeIn: self._on_take_in, Exit: self._on_exit})
        self._device = device
        self._household = Household()
        self._workers: dict[str, tuple[Worker, threading.Thread]] = {}

    # ---- orders ------------------------------------------------------------------------------

    def _on_take_in(self, order: TakeIn, received: Received) -> Message:
        if order.name in self._workers:
            raise FailedPrecondition(f"worker {order.name} is here already")
        listener_fd, log_fd = received.take_fds(2)
        listener = socket.socket(fileno=listener_fd)
        worker = Worker(listener, self._orphan_grace_s, self._household)
        thread = threading.Thread(
            target=self._live, args=(order.name, worker, log_fd), name=order.name, daemon=True
        )
        self._workers[order.name] = worker, thread
        thread.start()
        return Ok()

    def _on_exit(self, _order: Exit, _received: Received) -> None:
        self._end("told to")

    # ---- life --------------------------------------------------------------------------------

    def _hello(self) -> tuple[Hello, list[int]]:
        return hello(host=HostState(self._device, sorted(self._workers))), []

    def _patience_s(self) -> float | None:
        if self._channels or self._workers:  # workers know themselves how long they may go on
            return None
        return 0.0 if self._met_daemon else self._orphan_grace_s

    def _end(self, reason: str) -> None:
        _log.info("ending: %s", reason)
        self._running = False

    def _close(self) -> None:
        """From the first line on no daemon takes it for a place where a function can go."""
        super()._close()
        left = list(self._workers.values())
        for worker, _ in left:
            worker.terminate()
        for _, thread in left:
            thread.join()

    def _live(self, name: str, worker: Worker, log_fd: int) -> None:
        """A worker's thread, from its beginning to its end."""
        try:
            with _OwnLog(log_fd, worker):
                worker.run()
        except BaseException:
            _log.exception("worker %s did not end in order, so all here end with it", name)
            logging.shutdown()
            os._exit(EXIT_DISORDER)
        del self._workers[name]
        self._wake(0)


class _OwnLog:
    """Inside, what this thread and a worker's lanes log goes to a log of the worker's own.

    What is printed, and what is logged by threads that a library or the user's code starts, stays
    the host's.

    Args:
        fd: Of the log; its own from now on.
        worker: The worker, which lives in this thread.
    """

    def __init__(self, fd: int, worker: Worker) -> None:
        self._handler = logging.StreamHandler(open(fd, "a", buffering=1))  # noqa: SIM115
        self._worker = worker
        self._tid = threading.get_native_id()
        self._others = list(logging.getLogger().handlers)
        if self._others:
            self._handler.setFormatter(self._others[0].formatter)

    def __enter__(self) -> None:
        self._handler.addFilter(self._is_ours)
        for other in self._others:
            other.addFilter(self._is_not_ours)
        logging.getLogger().addHandler(self._handler)

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self._handler)
        for other in self._others:
            other.removeFilter(self._is_not_ours)
        self._handler.stream.close()

    def _is_ours(self, _record: logging.LogRecord) -> bool:
        tid = threading.get_native_id()  # handlers run where the line is logged
        return tid == self._tid or tid in self._worker.lane_tids

    def _is_not_ours(self, record: logging.LogRecord) -> bool:
        return not self._is_ours(record)
