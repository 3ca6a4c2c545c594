"""`gslice plan` without a daemon: of a node.yaml, and of profiles that its daemons have kept."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from gslice.control.demand import Demand, DeviceShares, Policy
from gslice.control.plan import Planner
from gslice.control.whatif import WhatIf, what_if
from gslice.core.config import load_config
from gslice.core.errors import FailedPrecondition, GsliceError
from gslice.daemon.controller import Proposal
from gslice.daemon.observations import Observations
from gslice.daemon.plan_api import plan_reply
from gslice.daemon.profiles import Profiles
from gslice.daemon.store import Store
from gslice.device.inventory import find_gpus, read_inventory
from gslice.device.limiter import resolved
from gslice.device.mps import resolved_limiter
from gslice.device.nvml import GpuFacts, Nvml

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from pathlib import Path

    from gslice.core.config import DeviceConfig, Override
    from gslice.core.events import EventKind
    from gslice.core.types import FunctionSpec
    from gslice.device.cuda import Gpu as FoundGpu

_log = logging.getLogger("gslice")


@dataclass(frozen=True)
class SeenGpu:
    """A GPU that nobody opens.

    Attributes:
        limiter: What would enforce shares on it.
        found: What the probe found; None: the driver cannot serve.
        facts: What NVML knows of it.
    """

    limiter: str
    found: FoundGpu | None = None
    facts: GpuFacts = field(default_factory=GpuFacts)


class SeenNode:
    """The devices of a node as a daemon would find them, of which nothing is begun.

    Args:
        devices: By name.
        used: Those that functions may run on; others are not looked at.
    """

    def __init__(self, devices: Mapping[str, DeviceConfig], used: Collection[str]) -> None:
        self._devices = devices
        self.gpus = _seen({n: d for n, d in devices.items() if n in used and d.kind == "cuda"})

    def device(self, name: str) -> DeviceConfig:
        """A device by name."""
        return self._devices[name]

    def limiter(self, device: str, spec: FunctionSpec) -> str:
        """What would enforce a function's share on a device."""
        gpu, config = self.gpus.get(device), self.device(device)
        return config.limiter_of(spec, gpu.limiter if gpu is not None else resolved(config.limiter))

    def event(self, subject: str, kind: EventKind, text: str) -> None:
        """Logs what a daemon would record."""
        _log.warning("%s: %s", subject, text)


def offline_plan(path: Path, changes: Sequence[str], overrides: Iterable[Override] = ()) -> Any:
    """What would be decided of the functions of a node.yaml: a `gslice.v1.PlanReply`.

    Nothing is changed: a database is read as a copy, and no lock is taken that a daemon needs.

    Args:
        path: The node.yaml.
        changes: As `WhatIf.parse` reads them: nobody else says how many requests come.
        overrides: Settings of the command line.

    Raises:
        GsliceError: the file, the database or a change is wrong.
    """
    wanted = [WhatIf.parse(change) for change in changes]
    config = load_config(path, overrides=overrides, find_gpus=find_gpus)
    node = SeenNode(config.devices, {d for f in config.functions.values() for d in _choice(f)})
    with Store.copied(config.node.state_dir / "gslice.db") as store:
        profiles, observations = Profiles(store, node), Observations(store)
        demands = what_if(
            (
                replace(_demand(spec, profiles, observations), quota=config.node.share_quota(name))
                for name, spec in config.functions.items()
            ),
            wanted,
        )
    devices = {
        n: DeviceShares(n, d.share_limit_percent, turns=d.limiter != "green")
        for n, d in config.devices.items()
    }
    planner = Planner(Policy(packing=config.node.packing, turns=True))
    return plan_reply(Proposal(demands, {}, planner.plan(0.0, demands, devices, {})))


def _demand(spec: FunctionSpec, profiles: Profiles, observations: Observations) -> Demand:
    found = {device: profiles.model(spec, device) for device in _choice(spec)}
    models = {device: model for device, model in found.items() if model is not None}
    # Nobody can say what it would need where it was never measured.
    devices = tuple(models) or (spec.device,)
    model, recalled = models.get(devices[0]), observations.recall(spec)
    measured = max(model.buckets, default=1) if model else 1
    return Demand(
        name=spec.name,
        rate_per_s=0.0,
        slo_us=spec.slo_p99_us,
        rows_max=max(1, recalled.signature.rows_max if recalled else measured),
        instances=spec.instances,
        priority=spec.priority,
        exclusive=spec.exclusive,
        bounds=spec.share,
        models=models,
        devices=devices,
        replicas_min=spec.replicas_min,
        replicas_max=spec.replicas_max,
    )


def _choice(spec: FunctionSpec) -> tuple[str, ...]:
    return spec.devices or (spec.device,)


def _seen(gpus: Mapping[str, DeviceConfig]) -> dict[str, SeenGpu]:
    """As of `Gpu.ready`, without MPS; what cannot be used stays unknown."""
    seen = {name: SeenGpu(gpu.limiter) for name, gpu in gpus.items()}
    if not gpus:
        return seen
    try:
        inventory = read_inventory()
        for name, gpu in gpus.items():
            found = inventory.gpu(gpu.gpu)
            limiter = resolved_limiter(gpu.limiter, gpu.mps_pipe, inventory.library)
            seen[name] = SeenGpu(limiter, found, _facts(found.uuid))
    except GsliceError as error:
        _log.warning("not all GPUs can be used: %s", error)
    return seen


def _facts(uuid: str) -> GpuFacts:
    """What NVML knows of a GPU, if it is there."""
    try:
        nvml = Nvml()
    except FailedPrecondition:
        return GpuFacts()
    try:
        return nvml.facts(uuid)
    except GsliceError as error:
        _log.warning("what NVML knows of a GPU is left out: %s", error)
        return GpuFacts()
    finally:
        nvml.close()
