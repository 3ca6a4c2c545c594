"""Functions on the GPU through the whole node: daemon, front-end, workers."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

from benchmarks.gpu.mps import Mps
from benchmarks.gpu.questions import MPS_STEP_SMS
from gslice.client import Client
from gslice.core.errors import GsliceError
from tests.node import Node, in_background

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]

Body = Callable[..., dict[str, Any]]
Start = Callable[..., Node]
WAIT_S = 90.0


def affine_of(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(seed).integers(-99, 99, (rows, 64)).astype(np.float32)
    return x, 2 * x + 1


@pytest.mark.parametrize("limiter", ["none", "mps"])
def test_a_function_is_served(
    limiter: str, start_node: Start, torch_function: Body, request: pytest.FixtureRequest
):
    if limiter == "mps":
        request.getfixturevalue("mps")  # skips where there is none
    node = start_node({"affine": torch_function("affine", share="25%")}, limiter)
    with node.client() as client:
        for rows in (1, 3, 8, 1):
            x, expected = affine_of(rows, seed=rows)
            np.testing.assert_array_equal(client.infer("affine", {"x": x})["y"], expected)
    effective_percent = node.function("affine").share_effective_percent
    if limiter == "mps":
        step_percent = 100 * MPS_STEP_SMS / request.getfixturevalue("whole")
        assert effective_percent == pytest.approx(25, abs=step_percent)
    else:
        assert effective_percent == 100
    node.wait_all_free("affine")


def test_requests_at_once_become_batches(start_node: Start, torch_function: Body, mps: Mps):
    del mps
    node = start_node({"affine": torch_function("affine", batch={"delay": "20ms"})}, "mps")
    with node.client() as client:
        answers = together(client, 32)
        for answer, expected in answers:
            np.testing.assert_array_equal(answer.result(WAIT_S)["y"], expected)
    stats = node.segment("affine").stats()
    assert stats["executions"] < stats["rows"] == 32
    node.wait_all_free("affine")


def test_after_a_fault_of_one_function_nothing_queued_is_lost(
    start_node: Start, torch_function: Body, mps: Mps
):
    del mps
    bodies = {"lookup": torch_function("lookup"), "affine": torch_function("affine")}
    node = start_node(bodies, "mps")
    seven = np.array([[7]], np.int64)
    with node.client(timeout_s=WAIT_S) as client:
        assert client.infer("lookup", {"x": seven})["y"] == 7
        queued = together(client, 16)
        with pytest.raises(GsliceError):
            client.infer("lookup", {"x": np.array([[1 << 20]], np.int64)})
        for answer, expected in queued:
            np.testing.assert_array_equal(answer.result(WAIT_S)["y"], expected)
        for name in bodies:
            node.wait_function(name, lambda function: function.state == "READY")
        x, expected = affine_of(1)
        np.testing.assert_array_equal(client.infer("affine", {"x": x})["y"], expected)
        assert client.infer("lookup", {"x": seven})["y"] == 7
    for name in bodies:
        node.wait_all_free(name)


def together(client: Client, count: int) -> list[tuple[Future[Any], np.ndarray]]:
    """Requests of one row each at the same time, and the answers that they must get."""
    inputs = [affine_of(1, seed) for seed in range(count)]
    return [
        (in_background(lambda x=x: client.infer("affine", {"x": x})), expected)
        for x, expected in inputs
    ]
