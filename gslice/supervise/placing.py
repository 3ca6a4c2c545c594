"""On which device a function runs that may run on several."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from gslice.control.choice import choose
from gslice.core.errors import FailedPrecondition

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
        last_device: Where a function served last; empty: nowhere yet.
    """

    def __init__(
        self, node: Node, functions: Mapping[str, Function], last_device: Callable[[str], str]
    ) -> None:
        self._node = node
        self._functions = functions
        self._last_device = last_device

    def place(self, function: Function, spec: FunctionSpec, device: str = "") -> FunctionSpec:
        """A function as wanted, with the device that it gets: where it is, if it can stay.

        Args:
            function: What there is of it.
            spec: As wanted.
            device: An order; empty: none.

        Raises:
            FailedPrecondition: it may not run there, or all its devices are drained.
        """
        if device and device not in spec.devices:
            raise FailedPrecondition(
                f"function {spec.name} is pinned to {spec.device}",
                hint="`device: auto` lets it move",
            )
        if not spec.devices:
            return spec
        return dataclasses.replace(spec, device=device or self._device(function, spec))

    def elsewhere(self, function: Function) -> str:
        """Another device for a function, the best there is; empty: there is none."""
        spec = function.spec
        others = [device for device in spec.devices if device != spec.device]
        usable = [device for device in others if self._node.usable(device)]
        return self._choose(spec, usable) if usable else ""

    def _device(self, function: Function, spec: FunctionSpec) -> str:
        known = [device for device in spec.devices if device in self._node.devices]
        if not known:
            return spec.device  # whoever loads it there is told
        usable = [device for device in known if self._node.usable(device)]
        for before in (_now(function), self._last_device(spec.name)):
            if before in usable:
                return before
        # A GPU that cannot be used is tried again by whoever loads something there.
        open_ = usable or [device for device in known if device not in self._node.drained]
        if not open_:
            raise FailedPrecondition(
                f"function {spec.name} may run on {', '.join(spec.devices)}, and nothing new is"
                " placed there: drained",
                hint="take that back: gslice undrain DEVICE",
            )
        return self._choose(spec, open_)

    def _choose(self, spec: FunctionSpec, devices: Sequence[str]) -> str:
        """Among those of the kind of the first, which is the best one."""
        kind = self._node.device(devices[0]).kind
        alike = [device for device in devices if self._node.device(device).kind == kind]
        there = {
            device: {
                other.name: other.spec.share
                for other in self._functions.values()
                if other.admitted and other.spec.device == device and other.name != spec.name
            }
            for device in alike
        }
        limits = {device: self._node.device(device).share_limit_percent for device in alike}
        return choose(spec.name, spec.share, alike, there, limits, self._node.config.packing)


def _now(function: Function) -> str:
    """Where it runs, or is about to."""
    if function.deployment is not None:
        return function.deployment.spec.device
    return function.spec.device if function.admitted else ""
