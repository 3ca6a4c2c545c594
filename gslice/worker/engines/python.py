"""The user's class as a function.

```python
class Tagger:
    inputs = [("text", "BYTES", [-1])]          # name, KServe type, dims; -1: any length
    outputs = [("score", "FP32", [-1, 3])]
    batch_max = 32                              # optional; 0: never batched

    def setup(self, threshold):                 # optional; gets the function's `args`
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
"""

from __future__ import annotations

import importlib
import logging
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from gslice.core.elements import decode_elements, encode_elements
from gslice.core.errors import LoadFailed
from gslice.core.types import ELEMENT_BYTES, Signature, TensorSpec
from gslice.worker.engines.base import DEFAULT_ROWS_MAX, is_batchable

if TYPE_CHECKING:
    from gslice._native import Batch
    from gslice.core.types import FunctionSpec
    from gslice.device.cpu import CpuDevice
    from gslice.worker.engines.base import Call

_log = logging.getLogger(__name__)


class PythonEngine:
    """See the module."""

    native = False
    trusts_zeros = False
    threads = 0

    def __init__(self) -> None:
        self._object: Any = None
        self._signature: Signature | None = None
        self._logged: set[str] = set()

    def load(self, spec: FunctionSpec, device: CpuDevice) -> Signature:
        """See `Engine.load`."""
        cls = _find_class(spec)
        try:
            self._object = cls()
            if hasattr(self._object, "setup"):
                self._object.setup(**spec.args)
            elif spec.args:
                raise TypeError("it has args, but the class has no setup method")
        except Exception as error:
            _log.exception("%s failed in its setup", spec.python)
            raise LoadFailed(
                f"function {spec.name}: {spec.python}: {type(error).__name__}: {error}"
            ) from error
        if not callable(getattr(self._object, "infer", None)):
            raise LoadFailed(f"function {spec.name}: {spec.python} has no method infer")
        inputs = self._tensors(spec, "inputs")
        outputs = self._tensors(spec, "outputs")
        self._signature = Signature(inputs, outputs, self._rows_max(spec, inputs, outputs))
        return self._signature

    def prepare(self, lane: int, bucket: int) -> Call:
        """See `Engine.prepare`."""
        return self._run

    def close(self) -> None:
        """See `Engine.close`."""
        self._object = None

    def _run(self, batch: Batch) -> None:
        assert self._signature is not None
        inputs = {
            tensor.name: _input(batch, index, tensor)
            for index, tensor in enumerate(self._signature.inputs)
        }
        try:
            results = self._object.infer(inputs)
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
            _set_output(batch, index, tensor, results[tensor.name])

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

    def _tensors(self, spec: FunctionSpec, kind: str) -> tuple[TensorSpec, ...]:
        declared = getattr(self._object, kind, None)
        try:
            if callable(declared):
                declared = declared()
            tensors = tuple(_tensor(item) for item in declared or ())
        except Exception as error:
            raise LoadFailed(
                f"function {spec.name}: {spec.python}.{kind}: {type(error).__name__}: {error}",
                hint="each is (name, type, dims), such as ('image', 'FP32', [-1, 3, 224, 224])",
            ) from error
        if not tensors:
            raise LoadFailed(
                f"function {spec.name}: {spec.python} declares no {kind}",
                hint=f"{kind} = [('x', 'FP32', [-1, 4])] in the class",
            )
        return tensors

    def _rows_max(
        self,
        spec: FunctionSpec,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
    ) -> int:
        own = getattr(self._object, "batch_max", None)
        if own == 0 or not is_batchable(inputs, outputs):
            return 0
        if own is None:
            return spec.batch_max or DEFAULT_ROWS_MAX
        return min(int(own), spec.batch_max or int(own))


def _find_class(spec: FunctionSpec) -> Any:
    module_name, _, class_name = spec.python.partition(":")
    if spec.python_path and spec.python_path not in sys.path:
        sys.path.insert(0, spec.python_path)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        where = f" in {spec.python_path}" if error.name == module_name else ""
        raise LoadFailed(f"function {spec.name}: no module {error.name!r}{where}") from error
    except Exception as error:
        _log.exception("importing %s failed", module_name)
        raise LoadFailed(
            f"function {spec.name}: importing {module_name}: {type(error).__name__}: {error}"
        ) from error
    cls = getattr(module, class_name, None)
    if not isinstance(cls, type):
        raise LoadFailed(f"function {spec.name}: {module_name} has no class {class_name!r}")
    return cls


def _tensor(item: Any) -> TensorSpec:
    name, dtype, dims = (item.name, item.dtype, item.dims) if isinstance(item, TensorSpec) else item
    if dtype not in ELEMENT_BYTES:
        raise ValueError(f"{dtype!r} is no KServe type; use {', '.join(ELEMENT_BYTES)}")
    return TensorSpec(str(name), dtype, tuple(int(dim) for dim in dims))


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
