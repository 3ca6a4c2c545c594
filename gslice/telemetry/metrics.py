"""The Prometheus page: every figure read from shared memory at the moment of the scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from gslice.telemetry.reading import FunctionReading, GpuFigures, NodeReading
from gslice.telemetry.triton import triton_metrics

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from gslice.core.access import ShareQuota

_STAGE_BOUNDS_US = tuple(2.0**power for power in range(5, 25))  # 32 us to 16.8 s
FUNCTION_STATES = ("loading", "ready", "cold", "unloading", "failed", "finished")
_ROW_BOUNDS = (1, 2, 4, 8, 16, 32, 64)


_GPU_GAUGES: tuple[tuple[str, str, Callable[[GpuFigures], float]], ...] = (
    ("usable", "1 if functions can be started on it.", lambda gpu: float(gpu.usable)),
    ("sms", "Streaming multiprocessors.", lambda gpu: gpu.sms),
    ("memory_bytes", "All of its memory.", lambda gpu: gpu.memory_bytes),
    ("memory_used_bytes", "Memory that anybody uses.", lambda gpu: gpu.memory_used_bytes),
    (
        "weights_saved_bytes",
        "Memory that its workers do without by sharing weights.",
        lambda gpu: gpu.weights_saved_bytes,
    ),
    ("utilization_percent", "Time in which a kernel ran.", lambda gpu: gpu.utilization_percent),
    ("power_watts", "Power drawn.", lambda gpu: gpu.power_w),
    ("temperature_celsius", "Of the chip.", lambda gpu: gpu.temperature_c),
)
_GPU_COUNTERS: tuple[tuple[str, str, Callable[[GpuFigures], float]], ...] = (
    ("faults", "Fatal faults that reached all functions.", lambda gpu: gpu.faults),
    ("energy_joules", "Energy since the driver was loaded.", lambda gpu: gpu.energy_j),
)


class NodeCollector(Collector):
    """Turns readings into metrics; registered in a registry of its own.

    Args:
        read: Takes a reading; called from the thread that serves the scrape.
        bounds_us: Bounds of the segments' histogram bins.
        triton: Whether the names that Triton uses are told, too.
    """

    def __init__(
        self,
        read: Callable[[], NodeReading],
        bounds_us: NDArray[np.float64],
        *,
        triton: bool = True,
    ) -> None:
        self._read = read
        self._bounds_us = bounds_us
        self._triton = triton

    def collect(self) -> Iterable[Metric]:
        """All metrics of the node."""
        reading = self._read()
        served = [(f.name, f.stats) for f in reading.functions if f.stats is not None]
        yield from _node(reading)
        yield from _gpus(reading.gpus)
        yield from _functions(reading.functions)
        yield from _promises(reading.functions)
        yield from _requests(served)
        yield from _batches(served)
        yield _stages(served, self._bounds_us)
        yield from _ratios(reading.demand_ratio)
        if self._triton:
            yield from triton_metrics(reading)


def _node(reading: NodeReading) -> Iterable[Metric]:
    yield InfoMetricFamily("gslice_build", "What runs.", value={"version": reading.version})
    yield GaugeMetricFamily("gslice_frontends", "Front-ends that run.", reading.frontends)
    yield CounterMetricFamily(
        "gslice_frontend_restarts",
        "Front-ends started in place of dead ones.",
        reading.frontend_restarts,
    )
    limit = GaugeMetricFamily(
        "gslice_device_share_limit_percent", "Most that gslice may use.", labels=["device"]
    )
    for device, percent in reading.share_limit_percent.items():
        limit.add_metric([device], percent)
    yield limit
    events = CounterMetricFamily(
        "gslice_events", "What happened since the daemon started.", labels=["kind"]
    )
    for kind, count in reading.events.items():
        events.add_metric([kind], count)
    yield events
    yield from _spares(reading.spares)
    yield _tenants(reading.tenants)
    regions = reading.client_memory_bytes
    yield GaugeMetricFamily(
        "gslice_client_memory_regions", "Regions of clients' memory.", len(regions)
    )
    yield GaugeMetricFamily("gslice_client_memory_bytes", "Size of these.", sum(regions))


def _spares(spares: Sequence[tuple[str, int]]) -> Iterable[Metric]:
    count = GaugeMetricFamily(
        "gslice_spares", "Workers that wait for a function.", labels=["engine"]
    )
    rss = GaugeMetricFamily(
        "gslice_spares_rss_bytes", "Resident memory of these.", labels=["engine"]
    )
    for engine in sorted({engine for engine, _ in spares}):
        sizes = [size for name, size in spares if name == engine]
        count.add_metric([engine], len(sizes))
        rss.add_metric([engine], sum(sizes))
    return (count, rss)


def _tenants(taken: Mapping[ShareQuota, float]) -> Metric:
    shares = GaugeMetricFamily(
        "gslice_tenant_share_percent", "Of one device, of all.", labels=["tenant", "kind"]
    )
    for quota, percent in taken.items():
        shares.add_metric([quota.tenant, "granted"], percent)
        shares.add_metric([quota.tenant, "quota"], quota.percent)
    return shares


def _gpus(gpus: Sequence[GpuFigures]) -> Iterable[Metric]:
    if not gpus:
        return
    for name, documentation, read in _GPU_GAUGES:
        gauge = GaugeMetricFamily(f"gslice_gpu_{name}", documentation, labels=["device"])
        for gpu in gpus:
            gauge.add_metric([gpu.name], read(gpu))
        yield gauge
    for name, documentation, read in _GPU_COUNTERS:
        counter = CounterMetricFamily(f"gslice_gpu_{name}", documentation, labels=["device"])
        for gpu in gpus:
            counter.add_metric([gpu.name], read(gpu))
        yield counter


def _ratios(needed: Mapping[tuple[str, str], float]) -> Iterable[Metric]:
    of_devices = GaugeMetricFamily(
        "gslice_demand_ratio", "Share that is needed over what there is.", labels=["device"]
    )
    of_functions = _gauge("gslice_function_demand_ratio", "Its part of that.", "device")
    for device in sorted({device for _, device in needed}):
        there = {name: ratio for (name, place), ratio in needed.items() if place == device}
        of_devices.add_metric([device], sum(there.values()))
        for name, ratio in there.items():
            of_functions.add_metric([name, device], ratio)
    return (of_devices, of_functions)


def _functions(functions: list[FunctionReading]) -> Iterable[Metric]:
    states = _gauge("gslice_function_state", "1 for the state that it is in.", "state")
    queue = _gauge("gslice_queue_length", "Requests that wait for an instance.")
    in_flight = _gauge("gslice_in_flight", "Requests that an instance has claimed.")
    slots = _gauge("gslice_slots", "Slots of the function's segment.", "state")
    blocks = _gauge("gslice_overflow_blocks_in_use", "Overflow blocks that hold outputs.")
    shares = _gauge("gslice_share_percent", "Share of each of its devices.", "kind")
    rss = _gauge("gslice_worker_rss_bytes", "Resident memory of a worker.", "pid")
    segment = _gauge("gslice_segment_bytes", "Size of the function's shared memory.")
    on_gpu = _gauge("gslice_device_memory_bytes", "Memory of its GPU that its workers took.")
    taken = _gauge("gslice_memory_bytes", "Memory by what took it.", "device", "part")
    warm = _gauge("gslice_instances", "Instances that are warm.", "device")
    restarts = _counter("gslice_worker_restarts", "Workers started in place of dead ones.")
    version = _gauge("gslice_function_version", "Number of the version that serves.")
    kept = _gauge("gslice_kept_versions", "Versions that are warm beside it.")
    cold = _counter("gslice_cold_starts", "Loads because of a request.")
    for function in functions:
        name = function.name
        cold.add_metric([name], function.cold_starts)
        version.add_metric([name], function.version)
        kept.add_metric([name], function.kept_versions)
        for known in FUNCTION_STATES:
            states.add_metric([name, known], float(function.state == known.upper()))
        restarts.add_metric([name], function.worker_restarts)
        if function.device_memory_bytes:
            on_gpu.add_metric([name], function.device_memory_bytes)
        for kind, percent in function.share_percent.items():
            shares.add_metric([name, kind], percent)
        for device, count in function.instances.items():
            warm.add_metric([name, device], count)
        for place, size in function.memory_bytes.items():
            taken.add_metric([name, *place], size)
        for pid, size in function.worker_rss_bytes.items():
            rss.add_metric([name, str(pid)], size)
        if function.stats is None:
            continue
        segment.add_metric([name], function.segment_bytes)
        queue.add_metric([name], function.slots["queued"])
        in_flight.add_metric([name], function.slots["claimed"])
        for state, count in function.slots.items():
            if state == "blocks_in_use":
                blocks.add_metric([name], count)
            else:
                slots.add_metric([name, state], count)
    sizes = (rss, segment, on_gpu, taken)
    requests = (queue, in_flight, slots, blocks)
    return (states, version, kept, *requests, shares, *sizes, warm, restarts, cold)


def _promises(functions: list[FunctionReading]) -> Iterable[Metric]:
    slo = _gauge("gslice_slo_seconds", "Promised latency at the 99th percentile.")
    kept = _counter("gslice_slo_kept", "Answers within the SLO.")
    demand = _gauge("gslice_demand_per_second", "Requests that come, as planned for.")
    capacity = _gauge("gslice_capacity_per_second", "Requests that the share serves in time.")
    for function in functions:
        if not function.slo_us:
            continue
        slo.add_metric([function.name], function.slo_us / 1e6)
        if function.stats is not None:
            kept.add_metric([function.name], function.slo_kept)
        if function.demand_per_s:
            demand.add_metric([function.name], function.demand_per_s)
            capacity.add_metric([function.name], function.capacity_per_s)
    return (slo, kept, demand, capacity)


def _requests(served: list[tuple[str, Mapping[str, Any]]]) -> Iterable[Metric]:
    requests = _counter("gslice_requests", "Requests by how they ended.", "outcome")
    copies = _counter("gslice_tensor_copies", "Copies of tensors in memory.")
    copied = _counter("gslice_tensor_copied_bytes", "Bytes of tensors copied in memory.")
    for name, stats in served:
        for outcome, count in stats["outcome"].items():
            requests.add_metric([name, outcome], count)
        copies.add_metric([name], stats["copies"])
        copied.add_metric([name], stats["copied_bytes"])
    return (requests, copies, copied)


def _batches(served: list[tuple[str, Mapping[str, Any]]]) -> Iterable[Metric]:
    rows = HistogramMetricFamily(
        "gslice_batch_rows", "Rows in a batch that ran.", labels=["function"]
    )
    busy = _counter("gslice_compute_busy_seconds", "Time in which a lane computed.")
    for name, stats in served:
        cumulated = np.cumsum(stats["batch_rows"])
        buckets = [(str(float(bound)), float(cumulated[bound])) for bound in _ROW_BOUNDS]
        buckets.append(("+Inf", float(cumulated[-1])))
        rows.add_metric([name], buckets, sum_value=stats["rows"])
        busy.add_metric([name], stats["compute_busy_ns"] / 1e9)
    return (rows, busy)


def _stages(served: list[tuple[str, Mapping[str, Any]]], bounds_us: NDArray[np.float64]) -> Metric:
    stages = HistogramMetricFamily(
        "gslice_request_stage_seconds",
        "Time of a request in each stage of its life.",
        labels=["function", "stage"],
    )
    ends = [int(np.searchsorted(bounds_us, bound)) for bound in _STAGE_BOUNDS_US]
    for name, stats in served:
        for stage, histogram in stats["stage"].items():
            cumulated = np.concatenate(([0], np.cumsum(histogram["bins"])))
            buckets = [(str(float(bounds_us[end]) / 1e6), float(cumulated[end])) for end in ends]
            buckets.append(("+Inf", float(cumulated[-1])))
            stages.add_metric([name, stage], buckets, sum_value=histogram["sum_ns"] / 1e9)
    return stages


def _gauge(name: str, documentation: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, documentation, labels=["function", *labels])


def _counter(name: str, documentation: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(name, documentation, labels=["function", *labels])
