"""What baselines have in common: a placement, batches, plans from shares."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.goodput.scene import Function, Grant, Plan, Scene, Seen, Service
from gslice.control.latency import LatencyModel


def models(scene: Scene) -> dict[str, LatencyModel]:
    """The latency model of every function, from its profile: the same for all policies."""
    return {f.name: LatencyModel.fit(f.profile) for f in scene.functions}


def placed(scene: Scene, fitted: Mapping[str, LatencyModel]) -> dict[str, str]:
    """A device for each function: the largest first, always to the device with least load.

    The load is the time that its expected requests take of a whole device in half-full batches.
    """
    load = {f.name: f.rate_hint_per_s * row_us(f, fitted[f.name]) for f in scene.functions}
    on = dict.fromkeys(scene.devices, 0.0)
    placement = {}
    for name in sorted(load, key=lambda each: (-load[each], each)):
        device = min(scene.devices, key=lambda each: on[each])
        placement[name] = device
        on[device] += load[name]
    return placement


def row_us(function: Function, model: LatencyModel) -> float:
    """Time of a row on the whole device, in a batch of half the size that half the SLO allows."""
    rows = max(1, batch_within(function, model, 100.0, 0.5) // 2)
    return model.median_us(rows, 100.0) / rows


def batch_within(function: Function, model: LatencyModel, share_percent: float, part: float) -> int:
    """The largest batch that takes no more than a part of the SLO; at least 1."""
    rows = function.rows_max
    while rows > 1 and model.median_us(rows, share_percent) > part * function.slo_us:
        rows -= 1
    return rows


def grant(
    function: Function,
    model: LatencyModel,
    device: str,
    share_percent: float,
    *,
    part: float = 0.5,
    sheds: bool = False,
) -> Grant:
    """A grant with the largest batch that takes half of the SLO, as gpulet has it.

    Args:
        function: Whose.
        model: What its batches take.
        device: Where.
        share_percent: How much.
        part: Of the SLO, for a batch.
        sheds: Whether what would be late is turned away.
    """
    rows = batch_within(function, model, share_percent, part)
    return Grant(device, share_percent, rows, shed_us=function.slo_us if sheds else 0.0)


class Fixed:
    """A plan that never changes."""

    prepared_us: float | None = None
    looks = 0

    def __init__(self, name: str, service: Service, plan: Plan) -> None:
        self.name, self.service = name, service
        self._plan = plan

    def start(self) -> Plan:
        """The plan."""
        return self._plan

    def decide(self, seen: Seen) -> Plan | None:
        """Nothing."""
        return None
