"""The same counters under the names that Triton's dashboards and perf_analyzer look for.

Triton's counters do not end in `_total`, which the exposition format wants of a counter, so they
are written as untyped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import Metric

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from gslice.telemetry.reading import FunctionReading, GpuFigures, NodeReading

_US = 1000  # ns
_REASONS = {  # Triton's, of what ours counts
    "rejected": "REJECTED",
    "expired": "REJECTED",
    "cancelled": "CANCELED",
    "failed": "BACKEND",
    "poisoned": "BACKEND",
    "invalid": "OTHER",
}
_STAGES = {  # Triton's, of our stages
    "request": "total",
    "queue": "queue",
    "compute_input": "copy_in",
    "compute_infer": "compute",
    "compute_output": "copy_out",
}
_GPU_GAUGES: tuple[tuple[str, str, Callable[[GpuFigures], float]], ...] = (
    ("utilization", "Part of the time in which a kernel ran.", lambda gpu: gpu.utilization_part),
    ("memory_total_bytes", "All of its memory.", lambda gpu: gpu.memory_bytes),
    ("memory_used_bytes", "Memory that anybody uses.", lambda gpu: gpu.memory_used_bytes),
    ("power_usage", "Watts drawn.", lambda gpu: gpu.power_w),
    ("power_limit", "Most watts that it may draw.", lambda gpu: gpu.power_limit_w),
)


def triton_metrics(reading: NodeReading) -> Iterable[Metric]:
    """The node's functions and GPUs as a Triton server would tell of them."""
    yield from _models(reading.functions)
    yield from _gpus(reading.gpus)


def _models(functions: Sequence[FunctionReading]) -> Iterable[Metric]:
    success = _counter("nv_inference_request_success", "Requests answered well.")
    failure = _counter("nv_inference_request_failure", "Requests that failed, by Triton's reason.")
    count = _counter("nv_inference_count", "Rows run.")
    runs = _counter("nv_inference_exec_count", "Batches run.")
    pending = Metric(
        "nv_inference_pending_request_count", "Requests that wait for an instance.", "gauge"
    )
    times = {
        ours: _counter(f"nv_inference_{theirs}_duration_us", f"Time of requests in {ours}, in all.")
        for theirs, ours in _STAGES.items()
    }
    for function in functions:
        if (stats := function.version_stats) is None:
            continue
        labels = {"model": function.name, "version": str(function.version)}
        if function.gpu_uuid:
            labels["gpu_uuid"] = function.gpu_uuid
        outcome = stats["outcome"]
        _add(success, labels, outcome["ok"])
        failed = dict.fromkeys(_REASONS.values(), 0)
        for ours, reason in _REASONS.items():
            failed[reason] += outcome[ours]
        for reason, number in failed.items():
            _add(failure, {**labels, "reason": reason}, number)
        _add(count, labels, stats["rows"])
        _add(runs, labels, stats["executions"])
        _add(pending, labels, function.slots["queued"])
        for stage, metric in times.items():
            _add(metric, labels, stats["stage"][stage]["sum_ns"] / _US)
    return (success, failure, count, runs, pending, *times.values())


def _gpus(gpus: Sequence[GpuFigures]) -> Iterable[Metric]:
    known = [gpu for gpu in gpus if gpu.uuid]
    if not known:
        return
    for name, documentation, read in _GPU_GAUGES:
        gauge = Metric(f"nv_gpu_{name}", documentation, "gauge")
        for gpu in known:
            _add(gauge, {"gpu_uuid": gpu.uuid}, read(gpu))
        yield gauge
    energy = _counter("nv_energy_consumption", "Joules since the driver was loaded.")
    for gpu in known:
        _add(energy, {"gpu_uuid": gpu.uuid}, gpu.energy_j)
    yield energy


def _counter(name: str, documentation: str) -> Metric:
    return Metric(name, documentation, "unknown")


def _add(metric: Metric, labels: dict[str, str], value: float) -> None:
    metric.add_sample(metric.name, labels, value)
