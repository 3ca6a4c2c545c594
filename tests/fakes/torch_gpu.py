"""torch's part on a GPU, where there is neither: its CPU over the memory of the fake libcuda.

Device memory of the fake is memory of the process, so torch's CPU tensors can lie in it. Whatever a
stream of torch would run is one host function on the lane's stream, also inside graphs, which the
fake captures and the pump replays as it would a GPU's. What only a GPU shows stays open: that
torch's own views, streams and captures do as gslice/worker/engines/torch_cuda.py asks them to.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from gslice import _native
from gslice.core.types import TensorSpec
from gslice.worker.engines.torch_memory import HostMemory
from gslice.worker.shapes import Shape
from tests.fakes.driver import Driver, host_function

_THREAD_LOCAL = 1


class FakeGpuMemory(HostMemory):
    """See the module, and `gslice.worker.engines.torch_memory.GpuMemory`.

    Args:
        graphs: `handle`: the pump replays them; `replay`: only torch does; `refused`: nobody.
    """

    inputs_are_shared = False

    def __init__(self, graphs: str = "handle") -> None:
        self._graphs = graphs
        self.driver = Driver()
        self.ran: list[tuple[int, int]] = []  # lane and bucket, of warm-up
        self.forgotten: list[int] = []
        self.trimmed = 0
        self.captured: list[tuple[int, int]] = []  # likewise

    def running(self, batch: Any) -> AbstractContextManager[object]:
        """What torch would enqueue runs at once here, so what is before it must be over."""
        if isinstance(batch, _native.WarmBatch):
            self.ran.append((batch.lane, batch.bucket))
        if not isinstance(batch, _Recorded):
            self.driver.wait(batch.stream)
        return nullcontext()

    def give(self, batch: Any, index: int, tensor: TensorSpec, result: torch.Tensor) -> None:
        pointer = self.driver.copied(result.data_ptr(), result.numel() * result.element_size())
        batch.set_output_ptr(index, pointer, tuple(result.shape), tensor.dtype)

    def trim(self) -> None:
        """Nothing is kept."""
        self.trimmed += 1

    def forget(self, lanes: Collection[int]) -> None:
        self.forgotten = sorted(lanes)

    def capture(self, batch: Any, call: Callable[[Any], None]) -> FakeGraph:
        if self._graphs == "refused":
            raise RuntimeError("operation not permitted when stream is capturing\nand more")
        self.captured.append((batch.lane, batch.bucket))
        return FakeGraph(self, batch, call)


class FakeGraph:
    """A graph with one host function in it."""

    def __init__(self, memory: FakeGpuMemory, batch: Any, call: Callable[[Any], None]) -> None:
        recorded = _Recorded(batch)
        call(recorded)  # what a capture would record of the batch
        self._function = host_function(lambda: call(recorded))
        self._memory = memory
        self._stream = ctypes.c_void_p(batch.stream)
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        memory.driver.call("cuStreamBeginCapture_v2", self._stream, _THREAD_LOCAL)
        memory.driver.call("cuLaunchHostFunc", self._stream, self._function, None)
        memory.driver.call("cuStreamEndCapture", self._stream, ctypes.byref(graph))
        memory.driver.call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, 0)
        memory.driver.call("cuGraphDestroy", graph)
        self._executable = executable
        self.executable = executable.value if memory._graphs == "handle" else 0

    def __del__(self) -> None:
        self._memory.driver.call("cuGraphExecDestroy", self._executable)

    def replay(self) -> None:
        self._memory.driver.call("cuGraphLaunch", self._executable, self._stream)


class _Recorded:
    """What a batch's call asks of it, as it was: the addresses that a capture writes down."""

    def __init__(self, batch: Any) -> None:
        self._inputs: dict[int, tuple[int, Shape]] = {}
        self._outputs: dict[int, tuple[int, Shape]] = {}
        self._batch = batch

    def input_ptr(self, index: int) -> int:
        return self._input(index)[0]

    def input_shape(self, index: int) -> Shape:
        return self._input(index)[1]

    def output_ptr(self, index: int) -> int:
        return self._output(index)[0]

    def output_shape(self, index: int) -> Shape:
        return self._output(index)[1]

    def _input(self, index: int) -> tuple[int, Shape]:
        if index not in self._inputs:
            self._inputs[index] = self._batch.input_ptr(index), self._batch.input_shape(index)
        return self._inputs[index]

    def _output(self, index: int) -> tuple[int, Shape]:
        if index not in self._outputs:
            self._outputs[index] = self._batch.output_ptr(index), self._batch.output_shape(index)
        return self._outputs[index]


def made(graphs: str) -> Callable[[_native.CudaDevice], FakeGpuMemory]:
    """What `TorchEngine(gpu_memory=...)` takes."""
    return lambda _cuda: FakeGpuMemory(graphs)
