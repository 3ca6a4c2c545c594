"""Answers about functions: metadata, configuration, statistics, index."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from gslice import __version__
from gslice.core.types import FunctionSpec, Signature, TensorSpec, device_kind
from gslice.frontend.catalogue import Function
from gslice.ipc.messages import ClientRegion
from gslice.ipc.native import UNSUCCESSFUL
from gslice.protos import message

if TYPE_CHECKING:
    from gslice import _native

EXTENSIONS = (
    "binary_tensor_data",
    "model_configuration",
    "model_repository",
    "parameters",
    "statistics",
)
"""Names by which clients know what is offered beyond the standard; only what is implemented."""

_PLATFORMS = {  # others are called like their engine
    "onnxruntime": "onnxruntime_onnx",
    "tensorrt": "tensorrt_plan",
    "tensorrt_rtx": "tensorrt_plan",
}
_CONFIG_TYPES = {"BYTES": "TYPE_STRING"}  # others are TYPE_<data type>
_STAGES = {  # of the segment's statistics -> of the protocol's
    "queue": "queue",
    "copy_in": "compute_input",
    "compute": "compute_infer",
    "copy_out": "compute_output",
}


def server_metadata(*, client_memory: bool) -> Any:
    """Who answers, and what it can do."""
    extensions = (*EXTENSIONS, "system_shared_memory") if client_memory else EXTENSIONS
    answer = message("inference.ServerMetadataResponse")
    return answer(name="gslice", version=__version__, extensions=extensions)


def regions(shown: Iterable[ClientRegion]) -> Any:
    """Clients' memory that requests may name."""
    answer = message("inference.SystemSharedMemoryStatusResponse")()
    for region in shown:
        entry = answer.regions[region.name]
        entry.name, entry.key = region.name, region.key
        entry.offset, entry.byte_size = region.offset_bytes, region.size_bytes
    return answer


def model_metadata(function: Function, signature: Signature) -> Any:
    """What a function takes and gives; the batch dimension, if any, is the leading -1."""
    answer = message("inference.ModelMetadataResponse")(
        name=function.spec.name,
        versions=[function.spec.version],
        platform=_platform(function.spec),
    )
    for field, tensors in (
        (answer.inputs, signature.inputs),
        (answer.outputs, signature.outputs),
    ):
        for tensor in tensors:
            field.add(name=tensor.name, datatype=tensor.dtype, shape=tensor.dims)
    return answer


def model_config(function: Function, signature: Signature) -> Any:
    """The configuration that clients plan by. Only what is true is set: it changes their mode."""
    spec = function.spec
    answer = message("inference.ModelConfigResponse")()
    config = answer.config
    config.name, config.backend, config.platform = spec.name, spec.engine, _platform(spec)
    config.max_batch_size = signature.rows_max
    _add_tensors(config.input, signature.inputs, signature.rows_max)
    _add_tensors(config.output, signature.outputs, signature.rows_max)
    for device in spec.placed:
        config.instance_group.add(name=device, count=spec.instances, kind=_kind(device))
    config.default_model_filename = spec.model.rpartition("/")[2]
    if signature.rows_max > 1:
        config.dynamic_batching.preferred_batch_size.extend(signature.buckets)
        config.dynamic_batching.max_queue_delay_microseconds = max(spec.delay_us, 0)
    return answer


def model_statistics(functions: Iterable[Function]) -> Any:
    """Counters of the functions that have been loaded, read from their shared memory."""
    answer = message("inference.ModelStatisticsResponse")()
    for function in functions:
        if function.segment is not None:
            _add_statistics(answer.model_stats.add(), function.spec, function.segment)
    return answer


def repository_index(functions: Iterable[Function], ready_only: bool) -> Any:
    """Every one of some functions, with its state and why it is not READY."""
    answer = message("inference.RepositoryIndexResponse")()
    for function in sorted(functions, key=lambda function: function.spec.name):
        if function.ready or not ready_only:
            answer.models.add(
                name=function.spec.name,
                version=function.spec.version,
                state=function.state,
                reason=function.reason,
            )
    return answer


def _platform(spec: FunctionSpec) -> str:
    return _PLATFORMS.get(spec.engine, spec.engine)


def _kind(device: str) -> int:
    kinds = message("inference.ModelInstanceGroup").Kind
    return int(kinds.Value("KIND_GPU" if device_kind(device) == "cuda" else "KIND_CPU"))


def _add_tensors(field: Any, tensors: Iterable[TensorSpec], rows_max: int) -> None:
    for tensor in tensors:
        kind = _CONFIG_TYPES.get(tensor.dtype, f"TYPE_{tensor.dtype}")
        dims = tensor.dims[1:] if rows_max else tensor.dims
        field.add(name=tensor.name, data_type=kind, dims=dims)


def _add_statistics(entry: Any, spec: FunctionSpec, segment: _native.Segment) -> None:
    stats = segment.stats()
    stages, outcome = stats["stage"], stats["outcome"]
    entry.name, entry.version = spec.name, spec.version
    entry.last_inference = stats["last_inference_ms"]
    entry.inference_count, entry.execution_count = stats["rows"], stats["executions"]
    times = entry.inference_stats
    times.success.count, times.success.ns = outcome["ok"], stages["total"]["sum_ns"]
    times.fail.count = sum(outcome[name] for name in UNSUCCESSFUL)
    for ours, theirs in _STAGES.items():
        duration = getattr(times, theirs)
        duration.count, duration.ns = stages[ours]["count"], stages[ours]["sum_ns"]
    for rows, count in enumerate(stats["batch_rows"]):
        if count:  # times are kept by stage, not by batch size, so only the count is told
            entry.batch_stats.add(batch_size=rows).compute_infer.count = int(count)
