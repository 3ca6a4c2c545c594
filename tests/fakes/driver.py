"""libcuda's stand-in as a library over it calls it, from the test's own process."""

from __future__ import annotations

import ctypes
from typing import Any


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
