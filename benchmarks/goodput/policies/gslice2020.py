"""The published reactive loop: batch by slack, share by relative errors, max-min fair.

As two independent re-implementations have it: the slack is the budget minus the latency, and inside
a dead band of 10 % of the budget the batch stays; otherwise it moves in proportion. After at most
five batch steps at a share, one share step: by the larger relative error of latency and throughput,
up if either is short, down if both have room, and not at all within 10 %. It begins with batches of
1 and a share of 30 %.

Read in its favour where it is open: the latency is that of a batch and the budget half the SLO, as
the other half is for waiting (with latencies seen by clients every backlog would make batches
smaller, and the loop never comes back); the throughput is what the batches of the last interval
could have done one after another.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from benchmarks.goodput.policies.common import models, placed
from benchmarks.goodput.scene import Function, Grant, Plan, Policy, Seen, Service, Traffic
from benchmarks.goodput.simulate import Setting

BATCH_STEPS = 5
LOOKS = 4
BUDGET_PART = 0.5
FIRST_PERCENT = 30.0
_DEAD = 0.1
_F_MAX = 1.0


@dataclass
class _Loop:
    """The state of one function's loop."""

    wanted_percent: float = FIRST_PERCENT
    batch: float = 1.0
    steps: int = 0
    seen: Traffic | None = None


class Gslice2020:
    """The loop for all functions of a scene."""

    name = "gslice2020"
    service: Service = "shares"
    prepared_us: float | None = None
    looks = LOOKS

    def __init__(self, given: Setting) -> None:
        self._scene = given.scene
        self._on = placed(given.scene, models(given.scene))
        self._loops = {f.name: _Loop() for f in given.scene.functions}

    def start(self) -> Plan:
        """Batches of 1, shares of 30 % or what is fair."""
        return self._plan()

    def decide(self, seen: Seen) -> Plan | None:
        """One step of every loop."""
        for function in self._scene.functions:
            traffic = seen.traffic[function.name]
            loop = self._loops[function.name]
            before, loop.seen = loop.seen, traffic
            batches = traffic.batches - (before.batches if before else 0)
            if not before or not batches:
                continue
            batch_us = (traffic.busy_us - before.busy_us) / batches
            moved = loop.steps < BATCH_STEPS and self._batch_step(function, batch_us, loop)
            if not moved and not seen.preparing:
                rate = (traffic.arrived - before.arrived) * 1e6 / (LOOKS * self._scene.look_us)
                rows = (traffic.rows - before.rows) / batches
                self._share_step(function, batch_us, rows, rate, loop)
        return self._plan()

    def _batch_step(self, function: Function, batch_us: float, loop: _Loop) -> bool:
        """Moves the batch in proportion to the slack.

        Returns:
            Whether it moved.
        """
        budget_us = BUDGET_PART * function.slo_us
        slack_us = budget_us - batch_us
        if abs(slack_us) <= _DEAD * budget_us:
            return False
        before = round(loop.batch)
        moved = loop.batch + loop.batch * slack_us / batch_us
        loop.batch = min(max(moved, 1.0), float(function.rows_max))
        loop.steps += 1
        return round(loop.batch) != before

    def _share_step(
        self, function: Function, batch_us: float, rows: float, rate: float, loop: _Loop
    ) -> None:
        """Moves the share by the larger relative error."""
        loop.steps = 0
        able = rows * 1e6 / batch_us
        late = batch_us / (BUDGET_PART * function.slo_us) - 1.0
        short = (rate - able) / rate if rate else -1.0
        if max(late, short) > 0:
            loop.wanted_percent *= 1.0 + min(max(late, short), _F_MAX)
        elif max(late, short) < -_DEAD:
            loop.wanted_percent *= 1.0 - min(-max(late, short), 0.5)
        step = self._scene.step_percent
        loop.wanted_percent = min(max(loop.wanted_percent, step), 100.0)

    def _plan(self) -> Plan:
        shares = self._fair()
        return {
            name: [Grant(self._on[name], shares[name], round(loop.batch))]
            for name, loop in self._loops.items()
        }

    def _fair(self) -> dict[str, float]:
        """Ascending wishes; each gets it or an equal part of what is left, in legal steps."""
        step, shares = self._scene.step_percent, {}
        for device in self._scene.devices:
            names = [name for name in self._loops if self._on[name] == device]
            left = 100.0
            ascending = sorted(names, key=lambda name: self._loops[name].wanted_percent)
            for i, name in enumerate(ascending):
                fair = left / (len(ascending) - i)
                wanted = math.ceil(self._loops[name].wanted_percent / step - 1e-9) * step
                shares[name] = max(step, min(wanted, math.floor(fair / step + 1e-9) * step))
                left -= shares[name]
        return shares


def gslice2020(given: Setting) -> Policy:
    """The loop."""
    return Gslice2020(given)
