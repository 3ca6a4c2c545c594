"""Whether a new division is worth it: shares move when somebody needs it, not with every breath."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gslice.control.demand import DeviceShares, Policy
    from gslice.control.division import Part

_ROUNDING = 1e-9
_BETTER = 1.05  # in requests served: in overload every estimate would move shares otherwise


def settle(
    parts: Sequence[Part],
    target: Mapping[str, float],
    current: Mapping[str, float],
    device: DeviceShares,
    policy: Policy,
    *,
    rested: bool,
) -> dict[str, float]:
    """The division that is carried out.

    Whoever would miss its SLO gets its new share at once, and so does a function that came; what
    they take comes from those who have most more than they would get. All others stay, unless
    the device has rested and a share would change by more than the dead band.

    Args:
        parts: Who is on the device.
        target: The new division.
        current: The division as it is; functions may be missing.
        device: What is divided.
        policy: How careful to be.
        rested: Whether it is long ago that shares changed there.

    Returns:
        By name; within the device's limit if `target` is.
    """
    if rested and any(
        differs_much(current.get(name, 0.0), share, policy.dead_band)
        for name, share in target.items()
    ):
        return dict(target)
    settled = {
        part.demand.name: target[part.demand.name]
        if _moves(part, current.get(part.demand.name), target[part.demand.name])
        else current[part.demand.name]
        for part in parts
    }
    over = sum(settled.values()) - device.limit_percent
    surplus = sorted(settled, key=lambda name: (target[name] - settled[name], name))
    for name in surplus:
        if over <= _ROUNDING:
            break
        taken = max(0.0, settled[name] - target[name])
        settled[name] -= taken
        over -= taken
    return settled


def differs_much(one_percent: float, other_percent: float, dead_band: float) -> bool:
    """Whether two shares differ by more than a part of the smaller one."""
    smaller, larger = sorted((one_percent, other_percent))
    return larger - smaller > dead_band * smaller + _ROUNDING


def _moves(part: Part, current_percent: float | None, target_percent: float) -> bool:
    """Whether a function cannot stay as it is, and would be better off."""
    bounds = part.demand.bounds
    if (
        part.demand.exclusive
        or current_percent is None
        or not (bounds.min_percent - _ROUNDING <= current_percent <= bounds.max_percent + _ROUNDING)
    ):
        return True
    if not part.promised or (has := part.headroom(current_percent)) >= 1.0:
        return False
    return part.headroom(target_percent) > has * _BETTER
