"""PyTorch models: an exported program, or a module that the user's factory makes.

```yaml
detector: {model: ./detector.pt2}                                  # written by torch.export.save
tagger: {torch: my_models:tagger, args: {layers: 4}, precision: fp16, channels_last: true}
```
```python
def tagger(layers):                                  # gets the function's `args`
    model = ...                                      # a torch.nn.Module
    model.inputs = [("image", "FP32", [-1, 3, 224, 224])]      # as the python engine has them
    model.outputs = [("score", "FP32", [-1, 1000])]
    return model
```
A factory's module is called with its inputs by name if `forward` knows all the names, else in
their order; it returns a tensor, a sequence in the order of the outputs, or a mapping by name. The
outputs of an exported program are called like the keys of the mapping it returns, else `output`,
or `output_0` and on. `precision` casts the model and its floating inputs; what clients send and
get keeps the type that the model declares.

On a GPU all workers of a model share the memory of its parameters, which nobody can write to;
buffers are each worker's own. The model runs over the slots' or the lane's memory without a copy of
its inputs, on a GPU on the lane's stream. There, batches of known shapes are captured as graphs in
warm-up, and the pump replays them without Python where torch gives the handle.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from gslice._native import CudaGraph
from gslice.core.errors import FailedPrecondition
from gslice.worker.engines.torch_memory import GpuMemory, Graph, HostMemory, Memory
from gslice.worker.engines.torch_model import TorchModel, load_model
from gslice.worker.engines.torch_types import TORCH_TYPES
from gslice.worker.engines.torch_weights import place_parameters
from gslice.worker.gpu import GpuDevice
from gslice.worker.shapes import with_buckets

if TYPE_CHECKING:
    from gslice._native import Batch, CudaDevice, WarmBatch
    from gslice.core.types import FunctionSpec, Signature, TensorSpec
    from gslice.worker.engines.base import Call, Device

_log = logging.getLogger(__name__)


class TorchEngine:
    """See the module.

    Args:
        gpu_memory: Makes the memory of a GPU; for tests. Default: torch's own.
    """

    native = False
    trusts_zeros = True

    def __init__(self, gpu_memory: Callable[[CudaDevice], GpuMemory] | None = None) -> None:
        self.threads = 0
        self._gpu_memory = gpu_memory
        self._outputs = 0
        self._call: _ModelCall | None = None
        self._gpu: GpuMemory | None = None
        self._captures = True  # until one fails, for torch cannot undo all of that
        self._graphs: dict[tuple[int, int], _Replay] = {}  # by lane and bucket

    def load(self, spec: FunctionSpec, device: Device, known: Signature | None = None) -> Signature:
        """See `Engine.load`."""
        self.threads = spec.threads or device.threads
        torch.set_num_threads(self.threads)
        if isinstance(device, GpuDevice):
            self._gpu = (self._gpu_memory or _torch_gpu_memory)(device.cuda)
        memory = self._gpu or HostMemory()
        if isinstance(device, GpuDevice) and self._gpu is not None:
            place = partial(place_parameters, memory=self._gpu, store=device.weights)
            model = load_model(spec, memory.device, place)
            self._gpu.trim()
        else:
            model = load_model(spec, memory.device)
        if self._gpu is not None:
            # A graph is of one shape.
            model = replace(model, signature=with_buckets(model.signature))
        self._call = _ModelCall(model, memory)
        self._outputs = len(model.signature.outputs)
        return model.signature

    def prepare(self, lane: int, bucket: int) -> Call | CudaGraph:
        """See `Engine.prepare`."""
        replay = self._graphs.get((lane, bucket))
        if replay is not None and replay.graph.executable:
            return CudaGraph(replay.graph.executable, replay.graph)
        return self.callable(lane, bucket)

    def callable(self, lane: int, bucket: int) -> Call:
        """See `Captures.callable`."""
        if self._call is None:
            raise FailedPrecondition("the engine is not loaded")
        return self._graphs.get((lane, bucket), self._call)

    def capture(self, batch: WarmBatch) -> None:
        """See `Captures.capture`."""
        call, gpu = self._call, self._gpu
        assert call is not None
        if gpu is None or not self._captures:
            return
        try:
            graph = gpu.capture(batch, call)
        except Exception as error:
            self._captures = False
            _log.warning(
                "nothing more is captured, for a batch of %d rows cannot be: %s: %s",
                batch.bucket,
                type(error).__name__,
                str(error).partition("\n")[0],
            )
            return
        self._graphs[batch.lane, batch.bucket] = _Replay(graph, gpu, self._outputs)

    def forget(self, lanes: Collection[int]) -> None:
        """See `KeepsLanes.forget`."""
        for key in [key for key in self._graphs if key[0] in lanes]:
            del self._graphs[key]
        if self._gpu is not None:
            self._gpu.forget(lanes)
            self._gpu.trim()

    def close(self) -> None:
        """See `Engine.close`. In a host, what torch keeps of it would be lost to the others."""
        self._graphs.clear()
        self._call = None
        gpu, self._gpu = self._gpu, None
        if gpu is not None:
            gpu.trim()


def _torch_gpu_memory(cuda: CudaDevice) -> GpuMemory:
    from gslice.worker.engines.torch_cuda import CudaMemory

    return CudaMemory(cuda)


class _Replay:
    """A graph, replayed by one call into Python a batch: where torch keeps its handle."""

    def __init__(self, graph: Graph, memory: Memory, outputs: int) -> None:
        self.graph = graph
        self._memory = memory
        self._outputs = outputs

    def __call__(self, batch: Batch) -> None:
        for index in range(self._outputs):
            batch.output_ptr(index)  # asking says that it will be written
        with self._memory.running(batch):
            self.graph.replay()


class _ModelCall:
    """The model over a batch's tensors where they lie."""

    def __init__(self, model: TorchModel, memory: Memory) -> None:
        self._run = model.run
        self._inputs = model.signature.inputs
        self._outputs = model.signature.outputs
        self._memory = memory
        self._keeps_inputs, self._may_keep_inputs = False, memory.inputs_are_shared

    def __call__(self, batch: Batch) -> None:
        view = self._memory.view
        inputs = [
            view(batch.input_ptr(index), tensor, batch.input_shape(index))
            for index, tensor in enumerate(self._inputs)
        ]
        with torch.inference_mode(), self._memory.running(batch):
            given = [tensor.clone() for tensor in inputs] if self._keeps_inputs else inputs
            results = self._run(given)
            for index, (tensor, result) in enumerate(zip(self._outputs, results, strict=True)):
                self._write(batch, index, tensor, result)
        if self._may_keep_inputs and any(tensor._version for tensor in inputs):
            # After a death the request runs again, and must find its tensors as they came.
            self._keeps_inputs, self._may_keep_inputs = True, False
            _log.info("the model writes into its inputs, so it gets copies from now on")

    def _write(self, batch: Batch, index: int, tensor: TensorSpec, result: object) -> None:
        if not isinstance(result, torch.Tensor):
            raise TypeError(f"output {tensor.name!r} is a {type(result).__name__}, no tensor")
        dtype = TORCH_TYPES[tensor.dtype]
        if result.dtype != dtype and not (result.is_floating_point() and dtype.is_floating_point):
            raise TypeError(f"output {tensor.name!r} is {result.dtype}, the signature says {dtype}")
        shape = batch.output_shape(index)
        if shape is None:
            self._memory.give(batch, index, tensor, result.to(dtype).contiguous())
            return
        if tuple(result.shape) != shape:
            raise ValueError(
                f"output {tensor.name!r} has shape {list(result.shape)}, the signature says "
                f"{list(shape)}"
            )
        target = self._memory.view(batch.output_ptr(index), tensor, shape)
        target.copy_(result, non_blocking=True)
