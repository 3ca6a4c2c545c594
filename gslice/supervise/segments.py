"""A new segment, cut for what a function takes and gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gslice._native import Segment
from gslice.control.slots import slot_classes

if TYPE_CHECKING:
    from gslice.core.types import FunctionSpec, Signature


def make_segment(spec: FunctionSpec, signature: Signature, budget_bytes: int) -> Segment:
    """Makes the segment of a deployment.

    Args:
        spec: The function.
        signature: Of its model.
        budget_bytes: Most that it may take.

    Raises:
        ResourceExhausted: the budget is too small for it.
    """
    plan = slot_classes(signature, spec, budget_bytes)
    segment = Segment.create(
        spec.name,
        [(each.payload_bytes, each.count) for each in plan.classes],
        plan.block_bytes,
        plan.block_count,
    )
    # Without a delay a batch is whatever queued while the lanes were busy.
    segment.set_limits(signature.rows_max, max(0, spec.delay_us) * 1000)
    return segment
