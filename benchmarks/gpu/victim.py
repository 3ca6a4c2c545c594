"""A function on a GPU to be resized and killed: a timed kernel a batch, and a fault on order."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

from benchmarks.cores import ROOT
from benchmarks.gpu.kernels import FAULT
from gslice.device.burn import ENTRY, PTX, THREADS

_BLOCKS = 264  # one wave of a large GPU, and as many more as a share is smaller
_TURNS = 200_000
_SINK_BYTES = 256


def victim(folder: Path | None = None) -> dict[str, Any]:
    """The function in node.yaml, but for device and share.

    Args:
        folder: Where faults are ordered; None: nowhere.
    """
    return {
        "python": "benchmarks.gpu.victim:Victim",
        "python_path": str(ROOT),
        "args": {"folder": str(folder)} if folder else {},
    }


def order_fault(folder: Path, pid: int) -> None:
    """Has a worker's next batch write where nothing is."""
    (folder / f"fault-{pid}").touch()


class Victim:
    """y = x, after the kernel. One row at a time, so that there is a queue."""

    inputs = (("x", "INT32", [-1, 8]),)
    outputs = (("y", "INT32", [-1, 8]),)
    batch_max = 1
    stream = 0

    def setup(self, folder: str = "") -> None:
        """Loads the kernels.

        Args:
            folder: Where faults are ordered; empty: nowhere.
        """
        self._order = Path(folder, f"fault-{os.getpid()}") if folder else None
        self._driver = ctypes.CDLL("libcuda.so.1")
        self._burn, self._fault = self._kernel(PTX, ENTRY), self._kernel(FAULT, "gslice_fault")
        self._sink = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(self._sink), ctypes.c_size_t(_SINK_BYTES))

    def infer(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """One batch."""
        self._launch(self._burn, _BLOCKS, THREADS, self._sink, ctypes.c_uint(_TURNS))
        if self._order is not None and self._order.exists():
            self._order.unlink()  # whoever runs the request again is not to fault
            self._launch(self._fault, 1, 1)
        return {"y": inputs["x"]}

    def _kernel(self, ptx: str, name: str) -> ctypes.c_void_p:
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuModuleLoadData", ctypes.byref(module), ptx.encode())
        self._call("cuModuleGetFunction", ctypes.byref(function), module, name.encode())
        return function

    def _launch(
        self, kernel: ctypes.c_void_p, blocks: int, threads: int, *values: ctypes._SimpleCData[int]
    ) -> None:
        parameters = (ctypes.c_void_p * max(1, len(values)))(
            *(ctypes.addressof(value) for value in values)
        )
        grid = (blocks, 1, 1, threads, 1, 1, 0)
        self._call("cuLaunchKernel", kernel, *grid, ctypes.c_void_p(self.stream), parameters, None)

    def _call(self, function: str, *arguments: Any) -> None:
        code = getattr(self._driver, function)(*arguments)
        if code:
            raise MemoryError(f"{function} failed with {code}")
