"""Ways of dividing the device: the controller, and divisions that somebody configured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.goodput.live.course import MODELS
from benchmarks.goodput.policies.common import batch_within
from benchmarks.goodput.scene import Function
from gslice.control.latency import LatencyModel

EQUAL_PERCENT = 50.0
_BATCH_PART = 0.5  # of the SLO: as all baselines of the simulation have it


@dataclass(frozen=True)
class Way:
    """A node's configuration, as far as it differs.

    Attributes:
        name: In the rows.
        shares_percent: Of the functions, in the order of `MODELS`; empty: `auto`.
        controlled: Whether the controller decides.
        limited: Whether shares are enforced.
    """

    name: str
    shares_percent: tuple[float, ...] = ()
    controlled: bool = False
    limited: bool = True

    def functions(self, functions: Mapping[str, Function]) -> dict[str, Any]:
        """What goes under `functions` in node.yaml.

        Args:
            functions: Measured, by name.
        """
        bodies: dict[str, Any] = {}
        for place, model in enumerate(MODELS):
            body = model.body()
            if self.controlled:
                body["slo"] = {"p99": f"{functions[model.name].slo_us:.0f}us"}
            else:
                share = self.shares_percent[place]
                body["share"] = f"{share:g}%"
                effective = share if self.limited else 100.0
                body["batch"] = {"max": _rows(functions[model.name], effective)}
            bodies[model.name] = body
        return bodies


SLO = Way("slo", controlled=True)
UNCONTROLLED = Way("uncontrolled", (EQUAL_PERCENT, EQUAL_PERCENT), limited=False)


def grid(first_percent: float, step_percent: float) -> list[Way]:
    """Fixed divisions of the device between the two functions, the equal one among them.

    Args:
        first_percent: Of the function that gets least.
        step_percent: From one to the next.
    """
    shares = np.arange(first_percent, 100 - first_percent + 1e-9, step_percent).tolist()
    if EQUAL_PERCENT not in shares:
        raise ValueError(f"the grid {shares} has no equal shares")
    return [Way(f"fixed {share:g}:{100 - share:g}", (share, 100 - share)) for share in shares]


def is_equal(way: Way) -> bool:
    """Whether it limits both functions alike."""
    return way.limited and way.shares_percent == (EQUAL_PERCENT, EQUAL_PERCENT)


def _rows(function: Function, share_percent: float) -> int:
    fitted = LatencyModel.fit(function.profile)
    return batch_within(function, fitted, share_percent, _BATCH_PART)
