"""The daemon's side of the control API, played by the test."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

from gslice.core.errors import GsliceError
from gslice.protos import message
from gslice.protos.rpc import generic_handler

SERVICE = "gslice.v1.Control"
CALLS_MAX = 40


def status(*functions: str, **fields: Any) -> Any:
    """A `Status` with functions that serve."""
    made = message("gslice.v1.Status")(version="1.2.3", state="SERVING", uptime_s=5, **fields)
    for name in functions:
        made.functions.add(
            name=name, state="READY", device="cpu", devices=["cpu"], share_effective_percent=25
        )
    return made


class ControlDaemon:
    """Says what it is told to say.

    Attributes:
        orders: Requests that came, by method.
        stages: What each order answers: stages, or the error that refuses it.
        watching: How many follow the status now.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.profile: Any = None
        self.past: list[Any] = []
        self.watching = 0
        self.forget()
        self._watchers: list[queue.SimpleQueue[Any]] = []
        self._lock = threading.Lock()
        self._last: Any = None
        self._server: Any = None

    def forget(self) -> None:
        """Orders, and how they are answered."""
        self.orders: list[tuple[str, Any]] = []
        self.stages: list[tuple[str, str]] | GsliceError = [("plan", ""), ("done", "")]

    def start(self) -> ControlDaemon:
        self._server = grpc.server(ThreadPoolExecutor(CALLS_MAX))
        handler = generic_handler(SERVICE, _Servicer(self))
        self._server.add_generic_rpc_handlers((handler,))
        self._server.add_insecure_port(f"unix:{self.path}")
        self._server.start()
        return self

    def stop(self) -> None:
        """It goes, as one that is killed."""
        with self._lock:
            for each in self._watchers:
                each.put(None)
        self._server.stop(None).wait()

    def tell(self, told: Any) -> None:
        """What everybody who watches hears, and who comes later hears first."""
        with self._lock:
            self._last = told
            for each in self._watchers:
                each.put(told)

    def follow(self, context: Any) -> Iterator[Any]:
        own: queue.SimpleQueue[Any] = queue.SimpleQueue()
        with self._lock:
            self._watchers.append(own)
            self.watching += 1
            if self._last is not None:
                own.put(self._last)
        context.add_callback(lambda: own.put(None))
        try:
            while (told := own.get()) is not None:
                yield told
        finally:
            with self._lock:
                self._watchers.remove(own)
                self.watching -= 1


class _Servicer:
    def __init__(self, daemon: ControlDaemon) -> None:
        self._daemon = daemon

    def __getattr__(self, method: str) -> Callable[[Any, Any], Any]:
        return lambda request, context: self._order(method, request, context)

    def Watch(self, request: Any, context: Any) -> Iterator[Any]:
        return self._daemon.follow(context)

    def Events(self, request: Any, context: Any) -> Iterator[Any]:
        yield from self._daemon.past

    def Profile(self, request: Any, context: Any) -> Iterator[Any]:
        assert request.show
        yield message("gslice.v1.ProfileStep")(result=self._daemon.profile)

    def _order(self, method: str, request: Any, context: Any) -> Iterator[Any]:
        self._daemon.orders.append((method, request))
        stages = self._daemon.stages
        if isinstance(stages, GsliceError):
            codes = {code.value[0]: code for code in grpc.StatusCode}
            context.abort(codes[stages.code], str(stages))
        for name, detail in stages:
            yield message("gslice.v1.Stage")(name=name, detail=detail)
