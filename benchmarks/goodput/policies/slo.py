"""The product's own control code: what a daemon watches of each function, and its planner.

Only what differs from a daemon is written here: functions may run on any device, and counters come
from the simulation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from benchmarks.goodput import scene
from benchmarks.goodput.policies.common import models
from benchmarks.goodput.scene import Grant, Plan, Seen, Service, Traffic
from benchmarks.goodput.simulate import LOOK_US, Setting
from gslice.control.demand import Allotment, Demand, DeviceShares, Policy
from gslice.control.plan import Planner
from gslice.core.types import FunctionSpec
from gslice.daemon.controller import SHADOW_REST_S
from gslice.daemon.watch import LOOK_PERIOD_S, Watch


class Slo:
    """Watches and planner of a node.

    Args:
        given: The setting.
        turns: Whether functions may take turns on a device.
    """

    prepared_us: float | None = None
    looks = round(LOOK_PERIOD_S * 1e6 / LOOK_US)

    def __init__(self, given: Setting, *, turns: bool = True) -> None:
        self.name = "slo" if turns else "side_by_side"
        self.service: Service = "edf" if turns else "shares"
        self._planner = Planner(Policy(turns=turns))
        self._devices = {
            name: DeviceShares(name, step_percent=given.scene.step_percent, rest_s=SHADOW_REST_S)
            for name in given.scene.devices
        }
        self._models = models(given.scene)
        self._specs = {
            f.name: FunctionSpec(
                name=f.name, device=given.scene.devices[0], slo_p99_us=round(f.slo_us)
            )
            for f in given.scene.functions
        }
        self._rows_max = {f.name: f.rows_max for f in given.scene.functions}
        self._watches = {name: Watch() for name in self._specs}
        self._current: dict[str, list[Allotment]] = {}
        self._demands: dict[str, tuple[Demand, Demand]] = {}
        for name, watch in self._watches.items():
            watch.use(self._models[name])

    def start(self) -> Plan:
        """Before anything was seen."""
        return self._plan(0)

    def decide(self, seen: Seen) -> Plan:
        """Looks, and decides."""
        now_ns = round(seen.now_us * 1e3)
        self._devices = {
            name: replace(device, changing=name in seen.preparing)
            for name, device in self._devices.items()
        }
        self._current = {
            name: _in_effect(allotments, seen.granted.get(name, ()))
            for name, allotments in self._current.items()
        }
        for name, watch in self._watches.items():
            shares = [grant.share_percent for grant in seen.granted.get(name, ())]
            share = sum(shares) / len(shares) if shares else 0.0
            watch.observe(now_ns, 0, _counters(seen.traffic[name]), share)
        return self._plan(now_ns)

    def _plan(self, now_ns: int) -> Plan:
        demands = {name: self._demand(name, now_ns) for name in self._specs}
        self._current = self._planner.plan(
            now_ns / 1e9, demands.values(), self._devices, self._current
        )
        return {
            name: [self._grant(demands[name], allotment) for allotment in allotments]
            for name, allotments in self._current.items()
        }

    def _demand(self, name: str, now_ns: int) -> Demand:
        """As the daemon has it, but for the devices: the function may run on any of them."""
        demand = self._watches[name].demand(
            now_ns, self._specs[name], self._models[name], self._rows_max[name]
        )
        if name not in self._demands or self._demands[name][0] != demand:
            model = next(iter(demand.models.values()))
            anywhere = replace(demand, models=dict.fromkeys(self._devices, model), devices=())
            self._demands[name] = demand, anywhere
        return self._demands[name][1]

    def _grant(self, demand: Demand, allotment: Allotment) -> Grant:
        rows = max(1, min(allotment.batch_rows_max or demand.rows_max, demand.rows_max))
        return Grant(
            device=allotment.device,
            share_percent=allotment.share_percent,
            batch_rows_max=rows,
            shed_us=allotment.shed_us,
            turns=allotment.turns,
        )


def _in_effect(decided: Sequence[Allotment], granted: Sequence[Grant]) -> list[Allotment]:
    """What was decided, with the shares that serve until then."""
    shares = {grant.device: grant.share_percent for grant in granted}
    return [
        Allotment(
            each.device,
            each.share_percent,
            rate_per_s=each.rate_per_s,
            effective_percent=shares.get(each.device, 0.0),
        )
        for each in decided
    ]


def _counters(traffic: Traffic) -> Mapping[str, Any]:
    """As a segment counts."""
    return {
        "arrived": traffic.arrived,
        "answered": traffic.answered,
        "rows": traffic.rows,
        "executions": traffic.batches,
        "batch_rows": traffic.sizes,
        "compute_busy_ns": traffic.busy_us * 1e3,
    }


def slo(given: Setting) -> scene.Policy:
    """The controller."""
    return Slo(given)


def side_by_side(given: Setting) -> scene.Policy:
    """The controller where functions take no turns."""
    return Slo(given, turns=False)
