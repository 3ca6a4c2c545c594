"""What a scrape reads of functions and GPUs."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from gslice._native import histogram_bounds_us
from gslice.supervise.ledger import total
from gslice.supervise.resize import Resized
from gslice.supervise.weights import added, saved_bytes, together
from gslice.telemetry.reading import FunctionReading, GpuFigures
from gslice.telemetry.window import entries_within

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gslice.control.demand import Allotment
    from gslice.core.types import MemoryTaken
    from gslice.supervise.deployment import Deployment
    from gslice.supervise.function import Function
    from gslice.supervise.gpu import Gpu
    from gslice.supervise.ledger import Counted


def memory_of(function: Function, deployment: Deployment) -> dict[str, dict[str, int]]:
    """What a function takes of `host` and `gpu`, by what for; the GPU only if it is on one."""
    taken, kept = together(deployment.workers), _kept(function, deployment)
    last = function.resizing.last_shadow or Resized()
    pinned_bytes = deployment.segment.size_bytes if deployment.segment else 0
    host = {**taken.host_parts, "pinned": pinned_bytes, "shadow_peak": last.extra_memory_bytes}
    host["kept"] = kept.host_bytes
    gpu = _gpu_parts(function, deployment)
    return {"host": host, "gpu": gpu} if any(gpu.values()) else {"host": host}


def _gpu_parts(function: Function, deployment: Deployment, device: str = "") -> dict[str, int]:
    """What it takes of the memory of one GPU, or of all that it is on."""
    workers = [worker for worker in deployment.workers if device in ("", worker.device)]
    last = function.resizing.last_shadow or Resized()
    parts = {**together(workers).device_parts, "shadow_peak": last.extra_device_memory_bytes}
    return {**parts, "kept": _kept(function, deployment, device).device_bytes}


def _kept(function: Function, deployment: Deployment, device: str = "") -> MemoryTaken:
    """What its kept versions take beside what serves."""
    workers = [worker for kept in function.kept.deployments for worker in kept.workers]
    there = [worker for worker in workers if device in ("", worker.device)]
    return added(deployment.workers, there)


def requested_percent(function: Function) -> float:
    """A fixed share; 0: it may be anything."""
    share = function.spec.share
    return share.min_percent if share.min_percent == share.max_percent else 0.0


def function_reading(
    function: Function, decision: Allotment | None, gpu_uuid: str
) -> FunctionReading:
    """A function now.

    Args:
        function: The function.
        decision: The controller's about it, if there is one.
        gpu_uuid: Of the GPU that it is on; empty: none, or several.
    """
    # Read once: the loop may put another in its place.
    deployment, program = function.deployment, function.program
    segment = deployment.segment if deployment else None
    spec = (deployment or function).spec
    counted = deployment.node.ledgers.read(function.name) if deployment and segment else []
    workers = list(deployment.workers) if deployment else []
    lives = deployment or program
    rss_bytes = {w.pid: w.resident_bytes for w in workers}
    if program is not None:
        rss_bytes[program.pid] = program.resident_bytes
    return FunctionReading(
        name=function.name,
        state=function.state,
        stats=total(part.stats for part in counted),
        version_stats=total(p.stats for p in counted if p.key.version == spec.version),
        slots=segment.counts() if segment else {},
        share_percent={
            "requested": requested_percent(function),
            "granted": function.share_granted_percent,
            "effective": lives.share_effective_percent if lives else 0.0,
        },
        worker_rss_bytes=rss_bytes,
        instances=Counter(worker.device for worker in workers if worker.ready),
        worker_restarts=function.restarts.count,
        cold_starts=function.residency.cold_starts,
        version=int(spec.version),
        kept_versions=len(function.kept.warm),
        segment_bytes=segment.size_bytes if segment else 0,
        device_memory_bytes=together(workers).device_bytes,
        memory_bytes=_by_device(function, deployment) if deployment else {},
        slo_us=spec.slo_p99_us,
        slo_kept=_kept_slo(counted),
        demand_per_s=decision.rate_per_s if decision else 0.0,
        capacity_per_s=decision.capacity_per_s if decision else 0.0,
        gpu_uuid=gpu_uuid,
    )


def _kept_slo(counted: Sequence[Counted]) -> float:
    """How many answers came within the SLO that was promised when they came."""
    bounds_us = histogram_bounds_us()
    return sum(
        entries_within(part.stats["stage"]["total"]["bins"], bounds_us, part.key.slo_us)
        for part in counted
        if part.key.slo_us
    )


def _by_device(function: Function, deployment: Deployment) -> dict[tuple[str, str], int]:
    memory = memory_of(function, deployment)
    places = {"host": memory["host"]}
    if "gpu" in memory:
        devices = deployment.spec.placed
        places |= {device: _gpu_parts(function, deployment, device) for device in devices}
    return {(place, part): size for place, parts in places.items() for part, size in parts.items()}


def gpu_reading(gpu: Gpu) -> GpuFigures:
    """A GPU as it was looked at last."""
    now = gpu.reading
    return GpuFigures(
        name=gpu.name,
        usable=gpu.usable,
        sms=gpu.found.sms if gpu.found else 0,
        memory_bytes=gpu.found.memory_bytes if gpu.found else 0,
        memory_used_bytes=now.memory_used_bytes,
        utilization_percent=now.utilization_percent,
        power_w=now.power_w,
        temperature_c=now.temperature_c,
        faults=gpu.clients.faults,
        uuid=gpu.found.uuid if gpu.found else "",
        power_limit_w=gpu.facts.power_limit_w,
        energy_j=now.energy_j,
        weights_saved_bytes=saved_bytes(list(gpu.clients.workers)),
    )
