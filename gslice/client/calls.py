"""What both clients share: each call's request and the meaning of its answer, and errors."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc
import numpy as np
from google.protobuf import json_format

from gslice.client import tensors
from gslice.client.places import Places, set_place
from gslice.client.slabs import Slab
from gslice.core.errors import GsliceError, InvalidArgument, from_code
from gslice.core.types import Signature, TensorSpec
from gslice.protos import message

SERVICE = "inference.GRPCInferenceService"
DEFAULT_URL = "127.0.0.1:8001"
OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]

Inputs = Mapping[str, Any]
"""Input name -> array, or list, scalar, `str` or `bytes`, which are fitted to the signature."""
Outputs = dict[str, np.ndarray]

T = TypeVar("T")


@dataclass(frozen=True)
class Call(Generic[T]):
    """One call: which, with what, and what its answer means.

    Attributes:
        method: Of the service.
        request: Its message.
        result: Makes the caller's result from the answer.
    """

    method: str
    request: Any
    result: Callable[[Any], T]


@dataclass(frozen=True)
class FunctionState:
    """A line of the server's index.

    Attributes:
        name: The function's.
        version: Its version.
        state: `READY`, `COLD` (a request loads it), `LOADING`, `UNLOADING` or `UNAVAILABLE`.
        reason: Why it is not READY.
    """

    name: str
    version: str
    state: str
    reason: str


def server_url(url: str | None) -> str:
    """The address to call: the argument, else GSLICE_URL, else the default."""
    return url or os.environ.get("GSLICE_URL") or DEFAULT_URL


def credentials(api_key: str | None) -> tuple[tuple[str, str], ...]:
    """The headers that say who calls: by the argument, else by GSLICE_API_KEY.

    Raises:
        InvalidArgument: no header can hold that key; it is not shown.
    """
    key = os.environ.get("GSLICE_API_KEY", "") if api_key is None else api_key
    if not key:
        return ()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise InvalidArgument("an API key is printable ASCII, without spaces")
    return (("authorization", f"Bearer {key}"),)


def error_of(error: grpc.RpcError) -> GsliceError:
    """The error of the tree that a failed call stands for."""
    code: grpc.StatusCode = error.code()
    return from_code(code.value[0], error.details() or code.value[1])


# ---- inference ---------------------------------------------------------------------------------


def needs_signature(inputs: Inputs) -> bool:
    """Whether only the function's signature tells how these inputs travel."""
    return any(tensors.needs_spec(value) for value in inputs.values())


def infer(
    name: str,
    inputs: Inputs,
    outputs: Sequence[str] | None,
    request_id: str,
    signature: Signature | None,
    places: Places | None = None,
) -> Call[Outputs]:
    """One inference.

    Args:
        name: The function.
        inputs: Its inputs.
        outputs: Names of the outputs wanted; None: all.
        request_id: Echoed by the server.
        signature: Of the function; may be None unless `needs_signature(inputs)`.
        places: Where some of the tensors go instead of into the messages; needs the signature.

    Raises:
        InvalidArgument: An input cannot be encoded, or the function has no such input.
    """
    request = message("inference.ModelInferRequest")(model_name=name, id=request_id)
    specs = {spec.name: spec for spec in signature.inputs} if signature else {}
    for key, value in inputs.items():
        spec = specs.get(key)
        if signature is not None and spec is None:
            raise InvalidArgument(
                f"function {name!r} has no input {key!r}", hint=f"it has {', '.join(specs)}"
            )
        array, dtype = _fit(value, spec)
        entry = request.inputs.add(name=key, datatype=dtype, shape=array.shape)
        if places is None or key not in places.inputs:
            request.raw_input_contents.append(tensors.encode(array, dtype))
        else:
            places.write(key, array, dtype)
            set_place(entry.parameters, places.inputs[key], array.nbytes)
    if outputs is None and places is not None and signature is not None and places.outputs:
        outputs = [spec.name for spec in signature.outputs]
    for output in outputs or ():
        asked = request.outputs.add(name=output)
        if places is not None and output in places.outputs:
            set_place(asked.parameters, places.outputs[output], places.outputs[output].size_bytes)
    return Call("ModelInfer", request, lambda answer: _infer_result(answer, places))


def stream_result(answer: Any) -> Outputs:
    """The outputs in an answer of a stream.

    Raises:
        GsliceError: That request failed.
    """
    if answer.error_message:
        parameters = answer.infer_response.parameters
        known = "gslice_code" in parameters  # reading an absent key would add it
        code = parameters["gslice_code"].int64_param if known else GsliceError.code
        raise from_code(code, answer.error_message)
    return _infer_result(answer.infer_response)


def _fit(value: Any, spec: TensorSpec | None) -> tuple[np.ndarray, str]:
    if isinstance(value, np.ndarray):
        dtype = tensors.wire_dtype(value.dtype)
        is_bf16 = dtype == "UINT16" and spec is not None and spec.dtype == "BF16"
        return value, "BF16" if is_bf16 else dtype
    if spec is None:
        raise InvalidArgument(f"a {type(value).__name__} needs the function's signature to travel")
    return tensors.as_array(value, spec), spec.dtype


def _infer_result(answer: Any, places: Places | None = None) -> Outputs:
    return {
        output.name: places.read(output)
        if places is not None and output.name in places.outputs
        else tensors.decode(raw, output.datatype, tuple(output.shape))
        for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=True)
    }


# ---- about the server and its functions ---------------------------------------------------------


def live() -> Call[bool]:
    """Whether a server answers."""
    return Call("ServerLive", message("inference.ServerLiveRequest")(), lambda answer: answer.live)


def ready(name: str) -> Call[bool]:
    """Whether a function takes requests, or the server if the name is empty."""
    if name:
        request = message("inference.ModelReadyRequest")(name=name)
        return Call("ModelReady", request, lambda answer: answer.ready)
    request = message("inference.ServerReadyRequest")()
    return Call("ServerReady", request, lambda answer: answer.ready)


def metadata(name: str) -> Call[Signature]:
    """What a function takes and gives."""
    request = message("inference.ModelConfigRequest")(name=name)
    return Call("ModelConfig", request, lambda answer: _signature(answer.config))


def config(name: str) -> Call[dict[str, Any]]:
    """A function's configuration."""
    request = message("inference.ModelConfigRequest")(name=name)
    return Call("ModelConfig", request, lambda answer: _plain(answer.config))


def statistics(name: str) -> Call[list[dict[str, Any]]]:
    """Counters of a function, or of all if the name is empty."""
    request = message("inference.ModelStatisticsRequest")(name=name)
    return Call("ModelStatistics", request, lambda answer: [_plain(m) for m in answer.model_stats])


def index() -> Call[list[FunctionState]]:
    """All functions and their states."""
    request = message("inference.RepositoryIndexRequest")()
    return Call(
        "RepositoryIndex",
        request,
        lambda answer: [FunctionState(m.name, m.version, m.state, m.reason) for m in answer.models],
    )


def load(name: str, config: str) -> Call[None]:
    """Loads a function, as declared or by a configuration in JSON."""
    request = message("inference.RepositoryModelLoadRequest")(model_name=name)
    if config:
        request.parameters["config"].string_param = config
    return Call("RepositoryModelLoad", request, lambda _answer: None)


def register(slab: Slab) -> Call[None]:
    """Has the server use a slab."""
    request = message("inference.SystemSharedMemoryRegisterRequest")(
        name=slab.name, key=slab.key, byte_size=slab.size_bytes
    )
    return Call("SystemSharedMemoryRegister", request, lambda _answer: None)


def unregister(slab: Slab) -> Call[None]:
    """Has the server forget a slab."""
    request = message("inference.SystemSharedMemoryUnregisterRequest")(name=slab.name)
    return Call("SystemSharedMemoryUnregister", request, lambda _answer: None)


def unload(name: str) -> Call[None]:
    """Drains and removes a function."""
    request = message("inference.RepositoryModelUnloadRequest")(model_name=name)
    return Call("RepositoryModelUnload", request, lambda _answer: None)


def _signature(config: Any) -> Signature:
    batch = (-1,) if config.max_batch_size else ()

    def specs(entries: Any) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(entry.name, _dtype(entry), (*batch, *entry.dims)) for entry in entries
        )

    buckets = tuple(config.dynamic_batching.preferred_batch_size)
    return Signature(specs(config.input), specs(config.output), config.max_batch_size, buckets)


def _dtype(entry: Any) -> str:
    kinds = entry.DESCRIPTOR.fields_by_name["data_type"].enum_type
    name: str = kinds.values_by_number[entry.data_type].name.removeprefix("TYPE_")
    return "BYTES" if name == "STRING" else name


def _plain(answer: Any) -> dict[str, Any]:
    values: dict[str, Any] = json_format.MessageToDict(answer, preserving_proto_field_name=True)
    return values
