"""Where functions should be instead: off a device that is too small, on more devices, or on fewer.

The planner is asked with all devices that a function may have. What is proposed is one change at a
time: the next look sees what came of it.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gslice.control.demand import Allotment, Demand, DeviceShares
    from gslice.control.latency import LatencyModel
    from gslice.control.plan import Planner
    from gslice.core.types import FunctionSpec
    from gslice.supervise.supervisor import Supervisor

    Model = Callable[[FunctionSpec, str], LatencyModel | None]
    Current = Mapping[str, Sequence[Allotment]]

_SHORT_NS = 2_000_000_000  # for that long somebody must be short before anybody moves
_SPARE_NS = 60_000_000_000  # and for that long a replica must have been one too many
_ROOM = 1.5  # of the peak is served without it: whoever comes back to be short is far away


class Mover(Protocol):
    """Carries functions to other devices."""

    def rested(self, name: str) -> bool:
        """Whether a function was not moved just now."""

    def propose(self, name: str, devices: Sequence[str], why: str) -> None:
        """Says that a function would be better off on these; nothing has to come of it."""


class Relief:
    """Proposes other devices for functions.

    Args:
        supervisor: What runs.
        model: What batches of a function take on a device, as measured; None: nobody has.
        planner: Knows what fits where.
        mover: Told of proposals; None: nobody.
    """

    def __init__(
        self, supervisor: Supervisor, model: Model, planner: Planner, mover: Mover | None
    ) -> None:
        self._supervisor = supervisor
        self._model = model
        self._planner = planner
        self._mover = mover
        self._short_since_ns: dict[str, int] = {}  # by device
        self._spare_since_ns: dict[str, int] = {}  # by function

    def look(
        self,
        now_ns: int,
        demands: Mapping[str, Demand],
        short: Mapping[str, Sequence[str]],
        devices: Mapping[str, DeviceShares],
        current: Current,
    ) -> None:
        """Proposes what has been due for long enough.

        Args:
            now_ns: When.
            demands: As functions are now, by name.
            short: The functions that are too slow, by the device that is too small for them.
            devices: What there is to divide.
            current: What functions have now.
        """
        since_ns = {device: self._short_since_ns.get(device, now_ns) for device in short}
        self._short_since_ns = since_ns
        lasting = {device for device in short if now_ns - since_ns[device] >= _SHORT_NS}
        if self._mover is None:
            return
        if lasting:
            self._relieve(self._mover, demands, lasting, short, devices, current)
        self._retract(self._mover, now_ns, demands, devices)

    def anywhere(self, demand: Demand) -> Demand:
        """A demand with all devices of which it is known what the function would take there.

        Replicas are on devices on which it takes the same.
        """
        function, here = self._supervisor.functions[demand.name], demand.devices[0]
        spec = function.spec
        live, measured = demand.models.get(here), self._model(spec, here)
        if live is None or not function.serving:
            return demand
        models = dict.fromkeys(demand.devices, live)
        for device in spec.devices:
            model = self._model(spec, device)
            if device in models or model is None or not self._supervisor.node.usable(device):
                continue
            if model is measured:
                models[device] = live
            elif spec.replicas_max == 1:
                models[device] = model
        return dataclasses.replace(
            demand,
            models=models,
            devices=tuple(models),
            replicas_min=min(len(demand.devices), spec.replicas_max),
            replicas_max=spec.replicas_max,
        )

    # ---- parts -----------------------------------------------------------------------------

    def _relieve(
        self,
        mover: Mover,
        demands: Mapping[str, Demand],
        lasting: set[str],
        short: Mapping[str, Sequence[str]],
        devices: Mapping[str, DeviceShares],
        current: Current,
    ) -> None:
        """Proposes other devices, or one more, where somebody stays short."""
        free = {
            name: self.anywhere(demand)
            if not lasting.isdisjoint(demand.devices) and mover.rested(name)
            else demand
            for name, demand in demands.items()
        }
        for name, parts in self._planner.place(free.values(), devices, current).items():
            here = demands[name].devices
            stays, come = [d for d in here if d in parts], [d for d in parts if d not in here]
            if not come:
                continue
            more = come[:1] if len(stays) == len(here) else come
            tight = next(device for device in (*here, *short) if device in short)
            starved = ", ".join(sorted(short[tight]))
            mover.propose(name, [*stays, *more], f"{tight} is too small for the SLO of {starved}")

    def _retract(
        self,
        mover: Mover,
        now_ns: int,
        demands: Mapping[str, Demand],
        devices: Mapping[str, DeviceShares],
    ) -> None:
        """Proposes one replica less where it has not been needed for long."""
        spare = {
            name
            for name, demand in demands.items()
            if demand.slo_us
            and len(demand.devices) > self._supervisor.functions[name].spec.replicas_min
            and self._suffices_without_last(demand, demands, devices)
        }
        since_ns = {name: self._spare_since_ns.get(name, now_ns) for name in spare}
        self._spare_since_ns = since_ns
        for name in sorted(spare):
            if now_ns - since_ns[name] >= _SPARE_NS and mover.rested(name):
                *fewer, last = demands[name].devices
                del since_ns[name]  # once: the next proposal is about another replica
                mover.propose(name, fewer, f"{last} has not been needed for a minute")
                return

    def _suffices_without_last(
        self, demand: Demand, demands: Mapping[str, Demand], devices: Mapping[str, DeviceShares]
    ) -> bool:
        fewer = demand.devices[:-1]
        more = dataclasses.replace(demand, devices=fewer, rate_per_s=_ROOM * demand.busiest_per_s)
        others = [each for each in demands.values() if each is not demand]
        return bool(demand.models) and self._planner.holds([*others, more], fewer, devices)
