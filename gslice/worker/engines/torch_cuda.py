"""The part of the torch engine that only a GPU can run: device memory, streams and graphs."""

from __future__ import annotations

import functools
import logging
import math
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import dlpack

from gslice import _native
from gslice.core.errors import LoadFailed
from gslice.worker.engines.torch_types import TORCH_TYPES

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from gslice.core.types import TensorSpec
    from gslice.worker.shapes import Shape

_log = logging.getLogger(__name__)

_VIEWS_MAX = 1024  # lane buffers of fixed shapes give the same few tensors again and again


class CudaMemory:
    """Lane buffers of a GPU; see `torch_memory.GpuMemory`.

    Args:
        cuda: The open device; torch shares its primary context.

    Raises:
        LoadFailed: This torch cannot use the GPU.
    """

    inputs_are_shared = False  # they are the lane's

    def __init__(self, cuda: _native.CudaDevice) -> None:
        if not torch.cuda.is_available():
            built = torch.version.cuda
            raise LoadFailed(
                f"torch {torch.__version__} cannot use {cuda.name}: it "
                + (f"is built for CUDA {built}" if built else "is built without CUDA"),
                hint="install a torch whose CUDA the driver supports",
            )
        self.device = torch.device("cuda", cuda.ordinal)
        self._streams: dict[int, torch.cuda.ExternalStream] = {}
        self._pools: dict[int, Any] = {}  # of graphs; those of one lane never run together
        self._view = functools.lru_cache(_VIEWS_MAX)(self._new_view)

    def view(self, pointer: int, tensor: TensorSpec, shape: Shape) -> torch.Tensor:
        """See `Memory.view`."""
        return self._view(pointer, tensor.dtype, shape)

    def running(self, batch: _native.Batch) -> AbstractContextManager[object]:
        """See `Memory.running`."""
        scope: AbstractContextManager[object] = torch.cuda.stream(self._stream(batch.stream))
        return scope

    def give(
        self, batch: _native.Batch, index: int, tensor: TensorSpec, result: torch.Tensor
    ) -> None:
        """See `Memory.give`. Its memory goes back to the pool of the stream, behind the copy."""
        batch.set_output_ptr(index, result.data_ptr(), tuple(result.shape), tensor.dtype)

    def trim(self) -> None:
        """See `GpuMemory.trim`."""
        torch.cuda.empty_cache()

    def capture(self, batch: _native.Batch, call: Callable[[_native.Batch], None]) -> CudaGraph:
        """See `GpuMemory.capture`."""
        # Taken out while it is in use: a failed capture leaves a pool that takes no other.
        pool = self._pools.pop(batch.lane, None) or torch.cuda.graph_pool_handle()
        stream = self._stream(batch.stream)
        graph = CudaGraph(self.device)
        before = torch.cuda.current_stream(self.device)
        try:
            with torch.cuda.graph(
                graph.graph, pool=pool, stream=stream, capture_error_mode="thread_local"
            ):
                call(batch)
        finally:  # torch stays on the stream of a capture that fails
            torch.cuda.set_stream(before)
        self._pools[batch.lane] = pool
        with torch.cuda.stream(stream):
            graph.finish()
        return graph

    def forget(self, lanes: Collection[int]) -> None:
        """See `GpuMemory.forget`. A pool ends with its last graph, and takes no other then."""
        for lane in lanes:
            self._pools.pop(lane, None)

    def _stream(self, handle: int) -> torch.cuda.ExternalStream:
        if handle not in self._streams:
            self._streams[handle] = torch.cuda.ExternalStream(handle, device=self.device)
        return self._streams[handle]

    def _new_view(self, pointer: int, dtype: str, shape: Shape) -> torch.Tensor:
        if math.prod(shape) == 0:
            return torch.empty(shape, dtype=TORCH_TYPES[dtype], device=self.device)
        capsule = _native.dlpack_capsule(pointer, shape, dtype, self.device.index)
        tensor: torch.Tensor = dlpack.from_dlpack(capsule)
        return tensor


class CudaGraph:
    """A captured graph; see `torch_memory.Graph`."""

    def __init__(self, device: torch.device) -> None:
        self.executable = 0
        self._has_handle = hasattr(torch.cuda.CUDAGraph, "raw_cuda_graph_exec")  # newer torch
        self.graph = (
            torch.cuda.CUDAGraph(keep_graph=True) if self._has_handle else torch.cuda.CUDAGraph()
        )
        self._generator = torch.cuda.default_generators[device.index]

    def finish(self) -> None:
        """After the capture: replays it once, which shows whether the pump may do so by itself."""
        before = self._generator.get_offset()
        self.graph.replay()
        if self._generator.get_offset() != before:
            _log.info("the model draws random numbers, so torch itself replays its graphs")
        elif self._has_handle:
            self.executable = int(self.graph.raw_cuda_graph_exec())

    def replay(self) -> None:
        """See `Graph.replay`."""
        self.graph.replay()
