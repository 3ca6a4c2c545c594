"""The steps in order of value: when the time runs out, it is the last ones that are missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One step of the suite.

    Attributes:
        name: On the command line and of the result file.
        part: Of the suite's time, beside the other steps' parts; in seconds, what it wants.
        question: What it answers.
    """

    name: str
    part: float
    question: str

    @property
    def module(self) -> str:
        """What `python -m` runs."""
        return f"benchmarks.gpu.{self.name}"


STEPS = (
    Step("probe", 60, "Which of the facts that the design rests on hold on this GPU?"),
    Step("tests", 90, "Does `pytest -m gpu` pass?"),
    Step("doctor", 25, "What does `gslice doctor` find and prove here?"),
    Step("ablation", 80, "What does each step of the data path save, from pageable to the pump?"),
    Step("dispatch", 30, "What does gslice add to the same copies and a bare graph replay?"),
    Step("mix", 120, "Four models on one GPU: who answers most in time, by way of sharing it?"),
    Step("blast", 80, "A fault in one function: who stops, for how long, is all answered?"),
    Step("swap", 60, "What does a client notice while shares change, by a shadow and in place?"),
    Step("overlap", 25, "Do two lanes overlap copies and compute under MPS?"),
    Step("weights", 70, "How much memory and load time do shared weights save?"),
    Step("curves", 90, "How does a model's latency depend on its share, by batch size?"),
    Step("onnx_cuda", 30, "What does an ONNX model cost on a lane, and does its call wait there?"),
    Step("staging", 20, "Below which size is one staged copy faster than a copy a slot?"),
)
WHOLE_MINUTES = sum(step.part for step in STEPS) / 60
"""What all of them together are given, where nothing else is said."""


def select(names: Sequence[str] | None) -> list[Step]:
    """The steps of these names, in the suite's order; None: all.

    Raises:
        ValueError: There is no such step.
    """
    known = {step.name: step for step in STEPS}
    for name in names or ():
        if name not in known:
            raise ValueError(f"there is no step {name!r}; the steps are {', '.join(known)}")
    return [step for step in STEPS if names is None or step.name in names]


def budget_s(steps: Sequence[Step], index: int, left_s: float) -> float:
    """A step's time: its part of what is left, so that what one step saves goes to the next."""
    return left_s * steps[index].part / sum(step.part for step in steps[index:])
