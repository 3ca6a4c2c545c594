"""Decisions as the control API tells them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from gslice.control.explain import predicted_p99_us, reason
from gslice.protos import message

if TYPE_CHECKING:
    from gslice.control.demand import Allotment
    from gslice.daemon.controller import Proposal


def plan_reply(proposal: Proposal) -> Any:
    """A `gslice.v1.PlanReply`."""
    reply = message("gslice.v1.PlanReply")()
    for demand in proposal.demands:
        planned = reply.functions.add(
            name=demand.name,
            slo_us=demand.slo_us,
            priority=demand.priority,
            share_percent=proposal.shares_percent.get(demand.name, 0.0),
        )
        for allotment in proposal.plan.get(demand.name, ()):
            fill_decision(planned.decisions.add(), allotment)
    return reply


def fill_decision(decision: Any, allotment: Allotment) -> None:
    """Fills a `gslice.v1.Decision`."""
    predicted_us = predicted_p99_us(allotment)
    decision.device = allotment.device
    decision.share_percent = allotment.share_percent
    decision.rate_per_s = allotment.rate_per_s
    decision.predicted_p99_us = predicted_us if math.isfinite(predicted_us) else 0.0
    decision.capacity_per_s = allotment.capacity_per_s
    decision.batch_rows_max = allotment.batch_rows_max
    decision.shed_us = allotment.shed_us
    decision.reason = reason(allotment)
