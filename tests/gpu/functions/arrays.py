"""Functions of the python engine that compute y = 2 x with one library each."""

from __future__ import annotations

from typing import Any


class _Scale:
    inputs = (("x", "FP32", (-1, 1 << 14)),)
    outputs = (("y", "FP32", (-1, 1 << 14)),)
    stream: int  # set before each call


class TorchScale(_Scale):
    """By DLPack, on the stream that is torch's current one."""

    def infer(self, inputs: dict[str, Any]) -> dict[str, Any]:
        import torch

        x = torch.from_dlpack(inputs["x"])
        assert torch.cuda.current_stream().cuda_stream == self.stream
        return {"y": x * 2}


class TorchElsewhere(_Scale):
    """On a stream of its own: both sides have to wait."""

    def setup(self) -> None:
        import torch

        self.own = torch.cuda.Stream()

    def infer(self, inputs: dict[str, Any]) -> dict[str, Any]:
        import torch

        with torch.cuda.stream(self.own):
            torch.cuda._sleep(10_000_000)
            y = torch.from_dlpack(inputs["x"]) * 2
        torch.cuda.current_stream().wait_stream(self.own)
        y.record_stream(torch.cuda.current_stream())
        return {"y": y}


class CupyScale(_Scale):
    """By the CUDA Array Interface, on the stream that is CuPy's current one."""

    def infer(self, inputs: dict[str, Any]) -> dict[str, Any]:
        import cupy

        assert cupy.cuda.get_current_stream().ptr == self.stream
        return {"y": cupy.asarray(inputs["x"]) * 2}


class CupyLegacy(_Scale):
    """On the legacy default stream, which the lane's does not wait for by itself."""

    def infer(self, inputs: dict[str, Any]) -> dict[str, Any]:
        import cupy

        with cupy.cuda.Stream.null:
            return {"y": _Interface(cupy.from_dlpack(inputs["x"]) * 2)}


class NumbaScale(_Scale):
    """By the CUDA Array Interface, on the lane's stream."""

    def setup(self) -> None:
        from numba import cuda

        @cuda.jit
        def double(x: Any, y: Any) -> None:
            i = cuda.grid(1)
            if i < x.size:
                y[i] = 2 * x[i]

        self.double = double

    def infer(self, inputs: dict[str, Any]) -> dict[str, Any]:
        from numba import cuda

        stream = cuda.external_stream(self.stream)
        x = cuda.as_cuda_array(inputs["x"])
        y = cuda.device_array(x.shape, x.dtype, stream=stream)
        self.double[(x.size + 255) // 256, 256, stream](x.reshape(x.size), y.reshape(y.size))
        return {"y": y}


class NumbaDefault(NumbaScale):
    """By the CUDA Array Interface, on the default stream, as Numba does when nobody names one."""

    def infer(self, inputs: dict[str, Any]) -> dict[str, Any]:
        from numba import cuda

        x = cuda.as_cuda_array(inputs["x"])
        y = cuda.device_array(x.shape, x.dtype)
        self.double[(x.size + 255) // 256, 256](x.reshape(x.size), y.reshape(y.size))
        return {"y": y}


class _Interface:
    """An array that says on which stream it is made, and knows no DLPack."""

    def __init__(self, array: Any) -> None:
        self.array = array

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {**self.array.__cuda_array_interface__, "version": 3, "stream": 1}
