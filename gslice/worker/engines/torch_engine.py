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

The model runs over the slots' or the lane's memory without a copy of its inputs, on a GPU on the
lane's stream. There, batches of known shapes are captured as graphs in warm-up, and the pump
replays them without Python where torch gives the handle.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch

from gslice.core.errors import FailedPrecondition
from gslice.worker.engines.torch_memory import HostMemory, Memory
from gslice.worker.engines.torch_model import TorchModel, load_model
from gslice.worker.engines.torch_types import TORCH_TYPES

if TYPE_CHECKING:
    from gslice._native import Batch
    from gslice.core.types import FunctionSpec, Signature, TensorSpec
    from gslice.device.cpu import CpuDevice
    from gslice.worker.engines.base import Call

_log = logging.getLogger(__name__)


class TorchEngine:
    """See the module."""

    native = False
    trusts_zeros = True

    def __init__(self) -> None:
        self.threads = 0
        self._memory: Memory = HostMemory()
        self._model: TorchModel | None = None
        self._call: _ModelCall | None = None

    def load(self, spec: FunctionSpec, device: CpuDevice) -> Signature:
        """See `Engine.load`."""
        self.threads = spec.threads or device.threads
        torch.set_num_threads(self.threads)
        model = load_model(spec, self._memory.device)
        self._call = _ModelCall(model, self._memory)
        return model.signature

    def prepare(self, lane: int, bucket: int) -> Call:
        """See `Engine.prepare`."""
        if self._call is None:
            raise FailedPrecondition("the engine is not loaded")
        return self._call

    def close(self) -> None:
        """See `Engine.close`."""
        self._call = None


class _ModelCall:
    """The model over a batch's tensors where they lie."""

    def __init__(self, model: TorchModel, memory: Memory) -> None:
        self._run = model.run
        self._inputs = model.signature.inputs
        self._outputs = model.signature.outputs
        self._memory = memory
        self._keeps_inputs = False

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
        if not self._keeps_inputs and any(tensor._version for tensor in inputs):
            # After a death the request runs again, and must find its tensors as they came.
            self._keeps_inputs = True
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
