from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gslice.control.slots import (
    BLOCKS_MAX,
    PAGE_BYTES,
    SLOT_HEADER_BYTES,
    SLOTS_MAX,
    SlotPlan,
    slot_classes,
)
from gslice.core.errors import InvalidArgument, ResourceExhausted
from gslice.core.types import FunctionSpec, Signature, TensorSpec

MIB = 1 << 20
GIB = 1 << 30


def image_classifier(rows_max: int = 16) -> Signature:
    return Signature(
        inputs=(TensorSpec("image", "FP32", (-1, 3, 224, 224)),),
        outputs=(TensorSpec("scores", "FP32", (-1, 1000)),),
        rows_max=rows_max,
    )


def slot_count(plan: SlotPlan) -> int:
    return sum(c.count for c in plan.classes)


def total_bytes(plan: SlotPlan) -> int:
    slots = sum(c.count * (c.payload_bytes + SLOT_HEADER_BYTES) for c in plan.classes)
    return slots + plan.block_bytes * plan.block_count


@st.composite
def signatures(draw: st.DrawFn) -> Signature:
    rows_max = draw(st.integers(0, 64))
    dim = st.integers(1, 64) | st.just(-1)
    dtype = st.sampled_from(["FP32", "UINT8", "INT64", "BYTES"])

    def tensors(prefix: str) -> tuple[TensorSpec, ...]:
        shapes = draw(st.lists(st.tuples(dtype, st.lists(dim, max_size=3)), min_size=1, max_size=3))
        batch = (-1,) if rows_max else ()
        return tuple(
            TensorSpec(f"{prefix}{i}", dtype, (*batch, *dims))
            for i, (dtype, dims) in enumerate(shapes)
        )

    return Signature(tensors("in"), tensors("out"), rows_max)


@given(
    signature=signatures(),
    queue_max=st.integers(1, 5000),
    request_max=st.integers(1, 64 * MIB),
    budget=st.integers(1, 2 * GIB),
)
def test_every_plan_keeps_every_bound(
    signature: Signature, queue_max: int, request_max: int, budget: int
) -> None:
    spec = FunctionSpec("f", queue_max=queue_max, request_max_bytes=request_max)
    try:
        plan = slot_classes(signature, spec, budget)
    except (InvalidArgument, ResourceExhausted):
        assume(False)
    sizes = [c.payload_bytes for c in plan.classes]
    assert 1 <= len(sizes) <= 3
    assert sizes == sorted(set(sizes))
    assert all(size % PAGE_BYTES == 0 for size in (*sizes, plan.block_bytes))
    assert all(c.count >= 1 for c in plan.classes)
    assert slot_count(plan) <= max(min(queue_max, SLOTS_MAX), len(sizes))
    assert 1 <= plan.block_count <= BLOCKS_MAX
    assert total_bytes(plan) <= budget
    assert sizes[-1] <= -(-request_max // PAGE_BYTES) * PAGE_BYTES


@given(signature=signatures(), queue_max=st.integers(3, 1024))
def test_an_ample_budget_gives_the_whole_queue(signature: Signature, queue_max: int) -> None:
    spec = FunctionSpec("f", queue_max=queue_max)
    assert slot_count(slot_classes(signature, spec, 1 << 50)) == queue_max


@given(signature=signatures(), budget=st.integers(100 * MIB, GIB), more=st.integers(0, GIB))
def test_a_larger_budget_never_costs_slots(signature: Signature, budget: int, more: int) -> None:
    spec = FunctionSpec("f")
    small = slot_classes(signature, spec, budget)
    large = slot_classes(signature, spec, budget + more)
    # One more block may cost slots; nothing else may.
    assert (large.block_count, slot_count(large)) >= (small.block_count, slot_count(small))


@pytest.mark.parametrize("rows", [1, 4, 16])
def test_static_shapes_have_a_slot_for_one_row_a_quarter_and_a_batch(rows: int) -> None:
    plan = slot_classes(image_classifier(16), FunctionSpec("f"), GIB)
    needed = rows * (3 * 224 * 224 * 4 + 1000 * 4)
    assert any(needed <= c.payload_bytes <= needed + 2 * PAGE_BYTES for c in plan.classes)


def test_one_row_functions_have_one_class() -> None:
    plan = slot_classes(image_classifier(1), FunctionSpec("f", queue_max=100), GIB)
    assert [c.count for c in plan.classes] == [100]


def test_dynamic_shapes_get_round_sizes_with_falling_counts() -> None:
    signature = Signature(
        inputs=(TensorSpec("x", "FP32", (-1, 3, -1, -1)),),
        outputs=(TensorSpec("y", "FP32", (-1, 1, -1, -1)),),
        rows_max=4,
    )
    plan = slot_classes(signature, FunctionSpec("f", request_max_bytes=32 * MIB), 16 * GIB)
    assert [c.payload_bytes for c in plan.classes] == [64 << 10, MIB, 32 * MIB]
    counts = [c.count for c in plan.classes]
    assert counts == sorted(counts, reverse=True)
    assert plan.block_bytes == 32 * MIB


def test_strings_are_dynamic() -> None:
    signature = Signature(
        inputs=(TensorSpec("s", "BYTES", (-1, 1)),),
        outputs=(TensorSpec("s", "BYTES", (-1, 1)),),
        rows_max=8,
    )
    plan = slot_classes(signature, FunctionSpec("f"), GIB)
    assert plan.classes[0].payload_bytes == 64 << 10


def test_a_row_over_request_max_is_refused_with_the_size_needed() -> None:
    with pytest.raises(InvalidArgument, match=r"set request_max to at least \d+"):
        slot_classes(image_classifier(), FunctionSpec("f", request_max_bytes=1000), GIB)


def test_a_tiny_budget_is_refused_with_the_arithmetic() -> None:
    with pytest.raises(ResourceExhausted, match=r"MiB .*part of the node's pinned memory is 1\.0"):
        slot_classes(image_classifier(), FunctionSpec("f"), MIB)
