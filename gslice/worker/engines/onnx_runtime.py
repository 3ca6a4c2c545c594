"""ONNX models by ONNX Runtime on the CPU.

Numbers are bound where they lie (slot or lane memory) by pointer, inputs and outputs of known
shape alike, so a batch costs no copy here. Outputs whose shape only the run shows are allocated by
the session and handed over; models with text tensors run on NumPy arrays, because bindings do not
take text.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort

from gslice.core.elements import decode_elements, encode_elements
from gslice.core.errors import LoadFailed
from gslice.worker.engines.files import check_model_file
from gslice.worker.engines.onnx_signature import Node, signature
from gslice.worker.engines.stated import Stated
from gslice.worker.gpu import GpuDevice

if TYPE_CHECKING:
    from gslice._native import Batch
    from gslice.core.types import FunctionSpec, Signature, TensorSpec
    from gslice.worker.engines.base import Call, Device
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
    """See the module."""

    native = False
    trusts_zeros = True

    def __init__(self) -> None:
        self.threads = 0
        self._session: ort.InferenceSession | None = None
        self._signature: Signature | None = None
        self._stated: Stated | None = None

    def load(self, spec: FunctionSpec, device: Device, known: Signature | None = None) -> Signature:
        """See `Engine.load`."""
        if isinstance(device, GpuDevice):
            raise LoadFailed(
                f"function {spec.name}: engine onnxruntime runs on the CPU only in this release",
                hint="put it on `device: cpu`, or export the model for the torch engine",
            )
        check_model_file(spec)
        options = ort.SessionOptions()
        options.log_severity_level = 3  # errors only: warnings are about how it optimises
        self.threads = options.intra_op_num_threads = spec.threads or device.threads
        # A thread that spins for work burns the share that another batch needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            session = ort.InferenceSession(spec.model, options, ["CPUExecutionProvider"])
        except Exception as error:
            raise LoadFailed(f"function {spec.name}: {_reason(spec, error)}") from error
        inputs = [Node.of(spec, "input", value) for value in session.get_inputs()]
        self._stated = stated = Stated(spec)
        values = stated.chosen(session.get_outputs(), lambda value: value.name)
        outputs = [Node.of(spec, "output", value) for value in values]
        self._session = session
        known = None if stated.names_tensors else known  # it may be narrower than the model
        found = signature(
            spec, inputs, outputs, lambda shapes: self._probe(inputs, outputs, shapes), known
        )
        self._signature = stated.served(found)
        return self._signature

    def prepare(self, lane: int, bucket: int) -> Call:
        """See `Engine.prepare`."""
        assert self._session is not None
        assert self._signature is not None
        assert self._stated is not None
        tensors = (*self._signature.inputs, *self._signature.outputs)
        text = any(tensor.dtype == "BYTES" for tensor in tensors)
        call = (_ArrayCall if text else _BoundCall)(self._session, self._signature)
        return self._stated.seen_by_clients(call, self._signature)

    def close(self) -> None:
        """See `Engine.close`."""
        self._session = None

    def _probe(
        self, inputs: Sequence[Node], outputs: Sequence[Node], shapes: Sequence[Shape]
    ) -> list[Shape]:
        """Runs zeros and tells the outputs' shapes."""
        assert self._session is not None
        session = self._session
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

    def __init__(self, session: ort.InferenceSession, signature: Signature) -> None:
        self._session = session
        self._binding = session.io_binding()
        self._inputs = [(t.name, _BINDING_TYPES[t.dtype]) for t in signature.inputs]
        self._outputs = [(t.name, _BINDING_TYPES[t.dtype]) for t in signature.outputs]

    def __call__(self, batch: Batch) -> None:
        binding = self._binding
        for index, (name, kind) in enumerate(self._inputs):
            shape = batch.input_shape(index)
            binding.bind_input(name, "cpu", 0, kind, shape, batch.input_ptr(index))
        unknown = []
        for index, (name, kind) in enumerate(self._outputs):
            pointer = batch.output_ptr(index)
            if pointer:
                known = batch.output_shape(index)
                binding.bind_output(name, "cpu", 0, kind, known, pointer)
            else:
                binding.bind_output(name, "cpu")
                unknown.append(index)
        self._session.run_with_iobinding(binding)
        if unknown:
            values = binding.get_outputs()
            for index in unknown:
                batch.set_output(index, _array(values[index], self._outputs[index][1]))
            binding.clear_binding_outputs()  # the session's own memory goes back at once


class _ArrayCall:
    """A batch with text in it, on NumPy arrays."""

    def __init__(self, session: ort.InferenceSession, signature: Signature) -> None:
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


def _array(value: ort.OrtValue, kind: Any) -> np.ndarray:
    if kind != _ONNX_BFLOAT16:
        array: np.ndarray = value.numpy()
        return array
    shape = tuple(value.shape())
    data = (ctypes.c_uint16 * math.prod(shape)).from_address(value.data_ptr())
    return np.ctypeslib.as_array(data).reshape(shape)


def _reason(spec: FunctionSpec, error: Exception) -> str:
    """One line of what onnxruntime says, without its own codes where we know better."""
    text = str(error).strip().partition("\n")[0]
    if "INVALID_PROTOBUF" in text or "Protobuf parsing failed" in text:
        return f"{spec.model} is not an ONNX model, or it is damaged"
    text = text.rpartition("[ONNXRuntimeError] : ")[2]
    return f"onnxruntime cannot load {spec.model}: {text}"
