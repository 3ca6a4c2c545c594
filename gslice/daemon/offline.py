"""`gslice plan` without a daemon: of a node.yaml, and of profiles that its daemons have kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gslice.control.demand import Demand, DeviceShares, Policy
from gslice.control.plan import Planner
from gslice.control.whatif import WhatIf, what_if
from gslice.core.config import load_config
from gslice.daemon.controller import Proposal
from gslice.daemon.lock import StateLock
from gslice.daemon.observations import Observations
from gslice.daemon.plan_api import plan_reply
from gslice.daemon.profiles import Profiles
from gslice.daemon.store import Store
from gslice.device.inventory import find_gpus
from gslice.supervise.node import Node

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gslice.core.types import FunctionSpec


def offline_plan(path: Path, changes: Sequence[str]) -> Any:
    """What would be decided of the functions of a node.yaml: a `gslice.v1.PlanReply`.

    Args:
        path: The node.yaml.
        changes: As `WhatIf.parse` reads them: nobody else says how many requests come.

    Raises:
        GsliceError: the file or a change is wrong, or a daemon runs there that could be asked.
    """
    wanted = [WhatIf.parse(change) for change in changes]
    config = load_config(path, find_gpus=find_gpus)
    state_dir = config.node.state_dir
    with StateLock(state_dir), Store(state_dir / "gslice.db") as store:
        node = Node.open(config.node, config.devices)
        profiles, observations = Profiles(store, node), Observations(store)
        demands = what_if(
            (_demand(spec, profiles, observations) for spec in config.functions.values()), wanted
        )
        node.run_dir.close()
    devices = {n: DeviceShares(n, d.share_limit_percent) for n, d in config.devices.items()}
    planner = Planner(Policy(packing=config.node.packing))
    return plan_reply(Proposal(demands, {}, planner.plan(0.0, demands, devices, {})))


def _demand(spec: FunctionSpec, profiles: Profiles, observations: Observations) -> Demand:
    devices = spec.devices or (spec.device,)
    found = {device: profiles.model(spec, device) for device in devices}
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
        bounds=spec.share,
        models=models,
        devices=devices,
        replicas_min=spec.replicas_min,
        replicas_max=spec.replicas_max,
    )
