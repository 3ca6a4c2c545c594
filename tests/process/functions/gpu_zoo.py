"""Python functions on a GPU that tests serve; they ask the driver themselves, as CuPy would."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np

PTX = b"""
.version 7.0
.target sm_70
.address_size 64
.visible .entry gslice_fault() { .reg .b64 %d<2>; mov.u64 %d1, 16; st.global.u64 [%d1], %d1; ret; }
"""


class OnGpu:
    """y = x, one number a row."""

    inputs = (("x", "INT64", [-1, 1]),)
    outputs = (("y", "INT64", [-1, 1]),)

    def setup(self, weight_bytes: int = 0, **more: object) -> None:
        self.driver = ctypes.CDLL("libcuda.so.1")
        if weight_bytes:
            address = ctypes.c_void_p()
            self.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(weight_bytes))

    def call(self, function: str, *arguments: object) -> None:
        code = getattr(self.driver, function)(*arguments)
        if code:
            raise MemoryError(f"{function} failed with {code}")

    def host(self, tensor) -> np.ndarray:
        """A tensor in host memory; waits for its stream."""
        values = np.empty(tensor.shape, np.int64)
        self.call("cuStreamSynchronize", ctypes.c_void_p(self.stream))
        self.call(
            "cuMemcpyDtoH_v2",
            ctypes.c_void_p(values.ctypes.data),
            ctypes.c_void_p(tensor.pointer),
            ctypes.c_size_t(values.nbytes),
        )
        return values

    def infer(self, inputs):
        return {"y": self.host(inputs["x"])}


class Weighted(OnGpu):
    """y = factor * x, by as many equal weights as are asked for."""

    def load_weights(self, factor: int, count: int = 1, **more: object) -> dict[str, np.ndarray]:
        return {"w": np.full(count, factor, np.int64)}

    def infer(self, inputs):
        weights, values = self.weights["w"], self.host(inputs["x"])
        (first,) = (ctypes.c_int64 * 1).from_address(weights.pointer)
        (last,) = (ctypes.c_int64 * 1).from_address(weights.pointer + 8 * (weights.shape[0] - 1))
        assert first == last
        return {"y": values * first}


class SlowSetup(OnGpu):
    """y = x; while the file `marker` is there, setting up waits for a writer to open the gate."""

    def setup(self, gate: str, marker: str, **more: object) -> None:
        super().setup(**more)
        if Path(marker).exists():
            with Path(gate).open("rb") as file:
                file.read()


class GateOnGpu(OnGpu):
    """y = x; a negative x first waits for a writer to open the gate, which is a FIFO."""

    batch_max = 1

    def setup(self, gate: str, **more: object) -> None:
        super().setup(**more)
        self.gate = gate

    def infer(self, inputs):
        values = self.host(inputs["x"])
        if values.min() < 0:
            with Path(self.gate).open("rb") as gate:
                gate.read()
        return {"y": values}


class Faults(Weighted):
    """y = factor * x; a negative x writes where nothing is, the first time or each time.

    It ends the context for good, and that of everybody on the GPU.
    """

    def setup(self, marker: str = "", **more: object) -> None:
        super().setup(**more)
        self.marker = marker

    def load_weights(self, factor: int = 1, **more: object) -> dict[str, np.ndarray]:
        return super().load_weights(factor)

    def infer(self, inputs):
        values = self.host(inputs["x"])
        if values.min() < 0 and self.is_due():
            module, kernel = ctypes.c_void_p(), ctypes.c_void_p()
            self.call("cuModuleLoadData", ctypes.byref(module), PTX)
            self.call("cuModuleGetFunction", ctypes.byref(kernel), module, b"gslice_fault")
            grid = (1, 1, 1, 1, 1, 1, 0)
            stream = ctypes.c_void_p(self.stream)
            self.call("cuLaunchKernel", kernel, *grid, stream, (ctypes.c_void_p * 1)(), None)
        return super().infer(inputs)

    def is_due(self) -> bool:
        if not self.marker:
            return True
        if Path(self.marker).exists():
            return False
        Path(self.marker).touch()
        return True
