"""libcuda's stand-in as a library over it calls it, from the test's own process."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any

_HostFunction = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _NoCollection:
    """Garbage of any test may be memory of the device, and a host function must not call CUDA."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def _count(self, step: int) -> None:
        with self._lock:
            self._inside += step
            (gc.disable if self._inside else gc.enable)()


_no_collection = _NoCollection()


def host_function(run: Callable[[], object]) -> Any:
    """What `cuLaunchHostFunc` takes; to be kept as long as it may be called."""

    def called(_: object) -> None:
        with _no_collection():
            run()

    return _HostFunction(called)


class Driver:
    """What stand-ins for libraries need of the driver."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libcuda.so.1")

    def call(self, function: str, *arguments: Any) -> None:
        code = getattr(self._library, function)(*arguments)
        assert code == 0, f"{function}: {code}"

    def wait(self, stream: int) -> None:
        """Until a stream has nothing more to do."""
        self.call("cuStreamSynchronize", ctypes.c_void_p(stream))

    def copied(self, pointer: int, size: int) -> int:
        """Device memory with a copy of what lies at a pointer; it is never given back."""
        memory = ctypes.c_void_p()
        self.call("cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(max(size, 1)))
        assert memory.value is not None
        ctypes.memmove(memory.value, pointer, size)
        return memory.value
