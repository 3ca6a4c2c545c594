"""Demands that nobody has, to see what would be decided: `detector.rate=200`, `rate=2x`."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gslice.core.errors import InvalidArgument, NotFound
from gslice.core.units import parse_duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gslice.control.demand import Demand

_CHANGE = re.compile(r"(?:(?P<name>[^=]+)\.)?(?P<key>[a-z]+)=(?P<value>[^=]+)")
_NUMBER = re.compile(r"([0-9]+(?:\.[0-9]+)?)(x?)")


@dataclass(frozen=True)
class WhatIf:
    """One setting of a function, or of all, as it would be.

    Attributes:
        name: The function's; empty: of all.
        key: `rate` or `slo`.
        value: Requests a second, or us.
        times: The value multiplies what is.
    """

    name: str
    key: str
    value: float
    times: bool = False

    @classmethod
    def parse(cls, text: str) -> WhatIf:
        """Of `NAME.rate=200`, `rate=1.5x`, `NAME.slo=20ms`.

        Raises:
            InvalidArgument: it is nothing of that kind.
        """
        match = _CHANGE.fullmatch(text.strip())
        if match is None or match["key"] not in ("rate", "slo"):
            raise InvalidArgument(
                f"{text!r} changes nothing that is known",
                hint="write NAME.rate=200, NAME.slo=20ms, or rate=2x for all functions",
            )
        number = _NUMBER.fullmatch(match["value"])
        if match["key"] == "slo" and not (number and number[2]):
            return cls(match["name"] or "", "slo", parse_duration(match["value"]))
        if number is None:
            raise InvalidArgument(f"{match['value']!r} is no rate", hint="write 200, or 2x")
        return cls(match["name"] or "", match["key"], float(number[1]), bool(number[2]))


def what_if(demands: Iterable[Demand], changes: Sequence[WhatIf]) -> list[Demand]:
    """The demands as they would be, changed in the order given.

    Raises:
        NotFound: a change is about a function that is not there.
    """
    changed = {demand.name: demand for demand in demands}
    for change in changes:
        if change.name and change.name not in changed:
            known = ", ".join(sorted(changed)) or "none"
            raise NotFound(f"there is no function {change.name}", hint=f"functions: {known}")
        for name in [change.name] if change.name else list(changed):
            changed[name] = _with(changed[name], change)
    return list(changed.values())


def _with(demand: Demand, change: WhatIf) -> Demand:
    if change.key == "rate":
        if not change.times:  # nobody said how it would come
            return dataclasses.replace(demand, rate_per_s=change.value, peak_per_s=0.0)
        rate, peak = change.value * demand.rate_per_s, change.value * demand.peak_per_s
        return dataclasses.replace(demand, rate_per_s=rate, peak_per_s=peak)
    slo_us = change.value * demand.slo_us if change.times else change.value
    return dataclasses.replace(demand, slo_us=slo_us)
