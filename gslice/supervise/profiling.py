"""Measuring a function over shares and batch sizes while it serves.

A stand is brought to one share after the other. It has its share only while it is loaded or
measured, in turn with all that change shares on the device, so that the excess is one instance's.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gslice.control.latency import Measurement
from gslice.control.points import next_points
from gslice.core.errors import FailedPrecondition, InvalidArgument, NotFound
from gslice.core.events import EventKind
from gslice.ipc.messages import Measure
from gslice.supervise.stand import Stand

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gslice.core.types import FunctionSpec
    from gslice.ipc.messages import Measured
    from gslice.supervise.budget import Budget, Need
    from gslice.supervise.deployment import Deployment
    from gslice.supervise.frontends import Frontends
    from gslice.supervise.function import Function
    from gslice.supervise.gpu import Gpu
    from gslice.supervise.node import Node

    Point = tuple[int, float]

DURATION_US = 500_000
"""How long the batches of a point are timed."""

BATCHES_MIN = 10
"""How many are timed at least, however long they take."""

_PARTS = 10  # of a device whose limiter knows smaller ones than cores
_OUTLINE_POINTS = 7  # as many are measured before it is asked where the curve bends
_PART_MAX = 0.5  # of the others: on a noisy machine no number would do
_BESIDE = "measured beside what serves"


@dataclass(frozen=True)
class Measuring:
    """One point that was measured.

    Attributes:
        asked_percent: The share as ordered; the measurement has it as read back.
        measurement: What came out.
        joules: That the whole GPU took a batch, whoever used it meanwhile; 0: it does not count.
    """

    asked_percent: float
    measurement: Measurement
    joules: float = 0.0

    @property
    def point(self) -> Point:
        """Where it is in the grid that was ordered."""
        return self.measurement.bucket, self.asked_percent


@dataclass(frozen=True)
class Grid:
    """What may be measured.

    Attributes:
        shares: In percent, ascending.
        buckets: Ascending.
        whole: All of it is measured; else as much as it takes to tell the rest.
        share_costs: Another share takes another worker, so that more is measured at each.
    """

    shares: tuple[float, ...]
    buckets: tuple[int, ...]
    whole: bool
    share_costs: bool = False

    def following(self, done: Sequence[Measuring]) -> Point | None:
        """What to measure next; None: it is enough."""
        if self.whole:
            known = {each.point for each in done}
            # Larger shares first: such a worker can have smaller ones in place.
            every = ((b, share) for share in reversed(self.shares) for b in self.buckets)
            return next((point for point in every if point not in known), None)
        if len(done) >= self.most:
            return None
        # As ordered, for what is read back may be another number.
        asked = [
            dataclasses.replace(each.measurement, share_percent=each.asked_percent) for each in done
        ]
        point = next_points(asked, self.shares, self.buckets)
        if point is not None and done and self.share_costs:
            return next_points(asked, (done[-1].asked_percent,), self.buckets) or point
        return point

    @property
    def most(self) -> int:
        """How many points are measured at most."""
        size = len(self.shares) * len(self.buckets)
        outline = size if self.whole else min(_OUTLINE_POINTS, size)
        return outline + round(_PART_MAX * (size - outline))


class Profiler:
    """Measures functions of a node, each at most once at a time.

    Args:
        node: The node.
        functions: What runs, by name; read when asked.
        frontends: Of the node.
        budget: What a stand may take.
    """

    def __init__(
        self, node: Node, functions: Mapping[str, Function], frontends: Frontends, budget: Budget
    ) -> None:
        self._node = node
        self._functions = functions
        self._frontends = frontends
        self._budget = budget
        self._running: set[str] = set()

    def deployment(self, name: str) -> Deployment:
        """What serves a function, and can be measured.

        Raises:
            NotFound: there is none of that name.
            FailedPrecondition: it does not serve.
        """
        function = self._functions.get(name)
        if function is None:
            known = ", ".join(sorted(self._functions)) or "none"
            raise NotFound(f"there is no function {name}", hint=f"functions: {known}")
        deployment = function.deployment
        if deployment is None or deployment.signature is None or not function.serving:
            raise FailedPrecondition(
                f"function {name} is {function.state}; only one that serves can be measured",
                hint=f"load it: gslice load {name}",
            )
        return deployment

    def grid(self, name: str, shares: Sequence[float], buckets: Sequence[int]) -> Grid:
        """What to measure of a function.

        Args:
            name: Which.
            shares: Empty: those that its limiter can tell apart, in steps of 10 %.
            buckets: Empty: those that it prepares.

        Raises:
            NotFound: there is none of that name.
            FailedPrecondition: it does not serve.
            InvalidArgument: it cannot have such a share, or runs no such batch.
        """
        deployment = self.deployment(name)
        spec, signature = deployment.spec, deployment.signature
        assert signature is not None
        limit = self._node.device(spec.device).share_limit_percent
        for share in shares:
            if not 0 < share <= limit:
                raise InvalidArgument(
                    f"function {name} cannot be measured at {share:g}%:"
                    f" the share limit of {spec.device} is {limit:g}%"
                )
        for bucket in buckets:
            signature.check_batch(name, bucket)
        return Grid(
            tuple(sorted(set(shares))) or self._usual_shares(spec, limit),
            tuple(sorted(set(buckets))) or signature.sizes,
            whole=bool(shares or buckets),
            share_costs=self._node.limiter(spec.device, spec) in ("mps", "green", "threads"),
        )

    def excess_percent(self, name: str, grid: Grid) -> float:
        """How much of its device a stand takes that is not free, at most."""
        device = self.deployment(name).spec.device
        granted = (
            f.share_granted_percent
            for f in self._functions.values()
            if f.admitted and device in f.spec.placed
        )
        free = max(0.0, self._node.device(device).share_limit_percent - sum(granted))
        return max(0.0, grid.shares[-1] - free)

    async def run(
        self, name: str, grid: Grid, tell: Callable[[Measuring], None]
    ) -> list[Measuring]:
        """Measures; whoever cancels it leaves nothing behind.

        Args:
            name: Of the function.
            grid: Made by `grid`.
            tell: Told of each point.

        Raises:
            FailedPrecondition: it does not serve, or is being measured already.
            ResourceExhausted: no memory is left for a worker beside what serves.
            GsliceError: a worker could not be loaded or measured.
        """
        function, deployment = self._functions[name], self.deployment(name)
        if name in self._running:
            raise FailedPrecondition(f"function {name} is being measured already")
        assert deployment.signature is not None
        args = (self._node, deployment.spec, deployment.signature, self._frontends)
        stand, done = Stand(*args), list[Measuring]()
        self._running.add(name)
        self._tell_excess(name, grid)
        try:
            async with self._budget.promised([_need(function, deployment)]):
                try:
                    while point := grid.following(done):
                        if self._functions.get(name) is not function:
                            raise FailedPrecondition(f"function {name} was unloaded meanwhile")
                        done.append(await self._measure(stand, deployment.spec, *point))
                        tell(done[-1])
                finally:
                    await stand.close()
        except BaseException as error:
            text = f"is not measured any more: {str(error) or 'nobody waits for it'}"
            self._node.event(name, EventKind.PROFILE, text)
            raise
        finally:
            self._running.discard(name)
        return done

    # ---- parts -----------------------------------------------------------------------------

    async def _measure(
        self, stand: Stand, spec: FunctionSpec, bucket: int, share_percent: float
    ) -> Measuring:
        order = Measure(bucket, BATCHES_MIN, duration_us=DURATION_US)
        gpu = self._node.gpus.get(spec.device)
        async with self._node.turns[spec.device].take(grows=True):
            await stand.bring_to(share_percent)
            before_j, begun_s = await _energy_j(gpu), time.monotonic()
            measured = await stand.measure(order)
            took_us, after_j = (time.monotonic() - begun_s) * 1e6, await _energy_j(gpu)
        batch_us = measured.timed_us / measured.batches
        joules = max(0.0, after_j - before_j) * batch_us / took_us
        return Measuring(share_percent, measurement_of(measured), joules)

    def _tell_excess(self, name: str, grid: Grid) -> None:
        text = f"is measured at up to {grid.shares[-1]:g}% beside what serves"
        if excess := self.excess_percent(name, grid):
            text = f"{text}, {excess:g}% more than is free"
        self._node.event(name, EventKind.PROFILE, text)

    def _usual_shares(self, spec: FunctionSpec, limit_percent: float) -> tuple[float, ...]:
        """Those that its limiter can tell apart, in steps of 10 %, up to all that there is."""
        limiter, device = self._node.limiter(spec.device, spec), self._node.device(spec.device)
        if limiter == "none":
            return (limit_percent,)
        parts = len(device.cpus) if limiter == "threads" else _PARTS
        count = int(limit_percent * parts / 100 + 1e-9)
        # In this order all parts are exactly 100: n times the nth part may not be.
        return tuple(sorted({*(100 * part / parts for part in range(1, count + 1)), limit_percent}))


def measurement_of(measured: Measured) -> Measurement:
    """The same as decisions know it."""
    return Measurement(
        measured.bucket,
        measured.share_effective_percent,
        measured.median_us,
        measured.p99_us,
        measured.batches,
    )


def _need(function: Function, deployment: Deployment) -> Need:
    need = function.resizing.shadow_need(deployment, deployment.spec.device)
    return dataclasses.replace(need, circumstances=_BESIDE)


async def _energy_j(gpu: Gpu | None) -> float:
    return await gpu.energy_j() if gpu is not None else 0.0
