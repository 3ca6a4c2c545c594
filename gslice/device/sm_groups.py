"""A GPU's SMs in groups, which green contexts are made of: what a share is worth, who has which.

Nothing here talks to a GPU. A GPU is split once, into the smallest equal groups that it allows; SMs
that fill no group are nobody's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from gslice.core.errors import ResourceExhausted

_ROUNDING = 1e-9  # of a group: shares are floats

BESIDE = -1
"""The seat of who is measured beside what serves: nobody's groups are fewer for it."""


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

    def worth(self, share_percent: float) -> float:
        """How many groups a share is, which are seldom whole ones."""
        return self.groups * share_percent / 100.0


@dataclass(frozen=True)
class Seat:
    """What has groups of its own: one instance of a function, whatever edition of it runs.

    The edition that is loaded to serve next, and one that is kept warm, are on the same groups as
    the one that serves: at most one of them is given work.

    Attributes:
        function: The function's name.
        number: Of the instance; BESIDE: it is measured, and takes what there is.
    """

    function: str
    number: int = 0


@dataclass(frozen=True)
class _Held:
    seat: Seat
    share_percent: float
    groups: frozenset[int]


class Allotment:
    """Which groups everybody has. Only who asks gets others: nobody moves for somebody else.

    Args:
        split: How the SMs were split.
    """

    def __init__(self, split: Split) -> None:
        self.split = split
        self._held: dict[object, _Held] = {}  # by holder; who took last comes last

    def held(self, holder: object) -> frozenset[int]:
        """The groups of a holder; none if it is not known."""
        held = self._held.get(holder)
        return held.groups if held is not None else frozenset()

    def planned(self, holder: object, seat: Seat, share_percent: float) -> frozenset[int]:
        """The groups that a share is worth now; nothing has happened yet.

        First those that the holder has, then those of its seat, then free ones, then such as only
        editions at rest have. What others have is taken only where nothing else is left, which is
        while their shares and this one pass 100.

        Raises:
            ResourceExhausted: There are more instances than groups.
        """
        others = {mine.seat for mine in self._held.values()} - {seat}
        if len(others) >= self.split.groups:
            raise ResourceExhausted(
                f"{len(others) + 1} instances cannot share {self.split.groups} groups of"
                f" {self.split.group_sms} SMs",
                hint="move functions to another GPU, or set `limiter: mps`",
            )
        mine, seats = self.held(holder), self._groups_of({seat})
        theirs, at_rest = Counter[int](), self._groups_of(others)
        for held in self._others(seat):
            theirs.update(held.groups)

        def preference(group: int) -> tuple[bool, int, bool, bool, int]:
            return (
                group not in mine,
                theirs[group],
                group in at_rest,
                group not in seats,
                group,
            )

        order = sorted(range(self.split.groups), key=preference)
        return frozenset(order[: self._count(seat, share_percent)])

    def take(
        self, holder: object, seat: Seat, share_percent: float, groups: frozenset[int]
    ) -> None:
        """A holder has these groups from now on, for that share."""
        self._held.pop(holder, None)
        self._held[holder] = _Held(seat, share_percent, groups)

    def give_back(self, holder: object) -> None:
        """A holder has gone."""
        self._held.pop(holder, None)

    def _count(self, seat: Seat, share_percent: float) -> int:
        """How many groups: of all groups the share, to the next whole one.

        Rounded so that shares which come to 100 take every group, if all asked with the shares that
        they have now. Nobody gets a whole group more than its share but for the first one.
        """
        exact = self.split.worth(share_percent)
        count = int(exact + _ROUNDING)
        if seat.number == BESIDE:
            return min(self.split.groups, max(1, count))
        others = self._others(seat)
        taken = sum(len(held.groups) for held in others)
        due = exact + sum(self.split.worth(held.share_percent) for held in others)
        if exact - count > _ROUNDING and taken + count + 1 <= int(due + _ROUNDING):
            count += 1
        return max(1, min(count, self.split.groups - taken))

    def _others(self, seat: Seat) -> list[_Held]:
        """What other seats have, each as it took it last."""
        last = {held.seat: held for held in self._held.values()}
        return [held for held in last.values() if held.seat != seat and held.seat.number != BESIDE]

    def _groups_of(self, seats: Collection[Seat]) -> frozenset[int]:
        """Of all that have these seats, those at rest too."""
        return frozenset().union(*(h.groups for h in self._held.values() if h.seat in seats))
