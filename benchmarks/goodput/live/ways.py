"""Ways of dividing the device: the controller, and divisions that somebody configured.

With fixed shares the controller still chooses batches and turns away what would be late: what is
compared is whether shares move. `equal` and `uncontrolled` have no controller at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.goodput.live.course import MODELS
from benchmarks.goodput.policies.common import batch_within
from benchmarks.goodput.scene import Function
from gslice.control.latency import LatencyModel

_BATCH_PART = 0.5  # of the SLO: as all baselines of the simulation have it


@dataclass(frozen=True)
class Way:
    """A node's configuration, as far as it differs.

    Attributes:
        name: In the rows.
        shares_percent: Of the functions, in the order of `MODELS`; empty: `auto`.
        controlled: Whether there is a controller.
        limited: Whether shares are enforced.
    """

    name: str
    shares_percent: tuple[float, ...] = ()
    controlled: bool = True
    limited: bool = True

    @property
    def fixed(self) -> bool:
        """Whether it is a static division."""
        return self.limited and bool(self.shares_percent)

    def functions(self, functions: Mapping[str, Function]) -> dict[str, Any]:
        """What goes under `functions` in node.yaml.

        Args:
            functions: Measured, by name.
        """
        bodies: dict[str, Any] = {}
        for place, model in enumerate(MODELS):
            body, function = model.body(), functions[model.name]
            if self.shares_percent:
                body["share"] = f"{self.shares_percent[place]:g}%"
            if self.controlled:
                body["slo"] = {"p99": f"{function.slo_us:.0f}us"}
            else:
                body["batch"] = {"max": _rows(function, self.shares_percent[place])}
            bodies[model.name] = body
        return bodies


SLO = Way("slo")
EQUAL = Way("equal", (50.0, 50.0), controlled=False)
UNCONTROLLED = Way("uncontrolled", (50.0, 50.0), controlled=False, limited=False)


def grid(first_percent: float, step_percent: float) -> list[Way]:
    """Fixed divisions of the device between the two functions.

    Args:
        first_percent: Of the function that gets least.
        step_percent: From one to the next.
    """
    shares = np.arange(first_percent, 100 - first_percent + 1e-9, step_percent).tolist()
    return [Way(f"fixed {share:g}:{100 - share:g}", (share, 100 - share)) for share in shares]


def _rows(function: Function, share_percent: float) -> int:
    fitted = LatencyModel.fit(function.profile)
    return batch_within(function, fitted, share_percent, _BATCH_PART)
