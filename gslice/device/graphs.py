"""CUDA graphs of what a library enqueues on a stream, for libraries that capture nothing alone."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable

from gslice.core.errors import GsliceError
from gslice.device.cuda import Driver

_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may allocate meanwhile
_NO_FLAGS = ctypes.c_ulonglong(0)


class StreamGraph:
    """A graph, ready to be launched.

    Args:
        driver: The driver.
        executable: CUgraphExec, which is its own from now on.

    Attributes:
        executable: Likewise; 0: it is given back.
    """

    def __init__(self, driver: Driver, executable: int) -> None:
        self._call = driver._call
        self.executable = executable

    def launch(self, stream: int) -> None:
        """Enqueues it on a CUstream."""
        self._call("cuGraphLaunch", ctypes.c_void_p(self.executable), ctypes.c_void_p(stream))

    def close(self) -> None:
        """Gives it back; it runs no more. Idempotent."""
        executable, self.executable = self.executable, 0
        if executable:
            self._call("cuGraphExecDestroy", ctypes.c_void_p(executable))


def capture(stream: int, work: Callable[[], None]) -> StreamGraph:
    """Records what `work` enqueues on a stream, instead of running it.

    Args:
        stream: A CUstream of the context that is current here; nothing else uses it meanwhile.
        work: May use other streams, if these wait for this one and it for them.

    Raises:
        GsliceError: The driver refuses; the stream is as it was before.
        Exception: What `work` raised, likewise.
    """
    driver = Driver()
    handle = ctypes.c_void_p(stream)
    driver._call("cuStreamBeginCapture_v2", handle, _THREAD_LOCAL)
    graph = ctypes.c_void_p()
    try:
        work()
    except BaseException:
        with contextlib.suppress(GsliceError):  # the first reason is the one to tell
            driver._call("cuStreamEndCapture", handle, ctypes.byref(graph))
            _destroy(driver, graph)
        raise
    driver._call("cuStreamEndCapture", handle, ctypes.byref(graph))
    executable = ctypes.c_void_p()
    try:
        driver._call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, _NO_FLAGS)
    finally:
        _destroy(driver, graph)
    return StreamGraph(driver, executable.value or 0)


def _destroy(driver: Driver, graph: ctypes.c_void_p) -> None:
    if graph.value:
        driver._call("cuGraphDestroy", graph)
