"""A GPU's SMs in groups, which green contexts are made of: what a share is worth, who has which.

Nothing here talks to a GPU. A GPU is split once, into the smallest equal groups that it allows; SMs
that fill no group are nobody's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gslice.core.errors import ResourceExhausted

_ROUNDING = 1e-9  # of a group: shares are floats


@dataclass(frozen=True)
class Split:
    """How a GPU's SMs were split.

    Attributes:
        groups: How many there are, numbered from 0.
        group_sms: SMs of each.
        sms: SMs of the GPU, those in no group included.
    """

    groups: int
    group_sms: int
    sms: int

    def effective_percent(self, groups: int) -> float:
        """What so many groups are of the whole GPU."""
        return 100.0 * groups * self.group_sms / self.sms


def divide(
    shares_percent: Mapping[str, float], split: Split, now: Mapping[str, int] | None = None
) -> dict[str, int]:
    """How many groups each share is worth: of all groups the share, to the next whole one.

    Rounded so that shares which come to 100 take every group. Who has what a share may be rounded
    to keeps it before others get more; beyond that, whoever is cut shortest comes first. Everybody
    gets a group.

    Args:
        shares_percent: By name; together they may be more than 100, which then counts as all.
        split: How the SMs were split.
        now: Groups that each has at present.

    Raises:
        ResourceExhausted: there are more names than groups.
    """
    if len(shares_percent) > split.groups:
        raise ResourceExhausted(
            f"{len(shares_percent)} functions cannot share {split.groups} groups of"
            f" {split.group_sms} SMs",
            hint="move functions to another GPU, or set `limiter: mps`",
        )
    now = now or {}
    whole = max(100.0, sum(shares_percent.values()))
    exact = {name: split.groups * share / whole for name, share in shares_percent.items()}
    counts = {name: max(1, int(groups + _ROUNDING)) for name, groups in exact.items()}
    to_give = int(sum(exact.values()) + _ROUNDING) - sum(counts.values())
    left = {name: exact[name] - counts[name] for name in exact}

    def first(name: str) -> tuple[bool, float, str]:
        return now.get(name, 0) <= counts[name], -left[name], name

    for name in sorted((n for n in left if left[n] > _ROUNDING), key=first)[: max(0, to_give)]:
        counts[name] += 1
    while sum(counts.values()) > split.groups:  # others got one for next to nothing
        several = [name for name in counts if counts[name] > 1]
        counts[max(several, key=lambda name: (counts[name] - exact[name], name))] -= 1
    return counts


class Allotment:
    """Which groups each function has.

    Args:
        split: How the SMs were split.
    """

    def __init__(self, split: Split) -> None:
        self.split = split
        self._shares_percent: dict[str, float] = {}
        self._held: dict[str, frozenset[int]] = {}

    def held(self, name: str) -> frozenset[int]:
        """The groups of a function; none if it is not known."""
        return self._held.get(name, frozenset())

    def planned(self, name: str, share_percent: float) -> list[tuple[str, frozenset[int]]]:
        """What changes when a function gets a share; nothing has happened yet.

        Everybody keeps what it has of what it will have, so no group changes hands without need.

        Returns:
            Who gets which groups, the function itself even if it has them, in an order in which
            every group is free when it is taken: those that give groups away come first.

        Raises:
            ResourceExhausted: there are more functions than groups.
        """
        shares = self._shares_percent | {name: share_percent}
        counts = divide(shares, self.split, {n: len(groups) for n, groups in self._held.items()})
        wanted = _placed(counts, self._held, self.split.groups)
        changed = [(n, g) for n, g in wanted.items() if n == name or g != self.held(n)]
        return sorted(changed, key=lambda change: len(change[1]) > len(self.held(change[0])))

    def take(self, name: str, share_percent: float, groups: frozenset[int]) -> None:
        """A function has these groups from now on, for that share."""
        self._shares_percent[name] = share_percent
        self._held[name] = groups

    def give_back(self, name: str) -> None:
        """A function has gone."""
        self._shares_percent.pop(name, None)
        self._held.pop(name, None)


def _placed(
    counts: Mapping[str, int], held: Mapping[str, frozenset[int]], groups: int
) -> dict[str, frozenset[int]]:
    """Which groups: those that are held, as far as they are due, then the lowest free ones."""
    kept = {name: sorted(held.get(name, ()))[:count] for name, count in counts.items()}
    free = sorted(set(range(groups)).difference(*kept.values()))
    placed = {}
    for name, count in counts.items():
        missing = count - len(kept[name])
        placed[name] = frozenset([*kept[name], *free[:missing]])
        free = free[missing:]
    return placed
