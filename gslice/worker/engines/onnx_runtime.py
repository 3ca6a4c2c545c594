"""ONNX models by ONNX Runtime: its CPU provider, or on a GPU its CUDA provider (`onnx_cuda`).

Numbers are bound where they lie (slot or lane memory) by pointer, inputs and outputs of known
shape alike, so a batch costs no copy here. Outputs whose shape only the run shows are allocated by
the session and handed over; models with text tensors run on NumPy arrays, because bindings do not
take text. On a GPU there is no text, and a batch's run is enqueued on the stream of its lane.

```yaml
detector: {model: ./detector.onnx, args: {batched: false, cpu_nodes: true, arena: 2GiB}}
```
`batched: false`: what looks like rows are none. On a GPU, `cpu_nodes: true` takes a model of which
nodes run on the CPU, and `arena` bounds what ONNX Runtime takes of the memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
from onnxruntime import InferenceSession

from gslice.core.elements import decode_elements, encode_elements
from gslice.core.errors import GsliceError, LoadFailed
from gslice.worker.engines.base import refuse_text
from gslice.worker.engines.files import check_model_file
from gslice.worker.engines.onnx_provider import CpuProvider
from gslice.worker.engines.onnx_signature import Node, signature
from gslice.worker.engines.stated import Stated
from gslice.worker.gpu import GpuDevice
from gslice.worker.shapes import with_buckets

if TYPE_CHECKING:
    from gslice._native import Batch, CudaDevice
    from gslice.core.types import FunctionSpec, Signature, TensorSpec
    from gslice.worker.engines.base import Call, Device
    from gslice.worker.engines.onnx_provider import Provider
    from gslice.worker.shapes import Shape

NUMPY_TYPES: dict[str, Any] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}

_ONNX_BFLOAT16 = 16  # onnx.TensorProto.BFLOAT16: NumPy has no such type
_BINDING_TYPES: dict[str, Any] = {**NUMPY_TYPES, "BF16": _ONNX_BFLOAT16}


class OnnxRuntimeEngine:
    """See the module.

    Args:
        on_gpu: Makes the provider of a GPU; for tests. Default: ONNX Runtime's own.
    """

    native = False
    trusts_zeros = True

    def __init__(self, on_gpu: Callable[[CudaDevice], Provider] | None = None) -> None:
        self.threads = 0
        self._on_gpu = on_gpu
        self._provider: Provider | None = None
        self._open: Callable[[int], InferenceSession] | None = None  # of a lane
        self._sessions: dict[int, InferenceSession] = {}  # by lane
        self._calls: dict[int, Call] = {}  # likewise
        self._signature: Signature | None = None
        self._stated: Stated | None = None

    def load(self, spec: FunctionSpec, device: Device, known: Signature | None = None) -> Signature:
        """See `Engine.load`."""
        check_model_file(spec)
        gpu = device.cuda if isinstance(device, GpuDevice) else None
        provider = CpuProvider(device.threads) if gpu is None else (self._on_gpu or _cuda)(gpu)
        options = ort.SessionOptions()
        options.log_severity_level = 3  # errors only: warnings are about how it optimises
        self.threads = options.intra_op_num_threads = spec.threads or provider.threads
        # A thread that spins for work burns the share that another batch needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._open = partial(_opened, provider, spec, options)
        session = self._session(0)
        inputs = [Node.of(spec, "input", value) for value in session.get_inputs()]
        self._stated = stated = Stated(spec)
        values = stated.chosen(session.get_outputs(), lambda value: value.name)
        outputs = [Node.of(spec, "output", value) for value in values]
        if gpu is not None:
            refuse_text(spec, (node.spec() for node in (*inputs, *outputs)))
        provider.check(spec, session)
        self._provider = provider
        for lane in range(1, spec.lanes):  # all of their memory is known when it is loaded
            self._session(lane)
        known = None if stated.names_tensors else known  # it may be narrower than the model
        found = signature(
            spec, inputs, outputs, lambda shapes: self._probe(inputs, outputs, shapes), known
        )
        found = stated.served(found)
        # The first batch of a size is slow on a GPU: kernels are chosen, and memory is taken.
        self._signature = found if gpu is None else with_buckets(found)
        return self._signature

    def prepare(self, lane: int, bucket: int) -> Call:
        """See `Engine.prepare`."""
        if lane not in self._calls:
            self._calls[lane] = self._call(lane)
        return self._calls[lane]

    def close(self) -> None:
        """See `Engine.close`."""
        self._calls.clear()
        self._sessions.clear()
        self._provider = self._open = None

    def forget(self, lanes: Collection[int]) -> None:
        """See `KeepsLanes.forget`."""
        for lane in lanes:
            self._calls.pop(lane, None)
            self._sessions.pop(lane, None)

    def _session(self, lane: int) -> InferenceSession:
        if lane not in self._sessions:
            assert self._open is not None
            self._sessions[lane] = self._open(lane)
        return self._sessions[lane]

    def _call(self, lane: int) -> Call:
        assert self._signature is not None
        assert self._provider is not None
        assert self._stated is not None
        tensors = (*self._signature.inputs, *self._signature.outputs)
        call: Call
        if any(tensor.dtype == "BYTES" for tensor in tensors):
            call = _ArrayCall(self._session(lane), self._signature)
        else:
            call = _BoundCall(self._session(lane), self._signature, self._provider)
        return self._stated.seen_by_clients(call, self._signature)

    def _probe(
        self, inputs: Sequence[Node], outputs: Sequence[Node], shapes: Sequence[Shape]
    ) -> list[Shape]:
        """Runs zeros and tells the outputs' shapes."""
        session = self._session(0)
        if any(node.dtype == "BYTES" for node in inputs):
            feed = {
                node.name: np.full(shape, "", object)
                if node.dtype == "BYTES"
                else np.zeros(shape, NUMPY_TYPES[node.dtype])
                for node, shape in zip(inputs, shapes, strict=True)
            }
            return [array.shape for array in session.run([node.name for node in outputs], feed)]
        binding = session.io_binding()
        zeros = [np.zeros(max(1, math.prod(shape)) * 8, np.uint8) for shape in shapes]
        for node, shape, data in zip(inputs, shapes, zeros, strict=True):
            kind = _BINDING_TYPES[node.dtype]
            binding.bind_input(node.name, "cpu", 0, kind, shape, data.ctypes.data)
        for output in outputs:
            binding.bind_output(output.name, "cpu")
        session.run_with_iobinding(binding)
        return [tuple(value.shape()) for value in binding.get_outputs()]


class _BoundCall:
    """A batch of numbers: one binding, reused from batch to batch."""

    def __init__(self, session: InferenceSession, signature: Signature, provider: Provider) -> None:
        self._session = session
        self._provider = provider
        self._binding = session.io_binding()
        self._inputs = [(t.name, _BINDING_TYPES[t.dtype]) for t in signature.inputs]
        self._outputs = [(t.name, t.dtype, _BINDING_TYPES[t.dtype]) for t in signature.outputs]

    def __call__(self, batch: Batch) -> None:
        binding, place = self._binding, self._provider.place
        for index, (name, kind) in enumerate(self._inputs):
            shape = batch.input_shape(index)
            binding.bind_input(name, place, 0, kind, shape, batch.input_ptr(index))
        unknown = []
        for index, (name, dtype, kind) in enumerate(self._outputs):
            pointer = batch.output_ptr(index)
            if pointer:
                known = batch.output_shape(index)
                binding.bind_output(name, place, 0, kind, known, pointer)
            else:
                binding.bind_output(name, place)
                unknown.append((index, dtype))
        self._provider.run(self._session, binding, batch)
        if unknown:
            self._provider.give(batch, binding, unknown)


class _ArrayCall:
    """A batch with text in it, on NumPy arrays."""

    def __init__(self, session: InferenceSession, signature: Signature) -> None:
        self._session = session
        self._inputs = signature.inputs
        self._outputs = signature.outputs
        self._names = [tensor.name for tensor in signature.outputs]

    def __call__(self, batch: Batch) -> None:
        feed = {
            tensor.name: _text(batch, index, tensor)
            if tensor.dtype == "BYTES"
            else batch.input_array(index)
            for index, tensor in enumerate(self._inputs)
        }
        results = self._session.run(self._names, feed)
        for index, (tensor, array) in enumerate(zip(self._outputs, results, strict=True)):
            if tensor.dtype == "BYTES":
                batch.set_output_bytes(index, encode_elements(array.flat), array.shape)
            else:
                batch.set_output(index, array)


def _text(batch: Batch, index: int, tensor: TensorSpec) -> np.ndarray:
    elements = decode_elements(batch.input_bytes(index))
    array = np.empty(len(elements), object)
    try:
        array[:] = [element.decode() for element in elements]
    except UnicodeDecodeError as error:
        raise ValueError(
            f"input {tensor.name!r} has an element that is not UTF-8, which ONNX text is"
        ) from error
    return array.reshape(batch.input_shape(index))


def _cuda(cuda: CudaDevice) -> Provider:
    from gslice.worker.engines.onnx_cuda import CudaProvider

    return CudaProvider(cuda)


def _opened(
    provider: Provider, spec: FunctionSpec, options: ort.SessionOptions, lane: int
) -> InferenceSession:
    try:
        return provider.session(spec, options, lane)
    except GsliceError:
        raise
    except Exception as error:
        raise LoadFailed(f"function {spec.name}: {_reason(spec, error)}") from error


def _reason(spec: FunctionSpec, error: Exception) -> str:
    """One line of what onnxruntime says, without its own codes where we know better."""
    text = str(error).strip().partition("\n")[0]
    if "INVALID_PROTOBUF" in text or "Protobuf parsing failed" in text:
        return f"{spec.model} is not an ONNX model, or it is damaged"
    text = text.rpartition("[ONNXRuntimeError] : ")[2]
    return f"onnxruntime cannot load {spec.model}: {text}"
