"""What share of a device its traffic needs: for who adds and removes nodes, not for dividing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gslice.control.demand import Allotment


def need_percent(allotment: Allotment) -> float:
    """The share that a function needs there when most requests come; it may be more than 100.

    Beyond what the whole device serves it grows with the rate. What is fixed, or not measured yet,
    counts as it is.
    """
    part = allotment.part
    if part is None or part.ladder is None or part.demand.pinned:
        return allotment.share_percent
    rate_per_s, (most_per_s, share_percent) = part.demand.busiest_per_s, part.ladder.most
    if most_per_s <= 0:  # no share keeps the SLO
        return allotment.share_percent
    if rate_per_s > most_per_s:
        return share_percent * rate_per_s / most_per_s
    return part.ladder.need_percent(rate_per_s) or share_percent


def demand_ratios(
    decided: Mapping[str, Iterable[Allotment]], limits_percent: Mapping[str, float]
) -> dict[tuple[str, str], float]:
    """By function and device, the share that is needed over what there is to divide.

    Args:
        decided: By function, what it gets of each of its devices.
        limits_percent: Most that all functions may get, by device.
    """
    return {
        (name, each.device): need_percent(each) / limits_percent[each.device]
        for name, allotments in decided.items()
        for each in allotments
        if limits_percent.get(each.device)
    }
