"""Batches through a real segment and the pump on the GPU: every byte, and nothing per request."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from benchmarks.gpu.driver import Gpu
from benchmarks.gpu.pumped import Captured, Place, Pumped
from benchmarks.gpu.replay import CopyGraph

pytestmark = pytest.mark.gpu

BUCKETS = (1, 2, 4, 8, 16)
SMALL, LARGE = 61, 150_528  # FP32 numbers in a row: staged on the host, and gathered by DMA
STEADY_BATCHES = 200
BATCHED_COPIES_SINCE = 12_080


def copy(gpu: Gpu, numbers: int, place: Place) -> Captured:
    return CopyGraph(gpu, place, place.bucket * numbers * 4)


def rows_of(count: int, numbers: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((count, numbers), np.float32)


@pytest.mark.parametrize("numbers", [SMALL, LARGE])
@pytest.mark.parametrize("staging_max_bytes", [0, 16_384, 1 << 30])
def test_every_byte_comes_back(gpu: Gpu, numbers: int, staging_max_bytes: int):
    capture = partial(copy, gpu, numbers)
    with Pumped(
        (numbers,), "FP32", numbers, BUCKETS, capture, staging_max_bytes=staging_max_bytes
    ) as pumped:
        for count in (1, 2, 3, 5, 8, 11, 16, 1):  # 3, 5 and 11 are padded
            rows = rows_of(count, numbers, seed=count)
            pumped.run(pumped.requests(rows))
            np.testing.assert_array_equal(pumped.outputs(), rows)


@pytest.mark.parametrize("numbers", [SMALL, LARGE])
def test_steady_state_neither_waits_nor_allocates_nor_calls_python(gpu: Gpu, numbers: int):
    with Pumped((numbers,), "FP32", numbers, BUCKETS, partial(copy, gpu, numbers)) as pumped:
        requests = {count: pumped.requests(rows_of(count, numbers, 0)) for count in BUCKETS}
        for batch in requests.values():
            pumped.run(batch)
        before = pumped.counters()
        for turn in range(STEADY_BATCHES):
            pumped.run(requests[BUCKETS[turn % len(BUCKETS)]])
        grown = pumped.counters(since=before)
    assert grown["batches"] == grown["graph_launches"] == STEADY_BATCHES
    for name in ("synchronise_calls", "allocations", "lane_buffer_allocations", "python_calls"):
        assert grown[name] == 0, (name, grown)


def test_a_gather_is_one_call_where_the_driver_can(gpu: Gpu):
    with Pumped((LARGE,), "FP32", LARGE, (8,), partial(copy, gpu, LARGE)) as pumped:
        before = pumped.counters()
        pumped.run(pumped.requests(rows_of(8, LARGE, 0)))
        grown = pumped.counters(since=before)
    assert (grown["batched_copies"] > 0) == (gpu.version() >= BATCHED_COPIES_SINCE), grown
