"""What a scrape tells of: a node, its functions and its GPUs at one moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gslice.core.access import ShareQuota


@dataclass(frozen=True)
class FunctionReading:
    """A function at the moment of a scrape.

    Attributes:
        name: The function's.
        state: As `gslice status` shows it.
        stats: Its counters, as `Segment.stats()` has those of a segment; None while it has none.
        version_stats: Those of the version that serves.
        slots: `Segment.counts()`.
        share_percent: By kind: `requested`, `granted`, `effective`.
        worker_rss_bytes: By process id.
        instances: Those that are warm, by device.
        worker_restarts: Workers started in place of dead ones.
        cold_starts: Loads because of a request.
        version: The number of the one that serves.
        kept_versions: Others that are warm.
        segment_bytes: Size of its shared memory.
        device_memory_bytes: Memory of its GPU that its workers took.
        memory_bytes: What it takes, by where (`host` or its GPU) and what for.
        slo_us: Promised latency; 0: none.
        slo_kept: Answers within what was promised when they came.
        demand_per_s: Requests that come, as the controller plans for them; 0: it does not.
        capacity_per_s: Requests that its share serves within the SLO, as the controller has it.
        gpu_uuid: Of the GPU that it is on; empty: none, or several.
    """

    name: str
    state: str
    stats: Mapping[str, Any] | None = None
    version_stats: Mapping[str, Any] | None = None
    slots: Mapping[str, int] = field(default_factory=dict)
    share_percent: Mapping[str, float] = field(default_factory=dict)
    worker_rss_bytes: Mapping[int, int] = field(default_factory=dict)
    instances: Mapping[str, int] = field(default_factory=dict)
    worker_restarts: int = 0
    cold_starts: int = 0
    version: int = 1
    kept_versions: int = 0
    segment_bytes: int = 0
    device_memory_bytes: int = 0
    memory_bytes: Mapping[tuple[str, str], int] = field(default_factory=dict)
    slo_us: float = 0.0
    slo_kept: float = 0.0
    demand_per_s: float = 0.0
    capacity_per_s: float = 0.0
    gpu_uuid: str = ""


@dataclass(frozen=True)
class GpuFigures:
    """A GPU at the moment of a scrape.

    Attributes:
        name: The device's.
        usable: Whether functions can be started on it.
        sms: Streaming multiprocessors.
        memory_bytes: All of its memory.
        memory_used_bytes: By everybody.
        utilization_percent: As NVML has it.
        power_w: Drawn.
        temperature_c: Of the chip.
        faults: Fatal faults that reached all of its functions.
        weights_saved_bytes: What its workers would take beside, if they shared no weights.
        uuid: As the driver knows it; empty: not known yet.
        power_limit_w: Most that it may draw.
        energy_j: Drawn since the driver was loaded.
    """

    name: str
    usable: bool
    sms: int
    memory_bytes: int
    memory_used_bytes: int
    utilization_percent: float
    power_w: float
    temperature_c: float
    faults: int
    weights_saved_bytes: int = 0
    uuid: str = ""
    power_limit_w: float = 0.0
    energy_j: float = 0.0

    @property
    def utilization_part(self) -> float:
        """From 0 to 1."""
        return self.utilization_percent / 100


@dataclass(frozen=True)
class NodeReading:
    """The node at the moment of a scrape.

    Attributes:
        version: Of gslice.
        functions: All of them.
        frontends: Front-ends that run.
        frontend_restarts: Front-ends started in place of dead ones.
        share_limit_percent: By device.
        gpus: Those of the devices that are GPUs.
        events: How many were recorded, by kind.
        spares: Engine and resident memory of each worker that waits for a function.
        demand_ratio: Of what there is of a device, what a function needs, by both.
        client_memory_bytes: Size of each region of clients' memory that requests may name.
        tenants: What functions have of each share quota.
    """

    version: str
    functions: list[FunctionReading]
    frontends: int = 0
    frontend_restarts: int = 0
    share_limit_percent: Mapping[str, float] = field(default_factory=dict)
    gpus: Sequence[GpuFigures] = ()
    events: Mapping[str, int] = field(default_factory=dict)
    spares: Sequence[tuple[str, int]] = ()
    demand_ratio: Mapping[tuple[str, str], float] = field(default_factory=dict)
    client_memory_bytes: Sequence[int] = ()
    tenants: Mapping[ShareQuota, float] = field(default_factory=dict)
