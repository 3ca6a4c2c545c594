"""Who gets how much of a device.

Fixed shares come first. What they leave goes to the others max-min fairly: everybody the same,
except those that their bounds hold lower or higher.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from gslice.core.errors import ResourceExhausted
from gslice.core.types import ShareBounds

if TYPE_CHECKING:
    from collections.abc import Mapping

_ROUNDING_PERCENT = 1e-9


def allocate(
    requests: Mapping[str, ShareBounds], limit_percent: float = 100.0, device: str = "cpu"
) -> dict[str, float]:
    """The share of every function on a device, in percent of the device.

    Args:
        requests: Requested bounds by function; fixed where both bounds are the same.
        limit_percent: Most that gslice may use of the device.
        device: Its name, for the error.

    Returns:
        A share for every function; the sum never passes `limit_percent`.

    Raises:
        ResourceExhausted: fixed shares and minima do not fit; the message shows the sum.
    """
    floors = {name: bounds.min_percent for name, bounds in sorted(requests.items())}
    if sum(floors.values()) > limit_percent + _ROUNDING_PERCENT:
        parts = " + ".join(f"{name} {floor:g}%" for name, floor in floors.items())
        raise ResourceExhausted(
            f"device {device}: {parts} = {sum(floors.values()):g}%, "
            f"more than its share limit of {limit_percent:g}%",
            hint="lower a fixed share or a minimum, or unload a function",
        )
    fixed = {n: floor for n, floor in floors.items() if floor == requests[n].max_percent}
    autos = {name: requests[name] for name in floors if name not in fixed}
    return fixed | _water_fill(autos, limit_percent - sum(fixed.values()))


def allocate_all(
    requests: Mapping[str, Mapping[str, ShareBounds]], limits_percent: Mapping[str, float]
) -> dict[str, float]:
    """The share of every function on each of its devices, the same on all of them.

    A function on several devices gets what the tightest of them gives it; what it leaves on the
    others is divided among those who are there.

    Args:
        requests: Requested bounds by device, by function.
        limits_percent: Most that gslice may use of each device.

    Returns:
        A share for every function, in percent of each of its devices.

    Raises:
        ResourceExhausted: as of `allocate`.
    """
    counts = Counter(name for functions in requests.values() for name in functions)
    open_ = {name for name, count in counts.items() if count > 1}
    settled: dict[str, ShareBounds] = {}
    while True:
        divided = [
            allocate(_settled(functions, settled), limits_percent[device], device)
            for device, functions in requests.items()
        ]
        least: dict[str, float] = {}
        for shares in divided:
            for name, share in shares.items():
                least[name] = min(share, least.get(name, share))
        if not open_:
            return least
        # The smallest first: what others get later is never less than what they have now.
        name = min(open_, key=lambda each: (least[each], each))
        open_.discard(name)
        settled[name] = ShareBounds(least[name], least[name])


def shrinks_first(
    current: Mapping[str, float], target: Mapping[str, float]
) -> list[tuple[str, float]]:
    """The changes that lead from one division to another, in an order that never over-commits."""
    changes = [
        (name, share)
        for name, share in sorted(target.items())
        if name not in current or differs(current[name], share)
    ]
    return sorted(changes, key=lambda change: change[1] - current.get(change[0], 0.0))


def differs(one_percent: float, other_percent: float) -> bool:
    """Whether two shares differ by more than rounding."""
    return abs(one_percent - other_percent) > _ROUNDING_PERCENT


def _settled(
    functions: Mapping[str, ShareBounds], settled: Mapping[str, ShareBounds]
) -> dict[str, ShareBounds]:
    return {name: settled.get(name, bounds) for name, bounds in functions.items()}


def _water_fill(bounds: Mapping[str, ShareBounds], capacity: float) -> dict[str, float]:
    """Max-min fair shares: raise one level until the capacity is used or all are at their maximum.

    A function held at a bound leaves the division; the level of the rest is then computed anew, so
    at most one round per function.
    """
    granted: dict[str, float] = {}
    open_ = dict(bounds)
    while open_:
        level = max(0.0, capacity - sum(granted.values())) / len(open_)
        clamped = {n: min(max(level, b.min_percent), b.max_percent) for n, b in open_.items()}
        excess = sum(clamped.values()) - level * len(open_)
        # Too much in all: those below their minimum are settled; too little: those at the maximum.
        if excess > _ROUNDING_PERCENT:
            settled = [n for n, b in open_.items() if level < b.min_percent]
        elif excess < -_ROUNDING_PERCENT:
            settled = [n for n, b in open_.items() if level > b.max_percent]
        else:
            settled = list(open_)
        for name in settled:
            granted[name] = clamped[name]
            del open_[name]
    return granted
