"""Where a function goes of which nobody knows yet how much will be asked of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gslice.control.shares import allocate
from gslice.core.errors import ResourceExhausted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gslice.core.types import ShareBounds

_ROUNDING = 1e-6


def choose(
    name: str,
    bounds: ShareBounds,
    devices: Sequence[str],
    there: Mapping[str, Mapping[str, ShareBounds]],
    limits_percent: Mapping[str, float],
    packing: str,
) -> str:
    """The device of a function: where a fair division gives it most, or the first that holds it.

    Args:
        name: The function's.
        bounds: Of its share.
        devices: Where it may run, the best first; at least one.
        there: What the functions of each device ask for, by name; of the function itself, too, if
            it is there.
        limits_percent: What each device has.
        packing: `headroom` or `fewest`.

    Returns:
        The first where it fits nowhere: whoever loads it there is told.
    """
    shares: dict[str, float] = {}
    for device in devices:
        asked = {**there.get(device, {}), name: bounds}
        try:
            shares[device] = allocate(asked, limits_percent[device], device)[name]
        except ResourceExhausted:
            continue
    if not shares:
        return devices[0]
    if packing == "fewest":
        return next(iter(shares))
    most = max(shares.values())
    return next(device for device, share in shares.items() if share >= most - _ROUNDING)
