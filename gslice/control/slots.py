"""How a function's segment is cut into slots.

Static shapes: a slot for one row, one for about a quarter of the largest batch, one for a whole
batch. Any other shape: three round sizes. Free slots are the queue bound, so the counts add up to
the function's `queue_max` unless the byte budget allows fewer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gslice.core.errors import InvalidArgument, ResourceExhausted
from gslice.core.figures import megabytes
from gslice.core.types import ELEMENT_BYTES, SlotClass

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gslice.core.types import FunctionSpec, Signature, TensorSpec

PAGE_BYTES = 4096
TENSOR_ALIGN_BYTES = 64
SLOTS_MAX = 1024
BLOCKS_MAX = 64
SLOT_HEADER_BYTES = 8192  # generous: header of a slot in the segment

_DYNAMIC_SIZES_BYTES = (64 << 10, 1 << 20)
_DYNAMIC_WEIGHTS = (5, 2, 1)
_STATIC_WEIGHTS = (2, 1, 1)
_BLOCK_BUDGET_PART = 8  # overflow blocks get an eighth of the budget


@dataclass(frozen=True)
class SlotPlan:
    """How to cut a segment.

    Attributes:
        classes: One to three slot classes, ascending in size.
        block_bytes: Size of an overflow block: room for one request's outputs.
        block_count: How many there are, at least one.
    """

    classes: tuple[SlotClass, ...]
    block_bytes: int
    block_count: int


def slot_classes(signature: Signature, spec: FunctionSpec, budget_bytes: int) -> SlotPlan:
    """Cuts a function's segment inside a byte budget.

    Args:
        signature: What the loaded function takes and gives.
        spec: Its `queue_max`, `request_max_bytes` and `lanes` count here.
        budget_bytes: Most bytes that the segment may take.

    Raises:
        InvalidArgument: one row is larger than `request_max_bytes`.
        ResourceExhausted: the budget does not hold one slot of each class and one block.
    """
    sizes = _slot_sizes(signature, spec)
    weights = _STATIC_WEIGHTS if _is_static(signature.inputs, signature) else _DYNAMIC_WEIGHTS
    block_bytes = _block_bytes(signature, spec, sizes[-1])
    wanted = _split(min(spec.queue_max, SLOTS_MAX), weights[: len(sizes)])
    costs = [size + SLOT_HEADER_BYTES for size in sizes]

    needed = sum(costs) + block_bytes
    if needed > budget_bytes:
        raise ResourceExhausted(
            f"function {spec.name}: one slot of each size takes {megabytes(needed)} of shared "
            f"memory, and its part of the node's pinned memory is {megabytes(budget_bytes)}",
            hint="raise node.pinned_memory, or lower the function's request_max or batch.max",
        )
    spare = budget_bytes - needed
    block_count = 1 + min(
        _blocks_wanted(signature, spec) - 1, spare // _BLOCK_BUDGET_PART // block_bytes
    )
    spare -= (block_count - 1) * block_bytes
    counts = _fit([count - 1 for count in wanted], costs, spare)
    return SlotPlan(
        tuple(
            SlotClass(payload_bytes=size, count=1 + count)
            for size, count in zip(sizes, counts, strict=True)
        ),
        block_bytes,
        block_count,
    )


def _slot_sizes(signature: Signature, spec: FunctionSpec) -> list[int]:
    """One to three payload sizes, ascending, multiples of the page."""
    largest = _pages(spec.request_max_bytes)
    if not _is_static(signature.inputs, signature):
        return [s for s in _DYNAMIC_SIZES_BYTES if s < largest] + [largest]
    rows_max = max(1, signature.rows_max)
    one = _request_bytes(signature, 1)
    if one > largest:
        raise InvalidArgument(
            f"function {spec.name}: one row takes {one} bytes with its outputs, more than its "
            f"request_max of {spec.request_max_bytes}",
            hint=f"set request_max to at least {one} bytes",
        )
    rows = sorted({1, max(1, rows_max // 4), rows_max})
    return sorted({min(_request_bytes(signature, n), largest) for n in rows})


def _request_bytes(signature: Signature, rows: int) -> int:
    """Inputs and declared outputs of one request, each aligned, and a page for unknown outputs."""
    known = sum(
        _tensor_bytes(t, signature, rows)
        for t in (*signature.inputs, *signature.outputs)
        if _is_static((t,), signature)
    )
    spare = 0 if _is_static(signature.outputs, signature) else PAGE_BYTES * rows
    return _pages(known + spare + TENSOR_ALIGN_BYTES)


def _block_bytes(signature: Signature, spec: FunctionSpec, largest_slot: int) -> int:
    """Room for the outputs of the largest request."""
    if not _is_static(signature.outputs, signature):
        return _pages(spec.request_max_bytes)
    rows = max(1, signature.rows_max)
    outputs = sum(_tensor_bytes(t, signature, rows) for t in signature.outputs)
    return min(_pages(outputs + TENSOR_ALIGN_BYTES), max(largest_slot, PAGE_BYTES))


def _blocks_wanted(signature: Signature, spec: FunctionSpec) -> int:
    """As many as can be claimed at once: their outputs may all be unknown, or need a fresh area."""
    in_flight = spec.lanes * spec.instances * spec.replicas_max * max(1, signature.rows_max)
    return max(1, min(BLOCKS_MAX, in_flight))


def _is_static(tensors: Sequence[TensorSpec], signature: Signature) -> bool:
    """Whether all sizes follow from the number of rows."""
    first = 1 if signature.rows_max else 0
    return all(ELEMENT_BYTES[t.dtype] > 0 and all(d >= 0 for d in t.dims[first:]) for t in tensors)


def _tensor_bytes(tensor: TensorSpec, signature: Signature, rows: int) -> int:
    """Bytes of a static tensor in a request of `rows` rows, aligned."""
    total = ELEMENT_BYTES[tensor.dtype]
    dims = tensor.dims
    if signature.rows_max:
        total *= rows
        dims = dims[1:]
    for dim in dims:
        total *= dim
    return -(-total // TENSOR_ALIGN_BYTES) * TENSOR_ALIGN_BYTES


def _split(total: int, weights: Sequence[int]) -> list[int]:
    """Cuts `total` by weight; every part is at least 1, the first takes the rounding."""
    whole = sum(weights)
    rest = [max(1, total * w // whole) for w in weights[1:]]
    return [max(1, total - sum(rest)), *rest]


def _fit(wanted: Sequence[int], costs: Sequence[int], budget: int) -> list[int]:
    """Counts of at most `wanted`, each class with an equal part of the bytes, small ones first.

    What a class leaves over goes on to the larger ones.
    """
    counts = []
    for index, (want, cost) in enumerate(zip(wanted, costs, strict=True)):
        part = budget // (len(wanted) - index)
        count = min(want, part // cost)
        counts.append(count)
        budget -= count * cost
    return counts


def _pages(size: int) -> int:
    return max(1, -(-size // PAGE_BYTES)) * PAGE_BYTES
