"""On which device a function runs that may run on several."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gslice.control.choice import choose
from gslice.control.isolation import in_the_way
from gslice.core.errors import FailedPrecondition
from gslice.supervise.isolation import check_placeable, on_device

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gslice.core.types import FunctionSpec
    from gslice.supervise.function import Function
    from gslice.supervise.node import Node


class Placing:
    """Chooses the devices of a node's functions.

    Args:
        node: The node.
        functions: What runs, by name; read when asked.
        last_placed: The devices on which a function served last; empty: nobody knows.
    """

    def __init__(
        self,
        node: Node,
        functions: Mapping[str, Function],
        last_placed: Callable[[str], Sequence[str]],
    ) -> None:
        self._node = node
        self._functions = functions
        self._last_placed = last_placed

    def place(
        self, function: Function, spec: FunctionSpec, devices: Sequence[str] = ()
    ) -> FunctionSpec:
        """A function as wanted, with the devices that it gets: where it is, if it can stay.

        Args:
            function: What there is of it.
            spec: As wanted.
            devices: An order; empty: none.

        Raises:
            FailedPrecondition: it may not run there, all its devices are drained, or others are on
                all of them beside whom it may not be.
        """
        if not set(devices) <= set(spec.devices):
            raise FailedPrecondition(
                f"function {spec.name} is pinned to {spec.device}",
                hint="`device: auto` lets it move",
            )
        if not spec.devices:
            return spec.placed_on((spec.device,))
        return spec.placed_on(devices or self._devices(function, spec))

    def adopted(self, spec: FunctionSpec) -> Sequence[str]:
        """The devices of a function that is taken over, those too whose workers have all died.

        Args:
            spec: As it was found.
        """
        last = [d for d in self._last_placed(spec.name) if d in self._node.devices]
        if set(last).isdisjoint(spec.placed):
            return spec.placed
        return [*last, *(device for device in spec.placed if device not in last)]

    def elsewhere(self, function: Function) -> tuple[str, ...]:
        """The devices for a function that cannot stay on all of its own, or has too few.

        Returns:
            Those on which it can stay, and others up to its minimum, as far as there are; empty:
            there is none at all.
        """
        spec = function.spec
        stays = [device for device in spec.placed if self._node.usable(device)]
        others = [d for d in spec.devices if d not in spec.placed and self._open(spec, d)]
        if not stays and not others:
            return ()
        return self._filled(spec, stays or [self._choose(spec, others)], others)

    def _devices(self, function: Function, spec: FunctionSpec) -> tuple[str, ...]:
        known = [device for device in spec.devices if device in self._node.devices]
        if not known:
            return (spec.device,)  # whoever loads it there is told
        usable = [device for device in known if self._open(spec, device)]
        if not usable:
            check_placeable(self._others(spec), spec, filter(self._node.usable, known))
        for before in (_now(function), self._last_placed(spec.name)):
            if stays := [device for device in before if device in usable]:
                return self._filled(spec, stays[: spec.replicas_max], usable)
        return self._filled(spec, [self._first(spec, known, usable)], usable)

    def _filled(
        self, spec: FunctionSpec, devices: Sequence[str], usable: Sequence[str]
    ) -> tuple[str, ...]:
        """Devices, and others like the first of them up to the minimum, as far as there are."""
        placed = list(devices)
        first = self._node.device(placed[0])
        while len(placed) < spec.replicas_min:
            others = [d for d in usable if d not in placed and self._node.device(d).is_like(first)]
            if not others:
                break
            placed.append(self._choose(spec, others))
        return tuple(placed)

    def _first(self, spec: FunctionSpec, known: Sequence[str], usable: Sequence[str]) -> str:
        """The device of one that runs nowhere."""
        # A GPU that cannot be used is tried again by whoever loads something there.
        open_ = usable or [device for device in known if device not in self._node.drained]
        if not open_:
            raise FailedPrecondition(
                f"function {spec.name} may run on {', '.join(spec.devices)}, and nothing new is"
                " placed there: drained",
                hint="take that back: gslice undrain DEVICE",
            )
        return self._choose(spec, open_)

    def _open(self, spec: FunctionSpec, device: str) -> bool:
        """Whether it may be placed on a device, beside those that are there."""
        there = on_device(self._others(spec), device)
        return self._node.usable(device) and not in_the_way(spec, there)

    def _others(self, spec: FunctionSpec) -> list[Function]:
        return [function for name, function in self._functions.items() if name != spec.name]

    def _choose(self, spec: FunctionSpec, devices: Sequence[str]) -> str:
        """Among those of the kind of the first, which is the best one."""
        kind = self._node.device(devices[0]).kind
        alike = [device for device in devices if self._node.device(device).kind == kind]
        there = {
            device: {
                other.name: other.spec.share
                for other in self._others(spec)
                if other.admitted and device in other.spec.placed
            }
            for device in alike
        }
        limits = {device: self._node.device(device).share_limit_percent for device in alike}
        return choose(spec.name, spec.share, alike, there, limits, self._node.config.packing)


def _now(function: Function) -> tuple[str, ...]:
    """Where it runs, or is about to."""
    if function.deployment is not None:
        return function.deployment.spec.placed
    return function.spec.placed if function.admitted else ()
