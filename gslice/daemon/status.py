"""What the node looks like now: for the control API, and for Prometheus."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gslice import __version__, _native
from gslice.control.need import demand_ratios
from gslice.daemon.plan_api import fill_decision
from gslice.daemon.readings import function_reading, gpu_reading, memory_of, requested_percent
from gslice.daemon.versions import digest_of_model, model_of
from gslice.ipc.native import UNSUCCESSFUL
from gslice.ipc.process import resident_bytes
from gslice.supervise.doors import GRPC, HTTP
from gslice.supervise.isolation import owner_of
from gslice.supervise.weights import saved_bytes, together
from gslice.telemetry.reading import NodeReading
from gslice.telemetry.window import Figures, Sample, Window

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gslice.control.demand import Allotment
    from gslice.core.config import DeviceConfig
    from gslice.supervise.deployment import Deployment
    from gslice.supervise.function import Function
    from gslice.supervise.gpu import Gpu
    from gslice.supervise.program import Program
    from gslice.supervise.supervisor import Supervisor
    from gslice.supervise.worker import Worker


_MEMORY_FIELDS = {  # of gslice.v1.Memory, where both places have a part of that name
    ("gpu", "workspace"): "device_workspace_bytes",
    ("gpu", "shadow_peak"): "device_shadow_peak_bytes",
    ("gpu", "kept"): "device_kept_bytes",
}


@dataclass
class Addresses:
    """Where the daemon listens, with real ports."""

    metrics: str = ""


@dataclass
class _Watched:
    generation: int
    window: Window = field(default_factory=Window)


class StatusReader:
    """Reads the node's state; keeps the windows of the last seconds.

    Args:
        supervisor: What runs.
        addresses: Filled in as servers come up.
        events: How many there were, by kind; every kind is there.
        decisions: The controller's, by function.
        allotments: Likewise, device by device.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        addresses: Addresses,
        events: Mapping[str, int],
        decisions: Mapping[str, Allotment],
        allotments: Mapping[str, Sequence[Allotment]],
    ) -> None:
        self._supervisor = supervisor
        self._addresses = addresses
        self._events = events
        self._decisions = decisions
        self._allotments = allotments
        self._demand_ratio: dict[tuple[str, str], float] = {}
        self._bounds_us = _native.histogram_bounds_us()
        self._watched: dict[str, _Watched] = {}
        self._begun_s = time.monotonic()

    def sample(self) -> None:
        """Takes a sample of every function's counters; called about once a second."""
        limits = self._share_limits()
        self._demand_ratio = demand_ratios(self._allotments, limits)
        functions = self._supervisor.functions
        for name in self._watched.keys() - functions.keys():
            del self._watched[name]
        for function in functions.values():
            if function.segment is None:
                continue
            stats = function.segment.stats()
            generation = function.segment.generation
            watched = self._watched.get(function.name)
            if watched is None or watched.generation != generation:
                watched = self._watched[function.name] = _Watched(generation)
            watched.window.add(
                Sample(
                    time.monotonic_ns(),
                    stats["outcome"]["ok"],
                    stats["rows"],
                    stats["executions"],
                    stats["stage"]["total"]["bins"],
                )
            )

    def status(self, message: Any, state: str, config_path: str) -> Any:
        """Fills a `gslice.v1.Status`.

        Args:
            message: An empty one.
            state: Of the daemon: `STARTING`, `SERVING` or `DRAINING`.
            config_path: The node.yaml; empty without.
        """
        node = self._supervisor.node
        message.version = __version__
        message.pid = os.getpid()
        message.uptime_s = time.monotonic() - self._begun_s
        message.state = state
        message.grpc_address = self._supervisor.frontends.address(GRPC)
        message.http_address = self._supervisor.frontends.address(HTTP)
        message.metrics_address = self._addresses.metrics
        message.config_path = config_path
        message.state_dir = str(node.config.state_dir)
        for name, device in node.devices.items():
            self._fill_device(message.devices.add(), name, device)
        for function in self._supervisor.functions.values():
            self._fill_function(message.functions.add(), function)
        frontends = self._supervisor.frontends
        for frontend in frontends.all():
            pid = frontend.child.process.pid
            message.frontends.add(
                pid=pid,
                state=frontend.state.upper(),
                rss_bytes=resident_bytes(pid),
                restarts=frontends.restarts,
                address=frontends.address(frontend.door),
                kind=frontend.kind,
                tls=bool(frontend.tls),
            )
        for spare in node.spares.idle:
            size = resident_bytes(spare.pid)
            message.spares.add(pid=spare.pid, engine=spare.engine, rss_bytes=size)
        for quota, percent in self._supervisor.sharing.taken().items():
            quota_percent = quota.percent
            message.tenants.add(
                name=quota.tenant, share_percent=percent, share_quota_percent=quota_percent
            )
        return message

    def reading(self) -> NodeReading:
        """Everything for a scrape; safe to call from another thread."""
        frontends = self._supervisor.frontends
        return NodeReading(
            __version__,
            [
                function_reading(f, self._decisions.get(f.name), self._gpu_uuid(f))
                for f in list(self._supervisor.functions.values())
            ],
            len(frontends.all()),
            frontends.restarts,
            self._share_limits(),
            [gpu_reading(gpu) for gpu in self._supervisor.node.gpus.values()],
            dict(self._events),
            [(s.engine, resident_bytes(s.pid)) for s in list(self._supervisor.node.spares.idle)],
            self._demand_ratio,
            frontends.memory.sizes_bytes,
            self._supervisor.sharing.taken(),
        )

    def _share_limits(self) -> dict[str, float]:
        return {n: d.share_limit_percent for n, d in self._supervisor.node.devices.items()}

    def _gpu_uuid(self, function: Function) -> str:
        """Of the one GPU that a function is on; empty: none, or several."""
        places = (function.deployment or function).spec.placed
        gpu = self._supervisor.node.gpus.get(places[0]) if len(places) == 1 else None
        return gpu.found.uuid if gpu is not None and gpu.found is not None else ""

    def _fill_device(self, message: Any, name: str, device: DeviceConfig) -> None:
        functions = self._supervisor.functions.values()
        every = [w for f in functions for d in f.deployments for w in d.workers]
        workers = [worker for worker in every if worker.device == name]
        programs = [f.program for f in functions if f.program is not None and f.spec.device == name]
        kept = {w for f in functions for d in f.kept.deployments for w in d.workers}
        message.name = name
        message.kind = device.kind
        message.drained = name in self._supervisor.node.drained
        message.held_by = owner_of(functions, name)
        gpu = self._supervisor.node.gpus.get(name)
        known = device.limiter if gpu is None else gpu.limiter
        in_force = [worker.limiter for worker in workers if worker.ready]
        in_force += [program.note.limiter for program in programs]
        message.limiter = next(iter(in_force), known)
        message.cpus.extend(device.cpus if gpu is None else gpu.cpus())
        message.share_limit_percent = device.share_limit_percent
        message.share_used_percent = sum(
            w.share_effective_percent for w in workers if w not in kept
        ) + sum(p.share_effective_percent or p.note.share_percent for p in programs)
        if gpu is not None:
            self._fill_gpu(message, gpu, workers)
            return
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        message.memory_bytes = device.memory_limit_bytes or total
        message.memory_used_bytes = sum(w.resident_bytes for w in workers)
        message.memory_used_bytes += sum(program.resident_bytes for program in programs)

    def _fill_gpu(self, message: Any, gpu: Gpu, workers: list[Worker]) -> None:
        facts, now = gpu.facts, gpu.reading
        message.problem = gpu.problem
        # Others may use it, too; without NVML only what our own workers measured is known.
        ours = together(workers).device_bytes
        ours += sum(program.device_bytes for program in gpu.clients.programs)
        message.memory_used_bytes = now.memory_used_bytes or ours
        if gpu.found is None:
            return
        message.memory_bytes = gpu.config.memory_limit_bytes or gpu.found.memory_bytes
        message.gpu.name = gpu.found.name
        message.gpu.uuid = gpu.found.uuid
        message.gpu.sms = gpu.found.sms
        message.gpu.driver = facts.driver
        message.gpu.utilization_percent = now.utilization_percent
        message.gpu.power_w = now.power_w
        message.gpu.power_limit_w = facts.power_limit_w
        message.gpu.temperature_c = now.temperature_c
        message.gpu.pcie_generation = facts.pcie_generation
        message.gpu.pcie_width = facts.pcie_width
        message.gpu.numa_node = facts.numa_node
        message.gpu.compute_mode = facts.compute_mode
        message.gpu.weights_saved_bytes = saved_bytes(workers)

    def _fill_function(self, message: Any, function: Function) -> None:
        spec, deployment = function.spec, function.deployment
        message.name = spec.name
        message.version = (deployment or function).spec.version
        message.engine = spec.engine
        message.state = function.state
        message.reason = function.reason
        message.device = (deployment or function).spec.device
        message.devices.extend((deployment or function).spec.placed)
        message.replicas_min, message.replicas_max = spec.replicas_min, spec.replicas_max
        message.share_requested_percent = requested_percent(function)
        message.share_min_percent = spec.share.min_percent
        message.share_max_percent = spec.share.max_percent
        message.share_granted_percent = function.share_granted_percent
        message.slo_p99_us = spec.slo_p99_us
        message.source = function.source
        message.isolation = spec.isolation
        if digest := digest_of_model((deployment or function).spec):
            message.fetched_from, message.fetched_sha256 = model_of(spec), digest
        message.residency = spec.residency
        message.cold_starts = function.residency.cold_starts
        for kept in function.kept.warm:
            message.kept.add(
                version=kept.spec.version,
                pids=[worker.pid for worker in kept.workers],
                rss_bytes=sum(worker.resident_bytes for worker in kept.workers),
                device_memory_bytes=together(kept.workers).device_bytes,
            )
        if decision := self._decisions.get(spec.name):
            fill_decision(message.decision, decision)
        if function.program is not None:
            _fill_program(message, function, function.program)
        if deployment is None:
            return
        message.limiter = deployment.limiter
        message.share_effective_percent = deployment.share_effective_percent
        message.device_memory_bytes = together(deployment.workers).device_bytes
        _fill_memory(message.memory, function, deployment)
        for worker in deployment.workers:
            message.workers.add(
                pid=worker.pid,
                state=_worker_state(worker),
                rss_bytes=worker.resident_bytes,
                restarts=function.restarts.count,
                device=worker.device,
            )
        if deployment.segment is not None:
            self._fill_figures(message, function, deployment.segment)

    def _fill_figures(self, message: Any, function: Function, segment: _native.Segment) -> None:
        counts, outcome = segment.counts(), segment.stats()["outcome"]
        message.segment_bytes = segment.size_bytes
        message.queued = counts["queued"]
        message.in_flight = counts["claimed"]
        message.ok = outcome["ok"]
        message.failed = sum(outcome[name] for name in UNSUCCESSFUL)
        watched, slo_us = self._watched.get(function.name), function.spec.slo_p99_us
        figures = watched.window.figures(self._bounds_us, slo_us) if watched else Figures()
        message.attainment = figures.attainment
        message.rate_per_s = figures.rate_per_s
        message.p50_us = figures.p50_us
        message.p99_us = figures.p99_us
        message.batch_mean_rows = figures.batch_mean_rows


def _fill_program(message: Any, function: Function, program: Program) -> None:
    """What runs for a command; of its first process, with the memory of all."""
    held_bytes = program.resident_bytes
    message.limiter = program.note.limiter
    message.share_effective_percent = program.share_effective_percent
    message.device_memory_bytes = program.device_bytes
    message.memory.process_bytes = held_bytes
    message.workers.add(
        pid=program.pid,
        state=function.state,
        rss_bytes=held_bytes,
        restarts=function.restarts.count,
    )


def _fill_memory(message: Any, function: Function, deployment: Deployment) -> None:
    for place, parts in memory_of(function, deployment).items():
        for part, size in parts.items():
            setattr(message, _MEMORY_FIELDS.get((place, part), f"{part}_bytes"), size)


def _worker_state(worker: Worker) -> str:
    if worker.draining:
        return "DRAINING"
    return "READY" if worker.ready else "LOADING"
