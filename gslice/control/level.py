"""A function on several devices has one share: what the tightest of them can give."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gslice.control.division import Part
    from gslice.control.placement import Site


def level(
    parts: Sequence[Part],
    device: str,
    shares_percent: Mapping[str, Mapping[str, float]],
    site: Site,
) -> list[Part]:
    """Who is on a device, none asking for more than it can have on all of its others.

    Args:
        parts: Who is there.
        device: The device.
        shares_percent: What each device would give, by device, by function.
        site: What shares are worth.
    """
    return [_capped(part, device, shares_percent, site) for part in parts]


def _capped(
    part: Part, device: str, shares_percent: Mapping[str, Mapping[str, float]], site: Site
) -> Part:
    demand = part.demand
    given = [shares[demand.name] for shares in shares_percent.values() if demand.name in shares]
    least = max(min(given), demand.bounds.min_percent)
    if shares_percent[device][demand.name] <= least:
        return part
    return site.at_most(part, device, least)
