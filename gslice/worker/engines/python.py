"""The user's class as a function.

```python
class Tagger:
    inputs = [("text", "BYTES", [-1])]          # name, KServe type, dims; -1: any length
    outputs = [("score", "FP32", [-1, 3])]
    batch_max = 32                              # optional; 0: never batched

    def load_weights(self, threshold):          # optional; gets the function's `args`
        return {"w": np.load("w.npy", mmap_mode="r")}       # -> self.weights["w"], read-only

    def setup(self, threshold):                 # optional; likewise
        ...

    def infer(self, inputs):                    # name -> array of the whole batch
        return {"score": ...}                   # name -> array of the outputs' types
```

`inputs` and `outputs` may also be methods, asked after `setup`, and may hold
`gslice.core.types.TensorSpec`. If every tensor has -1 as its first dimension, requests are joined
along it, up to `batch_max` rows; otherwise each request runs by itself. BYTES tensors are object
arrays of `bytes` (outputs: `bytes` or `str`), BF16 ones arrays of 16-bit patterns. Input arrays are
read-only views that are valid only during the call: copy what you keep. What `infer` raises fails
the requests of that batch with INTERNAL and the message. One call runs at a time.

On a GPU the input arrays lie in its memory, and are objects that `torch.from_dlpack`,
`cupy.asarray`, `numba.cuda.as_cuda_array` and others take without a copy (`__dlpack__`,
`__cuda_array_interface__`; also `pointer`, `shape`, `dtype`). Outputs may be arrays of any such
library, contiguous, or NumPy arrays. Work belongs on the CUstream `self.stream`, set before each
call; torch and CuPy have it as their current stream already. What a library without a current
stream (Numba, PyCUDA) does on the default stream comes in its order, too, but lanes then wait for
each other. What `load_weights` gives is copied to the GPU once for all workers of the class (later
ones map the same memory), and `self.weights` has such arrays, too; writing there is a fault that
reaches everybody on the GPU. Nothing needs to wait for the work to end, and what is returned may be
forgotten. There are no BYTES tensors on a GPU.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from gslice.core.elements import decode_elements, encode_elements
from gslice.core.errors import LoadFailed
from gslice.worker.engines.base import refuse_text
from gslice.worker.engines.declared import declared_signature, find_object
from gslice.worker.engines.python_gpu import GpuTensors, weights_there
from gslice.worker.gpu import GpuDevice

if TYPE_CHECKING:
    from gslice._native import Batch
    from gslice.core.types import FunctionSpec, Signature, TensorSpec
    from gslice.worker.engines.base import Call, Device

    _Infer = Callable[[dict[str, Any]], Any]
    _Take = Callable[[Batch, int, TensorSpec], Any]
    _Give = Callable[[Batch, int, TensorSpec, Any], None]

_log = logging.getLogger(__name__)


class PythonEngine:
    """See the module."""

    native = False
    trusts_zeros = False
    threads = 0

    def __init__(self) -> None:
        self._object: Any = None
        self._signature: Signature | None = None
        self._gpu: GpuTensors | None = None
        self._logged: set[str] = set()

    def load(self, spec: FunctionSpec, device: Device, known: Signature | None = None) -> Signature:
        """See `Engine.load`."""
        cls = find_object(spec, "class")
        if not isinstance(cls, type):
            raise LoadFailed(f"function {spec.name}: {spec.python} is no class")
        try:
            self._object = cls()
            has_weights = hasattr(self._object, "load_weights")
            if has_weights:
                self._object.weights = _weights(self._object.load_weights(**spec.args), device)
            if hasattr(self._object, "setup"):
                self._object.setup(**spec.args)
            elif spec.args and not has_weights:
                raise TypeError("it has args, but the class has no setup method")
        except Exception as error:
            _log.exception("%s failed in its setup", spec.python)
            raise LoadFailed(
                f"function {spec.name}: {spec.python}: {type(error).__name__}: {error}"
            ) from error
        if not callable(getattr(self._object, "infer", None)):
            raise LoadFailed(f"function {spec.name}: {spec.python} has no method infer")
        self._signature = declared_signature(spec, self._object)
        if isinstance(device, GpuDevice):
            refuse_text(spec, (*self._signature.inputs, *self._signature.outputs))
            self._gpu = GpuTensors(device.cuda, self._object)
        return self._signature

    def prepare(self, lane: int, bucket: int) -> Call:
        """See `Engine.prepare`."""
        return self._run

    def forget(self, lanes: Collection[int]) -> None:
        """See `KeepsLanes.forget`."""
        if self._gpu is not None:
            self._gpu.forget(lanes)

    def close(self) -> None:
        """See `Engine.close`."""
        self._object = None
        gpu, self._gpu = self._gpu, None
        if gpu is not None:
            gpu.close()

    def _run(self, batch: Batch) -> None:
        if self._gpu is None:
            self._answer(batch, self._object.infer, _input, _set_output)
            return
        infer = partial(self._gpu.infer, batch)
        with self._gpu.turn(batch):
            self._answer(batch, infer, self._gpu.input, self._gpu.set_output)

    def _answer(self, batch: Batch, infer: _Infer, take: _Take, give: _Give) -> None:
        assert self._signature is not None
        inputs = {
            tensor.name: take(batch, index, tensor)
            for index, tensor in enumerate(self._signature.inputs)
        }
        try:
            results = infer(inputs)
        except Exception as error:
            self._log_once(error)
            raise
        if not isinstance(results, dict):
            raise TypeError(f"infer must return a dict, not {type(results).__name__}")
        names = [tensor.name for tensor in self._signature.outputs]
        for name in results:
            if name not in names:
                raise ValueError(f"infer returned {name!r}; the outputs are {', '.join(names)}")
        for index, tensor in enumerate(self._signature.outputs):
            if tensor.name not in results:
                raise ValueError(f"infer returned no output {tensor.name!r}")
            give(batch, index, tensor, results[tensor.name])

    def _log_once(self, error: Exception) -> None:
        """The traceback goes to the log the first time; the message to each caller."""
        traceback = error.__traceback__
        while traceback is not None and traceback.tb_next is not None:
            traceback = traceback.tb_next
        line = traceback.tb_lineno if traceback is not None else 0
        place = f"{type(error).__name__} at line {line}"
        if place not in self._logged:
            self._logged.add(place)
            _log.error("infer failed; the same failure is not logged again", exc_info=error)


def _weights(given: Mapping[str, Any], device: Device) -> dict[str, Any]:
    """What the user's class gets as its weights, where it computes."""
    arrays = {name: np.asarray(value) for name, value in given.items()}
    if isinstance(device, GpuDevice):
        return dict(weights_there(device, arrays))
    views = {name: array.view() for name, array in arrays.items()}
    for view in views.values():
        view.flags.writeable = False
    return views


def _input(batch: Batch, index: int, tensor: TensorSpec) -> np.ndarray:
    if tensor.dtype != "BYTES":
        return batch.input_array(index)
    elements = decode_elements(batch.input_bytes(index))
    array = np.empty(len(elements), object)
    array[:] = elements
    return array.reshape(batch.input_shape(index))


def _set_output(batch: Batch, index: int, tensor: TensorSpec, value: Any) -> None:
    if tensor.dtype != "BYTES":
        batch.set_output(index, np.asarray(value))
        return
    array = np.asarray(value, object)
    batch.set_output_bytes(index, encode_elements(array.flat), array.shape)
