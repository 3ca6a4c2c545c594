"""Which functions are on a device, and whether another may join them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gslice.control.isolation import in_the_way, refusal
from gslice.core.errors import FailedPrecondition

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from gslice.core.types import FunctionSpec
    from gslice.supervise.function import Function
    from gslice.supervise.node import Node

_HINT = "unload or move those that are there, or give it another device"


def on_device(functions: Iterable[Function], device: str) -> Iterator[FunctionSpec]:
    """Those that count on a device, and as what others were loaded that have not gone yet."""
    for function in functions:
        if function.admitted and device in function.spec.placed:
            yield function.spec
        for deployment in function.deployments:
            if deployment.workers and device in deployment.spec.placed:
                yield deployment.spec


def owner_of(functions: Iterable[Function], device: str) -> str:
    """The name of the function that has a device to itself; empty: none."""
    return next((spec.name for spec in on_device(functions, device) if spec.exclusive), "")


def check_isolation(node: Node, functions: Iterable[Function], spec: FunctionSpec) -> None:
    """Checks that a function may be where it is placed, beside all others.

    Raises:
        FailedPrecondition: it may not.
    """
    others = list(functions)
    taken = {d: names for d in spec.placed if (names := in_the_way(spec, on_device(others, d)))}
    if taken:
        raise FailedPrecondition(f"function {spec.name}: {refusal(spec, taken)}", hint=_HINT)
    for name in spec.placed:
        device = node.device(name)
        limited = device.share_limit_percent < 100.0 and device.limiter != "none"
        if limited and device.limiter_of(spec, "") == "none":
            limit = f"{device.share_limit_percent:g}%"
            raise FailedPrecondition(
                f"function {spec.name}: what has a GPU to itself runs without MPS, and then nothing"
                f" keeps the share limit of {name}, {limit}",
                hint="give it a GPU without limits.share",
            )


def check_placeable(
    functions: Iterable[Function], spec: FunctionSpec, devices: Iterable[str]
) -> None:
    """Checks that a function that has a choice may be on one of some devices.

    Raises:
        FailedPrecondition: others are in its way on each.
    """
    others = list(functions)
    taken = {device: in_the_way(spec, on_device(others, device)) for device in devices}
    if taken and all(taken.values()):
        raise FailedPrecondition(f"function {spec.name}: {refusal(spec, taken)}", hint=_HINT)
