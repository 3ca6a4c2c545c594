"""What is asked of the node: two models, rates that change places once, SLOs from profiles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.goodput.scene import Function
from benchmarks.goodput.workloads import AFTER_STEP_S, WARM_UP_S, Asked, Workload, step
from gslice.control.latency import LatencyModel, Measurement
from gslice.demo.assets import find
from gslice.demo.filetype import FILETYPE
from gslice.demo.ocr import DETECTOR, DETECTOR_SIDE

NAME = "live step"
SLO_BATCHES = 8
"""An SLO is so many times what a single request takes at half of the device."""
ROWS_MAX = 4
"""Largest batch. On one core a batch takes about as long as its rows one by one."""
_HALF_PERCENT, _WHOLE_PERCENT = 50.0, 100.0


@dataclass(frozen=True)
class Model:
    """A function of the node.

    Attributes:
        name: Its name, and that of its file among the demo's.
        title: For people.
        inputs: Of every request.
        loads_percent: Of what the whole device answers of it: before the step, and after it.
    """

    name: str
    title: str
    inputs: Mapping[str, NDArray[Any]]
    loads_percent: tuple[float, float]

    def body(self) -> dict[str, Any]:
        """What all nodes have under `functions.<name>` in node.yaml."""
        return {
            "model": str(getattr(find(), self.name)),
            "threads": 1,
            "warmup": f"./{self.name}.npz",
            "batch": {"max": ROWS_MAX},
            "priority": "high",  # all alike: before what else the machine does
        }


MODELS = (
    Model(
        name=FILETYPE,
        title="file type (Magika)",
        inputs={"bytes": np.ones((1, 2048), np.int32)},
        loads_percent=(10.0, 50.0),
    ),
    Model(
        name=DETECTOR,
        title="text detector (PP-OCR)",
        inputs={"x": np.ones((1, 3, DETECTOR_SIDE, DETECTOR_SIDE), np.float32)},
        loads_percent=(50.0, 10.0),
    ),
)


@dataclass(frozen=True)
class Course:
    """How long it takes.

    Attributes:
        seconds: Of each run; the step is in the middle.
        warm_up_s: Shown apart: the beginning.
        after_step_s: Likewise, after the step.
        shares_percent: What profiles are measured at; empty: as `gslice profile` chooses.
    """

    seconds: float
    warm_up_s: float = WARM_UP_S
    after_step_s: float = AFTER_STEP_S
    shares_percent: tuple[float, ...] = field(default=())

    @property
    def step_s(self) -> float:
        """When rates change."""
        return self.seconds / 2

    def workload(self, functions: Mapping[str, Function]) -> Workload:
        """As the simulation has them, so that the same books are kept.

        Args:
            functions: Measured, by name.
        """
        asked = [self._asked(model, functions[model.name]) for model in MODELS]
        warm_ups_s = ((0.0, self.warm_up_s), (self.step_s, self.step_s + self.after_step_s))
        return Workload(NAME, "dynamic", "", 1, tuple(asked), self.seconds, warm_ups_s=warm_ups_s)

    def _asked(self, model: Model, function: Function) -> Asked:
        before, after = model.loads_percent
        return Asked(
            name=model.name,
            model=model.title,
            slo_ms=function.slo_us / 1e3,
            rate_per_s=function.rate_hint_per_s,
            curve=step(self.step_s, after / before),
        )


def measured(model: Model, points: list[Measurement]) -> Function:
    """SLO and rate of a function by its profile.

    Args:
        model: Which.
        points: Its profile.
    """
    fitted = LatencyModel.fit(points)
    slo_us = round(SLO_BATCHES * fitted.median_us(1, _HALF_PERCENT), -3)
    whole_per_s = 1e6 / fitted.median_us(1, _WHOLE_PERCENT)
    return Function(
        name=model.name,
        slo_us=slo_us,
        rows_max=ROWS_MAX,
        rate_hint_per_s=whole_per_s * model.loads_percent[0] / 100,
        profile=points,
    )
