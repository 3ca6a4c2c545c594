"""A controller over functions that do as they are told, with a traffic each."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from gslice.control.arrivals import SECOND_NS
from gslice.control.demand import Policy
from gslice.control.latency import LatencyModel, Measurement
from gslice.control.plan import Planner
from gslice.core.access import ShareQuota
from gslice.core.config import DeviceConfig
from gslice.core.types import FunctionSpec, Signature
from gslice.daemon.controller import Controller

MODEL = LatencyModel.fit(
    [
        Measurement(rows, share, median := 500 + 500 * rows * 100 / share, 1.1 * median, 50)
        for rows in (1, 2, 4)
        for share in (25.0, 50.0, 100.0)
    ]
)


class FakeSegment:
    """Counts what it is told to, and keeps its limits."""

    generation = 1

    def __init__(self) -> None:
        self.arrived = 0
        self.limits: list[tuple[int, int, int]] = []

    def demand(self) -> dict[str, Any]:
        zeros = dict.fromkeys(("answered", "rows", "executions", "compute_busy_ns"), 0)
        return {**zeros, "arrived": self.arrived, "batch_rows": np.zeros(129, np.uint64)}

    def set_limits(self, rows: int, delay_ns: int, admit_within_ns: int = 0) -> None:
        self.limits.append((rows, delay_ns, admit_within_ns))


class FakeSupervisor:
    """Functions that do as they are told at once."""

    def __init__(self, *specs: FunctionSpec, devices: tuple[str, ...] = ("cpu",)) -> None:
        self.drained: set[str] = set()
        self.in_turns: set[str] = set()
        self.sharing = SimpleNamespace(follow=self.follow)
        self.quotas: dict[str, ShareQuota] = {}
        self.events: list[tuple[str, str]] = []
        self.functions = {spec.name: self._function(spec, len(specs)) for spec in specs}
        self.node = SimpleNamespace(
            devices={device: DeviceConfig() for device in devices},
            config=SimpleNamespace(share_quota=self.quotas.get),
            usable=lambda device: device not in self.drained,
            event=lambda subject, kind, text: self.events.append((subject, text)),
        )

    def _function(self, spec: FunctionSpec, count: int) -> Any:
        deployment = SimpleNamespace(
            spec=spec,
            segment=FakeSegment(),
            signature=Signature((), (), rows_max=4),
            share_effective_percent=100 / count,
            limiter="cgroup",
            stale=list,
        )
        share = 100 / count
        return SimpleNamespace(
            spec=spec,
            deployment=deployment,
            admitted=True,
            serving=True,
            share_granted_percent=share,
        )

    async def follow(self, shares: dict[str, float], in_turns: Collection[str] = ()) -> None:
        self.in_turns = set(in_turns)
        for name, share in shares.items():
            self.functions[name].share_granted_percent = share


class FakeMover:
    """Moves nothing; knows what was proposed, and who moved just now."""

    def __init__(self) -> None:
        self.proposed: list[tuple[str, str]] = []
        self.reasons: set[str] = set()
        self.moved: set[str] = set()

    def rested(self, name: str) -> bool:
        return name not in self.moved

    def propose(self, name: str, devices: Sequence[str], why: str) -> None:
        self.proposed.append((name, ", ".join(devices)))
        self.reasons.add(why)


class Bench:
    """A controller over functions with a traffic each.

    Args:
        specs: Of the functions.
        devices: The node's.
        measured: Those on which functions were measured, or on others like them; None: all.
    """

    def __init__(
        self,
        *specs: FunctionSpec,
        devices: tuple[str, ...] = ("cpu",),
        measured: tuple[str, ...] | None = None,
    ) -> None:
        known = devices if measured is None else measured
        self.supervisor = FakeSupervisor(*specs, devices=devices)
        self.mover = FakeMover()
        self.controller = Controller(
            self.supervisor,  # type: ignore[arg-type]
            lambda spec, device: MODEL if device in known else None,
            Planner(Policy(turns=True)),
            self.mover,
        )
        self.now_ns = 0

    def run(self, seconds: float, **rates: int) -> None:
        for tick in range(round(seconds * 4)):
            self.now_ns += SECOND_NS // 4
            for name, rate in rates.items():
                self.supervisor.functions[name].deployment.segment.arrived += rate // 4
            self.controller.look(self.now_ns)
            if tick % 2:
                asyncio.run(self.controller.decide(self.now_ns))

    def share(self, name: str) -> float:
        return float(self.supervisor.functions[name].share_granted_percent)

    def limits(self, name: str) -> list[tuple[int, int, int]]:
        found: list[tuple[int, int, int]] = self.supervisor.functions[
            name
        ].deployment.segment.limits
        return found


def spec(name: str, slo_ms: int = 50, **settings: Any) -> FunctionSpec:
    return FunctionSpec(name, slo_p99_us=slo_ms * 1000, **settings)
