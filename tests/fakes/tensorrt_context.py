"""Batches of the stand-in for TensorRT: host functions on the stream, over the fake libcuda."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.fakes.driver import host_function
from tests.fakes.tensorrt_types import refusable

if TYPE_CHECKING:
    from tests.fakes.tensorrt import CudaEngine, NetworkTensor

_ALIGNMENT = 256


class Context:
    def __init__(self, engine: CudaEngine) -> None:
        self.api, self._engine = engine.api, engine
        self.profile = -1
        self._work: tuple[int, int] = (0, 0)
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._allocators: dict[str, Any] = {}
        self._functions: list[Any] = []  # what graphs and streams still call
        self.aux_streams: list[int] = []
        self._driver = ctypes.CDLL("libcuda.so.1")
        self._is_captured = False
        if self.api.is_rtx:
            self.is_stream_capturable = lambda stream: (
                "is_stream_capturable" not in (self.api.refusals)
            )

    @refusable(False)
    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        self.profile = index
        return 0 <= index < len(self._engine.profiles)

    def set_device_memory(self, memory: int, size: int) -> None:
        if "set_device_memory" in self.api.refusals:
            self.api.refuse(self.api.refusals["set_device_memory"], None)
        self._work = memory, size

    def set_aux_streams(self, streams: list[int]) -> None:
        self.aux_streams = streams

    @refusable(False)
    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        ends = self._engine.profiles[self.profile].get(name) or [shape] * 3
        fits = len(ends[0]) == len(shape) and all(
            least <= length <= most
            for least, length, most in zip(ends[0], shape, ends[2], strict=True)
        )
        if not fits:
            return bool(self.api.refuse(f"{name}: {shape} is outside of the profile", False))
        if self._is_captured and self._shapes.get(name) != shape:
            self.api.violations.append(f"{name}: a captured context gets another shape")
        self._shapes[name] = shape
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        """As far as the inputs' shapes say: dimensions of one name are as long."""
        known: dict[str, int] = {}
        for tensor in self._engine.inputs:
            for dim, length in zip(tensor.dims, self._shapes[tensor.name], strict=True):
                known[dim.dim_param] = length
        (output,) = (tensor for tensor in self._engine.outputs if tensor.name == name)
        return tuple(
            length if length >= 0 else known.get(dim.dim_param, -1)
            for length, dim in zip(output.shape, output.dims, strict=True)
        )

    @refusable(False)
    def set_tensor_address(self, name: str, address: int) -> bool:
        if address % _ALIGNMENT:
            self.api.violations.append(f"{name}: an address that is no multiple of {_ALIGNMENT}")
        self._addresses[name] = address
        return True

    @refusable(False)
    def set_output_allocator(self, name: str, allocator: Any) -> bool:
        self._allocators[name] = allocator
        return True

    @refusable(False)
    def execute_async_v3(self, stream: int) -> bool:
        address, size = self._work
        if not address or size < self._engine.get_device_memory_size_for_profile_v2(self.profile):
            return bool(self.api.refuse("the context has too little device memory", False))
        if stream in self.aux_streams or len({*self.aux_streams}) < len(self.aux_streams):
            self.api.violations.append("a stream that waits for itself")
        if self._allocators:
            return self._run_now(stream)
        shapes, addresses = dict(self._shapes), dict(self._addresses)

        def run() -> None:
            for tensor, result in self._results(shapes, addresses):
                ctypes.memmove(addresses[tensor.name], result.ctypes.data, result.nbytes)

        function = host_function(run)
        self._functions.append(function)
        capturing = ctypes.c_int()
        self._call("cuStreamIsCapturing", ctypes.c_void_p(stream), ctypes.byref(capturing))
        if capturing.value:
            self._is_captured = True
            self.api.captured.append(self.profile)
        self._call("cuLaunchHostFunc", ctypes.c_void_p(stream), function, None)
        return True

    def _run_now(self, stream: int) -> bool:
        """A shape that the data decides is known only when it has run."""
        self._call("cuStreamSynchronize", ctypes.c_void_p(stream))
        for tensor, result in self._results(self._shapes, self._addresses):
            address = self._addresses.get(tensor.name, 0)
            if (allocator := self._allocators.get(tensor.name)) is not None:
                size = max(1, result.nbytes)
                address = allocator.reallocate_output_async(tensor.name, 0, size, 256, stream)
                if not address:
                    return bool(self.api.refuse("the allocator gave no memory", False))
                allocator.notify_shape(tensor.name, list(result.shape))
            ctypes.memmove(address, result.ctypes.data, result.nbytes)
        return True

    def _results(
        self, shapes: dict[str, tuple[int, ...]], addresses: dict[str, int]
    ) -> list[tuple[NetworkTensor, np.ndarray]]:
        feed = {}
        for tensor in self._engine.inputs:
            shape, kind = shapes[tensor.name], np.dtype(tensor.dtype[1])
            memory = (ctypes.c_byte * (int(np.prod(shape)) * kind.itemsize)).from_address(
                addresses[tensor.name]
            )
            feed[tensor.name] = np.frombuffer(memory, kind).reshape(shape)
        results: Sequence[np.ndarray] = self._engine.session.run(None, feed)
        return [
            (tensor, np.ascontiguousarray(result))
            for tensor, result in zip(self._engine.outputs, results, strict=True)
        ]

    def _call(self, function: str, *arguments: Any) -> None:
        code = getattr(self._driver, function)(*arguments)
        assert code == 0, f"{function}: {code}"
