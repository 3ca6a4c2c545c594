"""News of loads and deaths, in the same words wherever they come from."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from gslice.core.events import EventKind
from gslice.core.figures import milliseconds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gslice.core.events import Record


def unheard(stage: str, detail: str) -> None:
    """For an order whose stages nobody watches."""


def recorded(
    event: Record, subject: str, stage: Callable[[str, str], None] = unheard
) -> Callable[[str, str], None]:
    """Has each stage recorded, with the time since now, before it is passed on.

    Args:
        event: Records it.
        subject: The function's name.
        stage: Told of each stage then.
    """
    begun_s = time.monotonic()

    def pass_on(name: str, detail: str) -> None:
        kind = EventKind.SWAP if name == "swap" else EventKind.STAGE
        text = f"{name} after {milliseconds((time.monotonic() - begun_s) * 1e6)}"
        event(subject, kind, f"{text}: {detail}" if detail else text)
        stage(name, detail)

    return pass_on


def tell_requeued(event: Record, function: str, result: Mapping[str, int]) -> None:
    """Records what became of the requests that dead workers had claimed, if there were any.

    Args:
        event: Records it.
        function: Whose they were.
        result: Of `Segment.requeue`, or of several.
    """
    outcomes = ("requeued", "poisoned", "failed")
    if any(result[outcome] for outcome in outcomes):
        told = ", ".join(f"{result[outcome]} {outcome}" for outcome in outcomes)
        event(function, EventKind.REQUEUE, f"of what had been claimed: {told}")


def restarted(who: str, died_s: float | None) -> str:
    """Says that another process took a dead one's place.

    Args:
        who: The new one.
        died_s: When the old one died, on the monotonic clock; None: nobody saw it.
    """
    if died_s is None:
        return f"{who} serves"
    return f"{who} serves, {(time.monotonic() - died_s) * 1000:.1f} ms after the death"
