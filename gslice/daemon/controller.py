"""The control loop: looks at the traffic, decides, and has the decision carried out.

It decides for devices on which somebody was promised an SLO; on others shares stay divided
max-min fairly. Batch limits and admission change at once, in the segment; shares go the way of any
other resize. Where somebody stays short, `Relief` proposes other devices.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import logging
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gslice.control.demand import Allotment, Demand, DeviceShares, together
from gslice.control.explain import reason
from gslice.control.plan import Planner
from gslice.control.quotas import tied
from gslice.control.shares import differs
from gslice.control.whatif import WhatIf, what_if
from gslice.core.events import EventKind
from gslice.daemon.relief import Relief
from gslice.daemon.watch import LOOK_PERIOD_S, Watch
from gslice.supervise.logs import DAEMON_LOG_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gslice.control.latency import LatencyModel
    from gslice.core.access import ShareQuota
    from gslice.core.types import FunctionSpec
    from gslice.daemon.relief import Mover
    from gslice.supervise.deployment import Deployment
    from gslice.supervise.supervisor import Supervisor

_log = logging.getLogger("gslice")
_IN_PLACE_REST_S = 10.0  # between changes that nobody needs
SHADOW_REST_S = 20.0  # a swap takes a load at low priority, and memory for two


@dataclass(frozen=True)
class Limits:
    """What a segment is told at once.

    Attributes:
        batch_rows_max: Largest batch.
        delay_us: How long one may wait for more rows.
        admit_within_us: What would take longer is shed; 0: nothing is.
    """

    batch_rows_max: int
    delay_us: int
    admit_within_us: int


@dataclass(frozen=True)
class Proposal:
    """What would be decided.

    Attributes:
        demands: Of what.
        shares_percent: What functions have now, by name.
        plan: What they would get, by name.
    """

    demands: Sequence[Demand]
    shares_percent: Mapping[str, float]
    plan: Mapping[str, Sequence[Allotment]]


class Controller:
    """Keeps the SLOs of a node's functions.

    Args:
        supervisor: What runs, and who carries decisions out.
        model: What batches of a function take on a device, as measured; None: nobody has.
        planner: Decides.
        mover: Who can have functions change their devices; None: nobody.

    Attributes:
        decisions: The last one about each function that has one, by name.
        allotments: The same, device by device.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        model: Callable[[FunctionSpec, str], LatencyModel | None],
        planner: Planner | None = None,
        mover: Mover | None = None,
    ) -> None:
        self.decisions: dict[str, Allotment] = {}  # one object for its life: others read it
        self.allotments: dict[str, Sequence[Allotment]] = {}  # likewise
        self._supervisor = supervisor
        self._model = model
        self._planner = planner or Planner()
        self._watches: dict[str, Watch] = {}
        self._relief = Relief(supervisor, model, self._planner, mover)
        self._shares: dict[str, float] = {}  # as last decided
        self._limits: dict[str, tuple[int, Limits]] = {}  # with the segment's generation

    async def run(self, *, decides: bool = True) -> None:
        """Until cancelled: looks and decides twice a second.

        Args:
            decides: False: it only looks, so that `what_if` knows what comes.
        """
        failed = ""
        while True:
            await asyncio.sleep(LOOK_PERIOD_S)
            try:
                self.look(time.monotonic_ns())
                if decides:
                    await self.decide(time.monotonic_ns())
            except Exception as error:  # what one look meets must not be the last of all
                text = f"the controller cannot decide: {type(error).__name__}: {error}"
                if text != failed:
                    _log.exception("%s", text)
                    self._supervisor.node.event(DAEMON_LOG_NAME, EventKind.FAILED, text)
                failed = text
            else:
                failed = ""

    async def decide(self, now_ns: int) -> None:
        """Decides of what was seen, and has it carried out."""
        demands = self.demands(now_ns)
        promised = {d for s in self._admitted().values() if s.slo_p99_us for d in s.placed}
        promised = tied(demands.values(), promised)
        looked_after = [d for d in demands.values() if not promised.isdisjoint(d.devices)]
        decided = self._decide(now_ns, looked_after)
        self.decisions.clear()
        self.allotments.clear()
        self.allotments.update(decided)
        for name, allotments in decided.items():
            self.decisions[name] = together(demands[name], allotments)
        for name, deployment in self._serving().items():
            decision = self.decisions.get(name)
            moves = set(deployment.spec.placed).isdisjoint(demands[name].devices)
            if self._knows(name, now_ns):
                self._limit(deployment, None if moves else decision)
        shares = {
            name: allotment.share_percent
            for name, allotment in self.decisions.items()
            if not demands[name].pinned
        }
        self._tell(shares)
        self._shares = shares
        self._propose(now_ns, demands)
        turns = {each.device for each in itertools.chain(*decided.values()) if each.turns}
        await self._supervisor.sharing.follow(shares, turns)

    def look(self, now_ns: int) -> None:
        """Reads what every segment has counted."""
        functions = self._supervisor.functions
        for name in self._watches.keys() - functions.keys():
            del self._watches[name]
        for name, deployment in self._serving().items():
            segment, spec = deployment.segment, deployment.spec
            assert segment is not None
            share = deployment.share_effective_percent / max(1, spec.instances)
            watch = self._watches.setdefault(name, Watch())
            watch.use(self._model(spec, spec.device))
            watch.observe(now_ns, segment.generation, segment.demand(), share)

    def what_if(self, changes: Sequence[str]) -> Proposal:
        """What would be decided of other demands than there are.

        Args:
            changes: As `WhatIf.parse` reads them; none: of those that there are.

        Raises:
            GsliceError: one is wrong, or about a function that is not there.
        """
        now_ns = time.monotonic_ns()
        now = list(self.demands(now_ns).values())
        free = [self._relief.anywhere(demand) for demand in now]
        demands = what_if(free, [WhatIf.parse(change) for change in changes])
        shares = {n: f.share_granted_percent for n, f in self._supervisor.functions.items()}
        planner = Planner(self._planner.policy)
        # Of other demands the shares that there are say nothing.
        current = _current(now, dict.fromkeys(shares, 0.0) if changes else shares)
        devices = self.devices(now_ns).items()
        settled = {name: dataclasses.replace(device, changing=False) for name, device in devices}
        plan = planner.plan(now_ns / 1e9, demands, settled, current)
        return Proposal(demands, shares, plan)

    def demands(self, now_ns: int) -> dict[str, Demand]:
        """What every function that counts needs, by name."""
        demands: dict[str, Demand] = {}
        for name, spec in self._admitted().items():
            deployment = self._supervisor.functions[name].deployment
            watch = self._watches.get(name) or Watch()
            signature = deployment.signature if deployment else None
            rows_max = signature.rows_max if signature else 0
            measured = self._model(spec, spec.device)
            quota = self._supervisor.node.config.share_quota(name)
            demands[name] = watch.demand(now_ns, spec, measured, rows_max, quota)
        return demands

    def devices(self, now_ns: int) -> dict[str, DeviceShares]:
        """What there is to divide."""
        node, functions = self._supervisor.node, self._supervisor.functions.values()
        stale = (f.deployment.stale() for f in functions if f.deployment)
        changing = {worker.device for workers in stale for worker in workers}
        # Who serves and has not been watched for long enough is not idle: it was adopted just now.
        serving = self._serving().items()
        unknown = [d.spec for name, d in serving if not self._knows(name, now_ns)]
        changing |= {device for spec in unknown for device in spec.placed}
        return {
            name: DeviceShares(
                name,
                device.share_limit_percent,
                rest_s=SHADOW_REST_S if self._replaces(name) else _IN_PLACE_REST_S,
                changing=name in changing,
                turns=device.limiter != "green",  # groups are somebody's, also while he waits
            )
            for name, device in node.devices.items()
        }

    # ---- parts -----------------------------------------------------------------------------

    def _admitted(self) -> dict[str, FunctionSpec]:
        return {n: f.spec for n, f in self._supervisor.functions.items() if f.admitted}

    def _serving(self) -> dict[str, Deployment]:
        """What has a segment and counts, by the function's name."""
        return {
            name: function.deployment
            for name, function in self._supervisor.functions.items()
            if function.admitted and function.deployment and function.deployment.segment
        }

    def _knows(self, name: str, now_ns: int) -> bool:
        """Whether a function has been watched for long enough to decide of it."""
        return name in self._watches and self._watches[name].knows(now_ns)

    def _decide(self, now_ns: int, demands: Sequence[Demand]) -> dict[str, list[Allotment]]:
        shares = {n: f.share_granted_percent for n, f in self._supervisor.functions.items()}
        effective = {n: d.share_effective_percent for n, d in self._serving().items()}
        current = _current(demands, shares, effective)
        return self._planner.plan(now_ns / 1e9, demands, self.devices(now_ns), current)

    def _propose(self, now_ns: int, demands: Mapping[str, Demand]) -> None:
        """Has it looked into whether somebody should be elsewhere, or on more devices or fewer."""
        short: dict[str, list[str]] = {}
        taken: dict[ShareQuota, float] = defaultdict(float)
        for name, decision in self.decisions.items():
            if quota := demands[name].quota:
                taken[quota] += decision.share_percent * decision.replicas
        spent = {quota for quota, percent in taken.items() if percent > quota.percent - 1}
        for name, decision in self.decisions.items():
            # No other device would help who has all that its tenant may have.
            moves = decision.short and demands[name].quota not in spent
            for device in demands[name].devices if moves else ():
                short.setdefault(device, []).append(name)
        shares = {n: f.share_granted_percent for n, f in self._supervisor.functions.items()}
        current = _current(list(demands.values()), shares)
        self._relief.look(now_ns, demands, short, self.devices(now_ns), current)

    def _limit(self, deployment: Deployment, decision: Allotment | None) -> None:
        """Tells a segment its limits, if they are others than those it was told."""
        segment, spec = deployment.segment, deployment.spec
        assert segment is not None
        rows_max = deployment.signature.rows_max if deployment.signature else 0
        limits = Limits(
            min(decision.batch_rows_max or rows_max, rows_max) if decision else rows_max,
            max(0, spec.delay_us),
            round(decision.shed_us) if decision else 0,
        )
        if self._limits.get(spec.name) != (segment.generation, limits):
            self._limits[spec.name] = segment.generation, limits
            segment.set_limits(
                limits.batch_rows_max, limits.delay_us * 1000, limits.admit_within_us * 1000
            )

    def _tell(self, shares: Mapping[str, float]) -> None:
        """Of decisions that are new; one that cannot be granted yet is not told again."""
        for name, share in shares.items():
            before = self._supervisor.functions[name].share_granted_percent
            if differs(before, share) and share != self._shares.get(name):
                text = f"{before:g}% -> {reason(self.decisions[name])}"
                self._supervisor.node.event(name, EventKind.SHARE, text)

    def _replaces(self, device: str) -> bool:
        """Whether another share means another worker there, or other graphs."""
        functions = self._supervisor.functions.values()
        deployments = (f.deployment for f in functions if device in f.spec.placed)
        return any(d is not None and d.limiter in ("mps", "green", "threads") for d in deployments)


def _current(
    demands: Sequence[Demand],
    shares_percent: Mapping[str, float],
    effective_percent: Mapping[str, float] = {},
) -> dict[str, list[Allotment]]:
    """What functions have now, as the planner wants it."""
    return {
        demand.name: [
            Allotment(
                device,
                share,
                rate_per_s=demand.rate_per_s / len(demand.devices),
                effective_percent=effective_percent.get(demand.name, 0.0),
            )
            for device in demand.devices
        ]
        for demand in demands
        if (share := shares_percent.get(demand.name)) is not None
    }
