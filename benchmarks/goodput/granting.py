"""How plans come into effect: limits at once, shares when they are prepared, shrinks first."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.goodput.scene import Grant, Plan, Scene, Service
from benchmarks.goodput.state import Server, State, with_servers
from benchmarks.goodput.tables import index

_ROUNDING = 1e-6


class Granting:
    """What is in effect, and what is being prepared.

    Attributes:
        granted: In effect, by function.
        resizes: Changes of share or device so far, the first ones not counted.
    """

    def __init__(self, scene: Scene, service: Service) -> None:
        self.granted: dict[str, list[Grant]] = {}
        self.resizes = 0
        self._number = {function.name: i for i, function in enumerate(scene.functions)}
        self._device = {name: i for i, name in enumerate(scene.devices)}
        self._limited = service in ("shares", "edf")
        self._turns: set[str] = set()
        self._pending: dict[str, tuple[float, list[Grant]]] = {}

    @property
    def preparing(self) -> frozenset[str]:
        """Devices for which new shares are being prepared."""
        return frozenset(g.device for _, grants in self._pending.values() for g in grants)

    def begin(self, state: State, plan: Plan) -> State:
        """The first plan is in effect before the first request."""
        self._take(plan)
        self.granted = {name: list(grants) for name, grants in plan.items()}
        return self._install(state, 0.0)

    def decide(self, state: State, plan: Plan, now_us: float, prepare_us: float) -> None:
        """Takes a new plan: limits now, shares later."""
        self._take(plan)
        for name, grants in plan.items():
            new = list(grants)
            if _same_shares(new, self.granted.get(name, [])):
                self._pending.pop(name, None)
                self.granted[name] = new
            elif name in self._pending and _same_shares(new, self._pending[name][1]):
                self._pending[name] = (self._pending[name][0], new)
            else:
                self._pending[name] = (now_us + prepare_us, new)
            self._limit(state, name, new)
        self._switch(state)

    def due(self, from_us: float, until_us: float) -> list[float]:
        """When something is prepared in an interval."""
        times = {max(from_us, time_us) for time_us, _ in self._pending.values()}
        return sorted(time_us for time_us in times if time_us < until_us)

    def swap(self, state: State, now_us: float) -> State:
        """Brings into effect what is prepared and fits."""
        ready = [name for name, (time_us, _) in self._pending.items() if time_us <= now_us]
        for name in sorted(ready, key=self._growth):
            new = self._pending[name][1]
            if self._fits(name, new):
                self.granted[name] = new
                self.resizes += 1
                del self._pending[name]
        return self._install(state, now_us)

    # ---- details -----------------------------------------------------------------------------

    def _growth(self, name: str) -> float:
        new, old = self._pending[name][1], self.granted.get(name, [])
        return sum(g.share_percent for g in new) - sum(g.share_percent for g in old)

    def _fits(self, name: str, new: Sequence[Grant]) -> bool:
        after = {**self.granted, name: list(new)}
        return not self._limited or all(
            grant.device in self._turns or _sum_on(after, grant.device) <= 100 + _ROUNDING
            for grant in new
        )

    def _take(self, plan: Plan) -> None:
        """Notes which devices take turns; others cannot have more than they have."""
        grants = [grant for grants in plan.values() for grant in grants]
        self._turns = {grant.device for grant in grants if grant.turns}
        for device in self._device.keys() - self._turns if self._limited else ():
            if (total := _sum_on(plan, device)) > 100 + _ROUNDING:
                raise ValueError(f"the plan gives away {total:g} % of {device}")

    def _switch(self, state: State) -> None:
        """Turns begin before shares over-commit a device, and end when they do no more."""
        for device, number in self._device.items():
            over = self._limited and _sum_on(self.granted, device) > 100 + _ROUNDING
            state.at_once[number] = 100.0 if over or device in self._turns else 0.0

    def _limit(self, state: State, name: str, grants: Sequence[Grant]) -> None:
        """Batch limits and shedding; a function's queue knows those of its first grant."""
        if not grants:
            return
        first, function = grants[0], self._number[name]
        state.limits[function] = first.batch_rows_max, first.delay_us, first.shed_us
        by_device = {self._device[grant.device]: grant.batch_rows_max for grant in grants}
        for server in range(len(state.server_of)):
            if state.server_of[server] == function:
                kept = int(state.rows_max[server])
                state.rows_max[server] = by_device.get(int(state.device_of[server]), kept)

    def _install(self, state: State, now_us: float) -> State:
        servers = [
            Server(
                self._number[name],
                self._device[grant.device],
                grant.share_percent,
                index(grant.share_percent),
                grant.batch_rows_max,
            )
            for name, grants in self.granted.items()
            for grant in grants
            if grant.share_percent > 0
        ]
        after = with_servers(state, servers, now_us)
        for name, grants in self.granted.items():
            limited = self._pending[name][1] if name in self._pending else grants
            self._limit(after, name, limited)
        self._switch(after)
        return after


def _same_shares(one: Sequence[Grant], other: Sequence[Grant]) -> bool:
    def shares(grants: Sequence[Grant]) -> list[tuple[str, float]]:
        return sorted((grant.device, round(grant.share_percent, 6)) for grant in grants)

    return shares(one) == shares(other)


def _sum_on(plan: Plan, device: str) -> float:
    return sum(
        grant.share_percent
        for grants in plan.values()
        for grant in grants
        if grant.device == device
    )
