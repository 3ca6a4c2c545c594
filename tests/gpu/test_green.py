"""Functions on the GPU in one process, on SMs of their own: daemon, front-end, host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from benchmarks.gpu import mps
from gslice import _native
from tests.gpu.test_serving import WAIT_S, affine_of, together
from tests.node import Node, kill_and_wait

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]

Body = Callable[..., dict[str, Any]]
Start = Callable[..., Node]
SHARES = {"affine": "60%", "lookup": "40%"}


@pytest.fixture
def node(start_node: Start, torch_function: Body) -> Node:
    if not mps.has_green_contexts():
        pytest.skip("the driver has no green contexts")
    bodies = {name: torch_function(name, share=share) for name, share in SHARES.items()}
    return start_node(bodies, "green")


def check(node: Node) -> int:
    """Both answer right, from one process, whose id this is."""
    seven = np.array([[7]], np.int64)
    with node.client(timeout_s=WAIT_S) as client:
        for answer, expected in together(client, 16):
            np.testing.assert_array_equal(answer.result(WAIT_S)["y"], expected)
        assert client.infer("lookup", {"x": seven})["y"] == 7
    (pid,) = {pid for name in SHARES for pid in node.worker_pids(name)}
    for name in SHARES:
        node.wait_all_free(name)
    return pid


def sms_of(node: Node, name: str, whole: int) -> int:
    return round(node.function(name).share_effective_percent * whole / 100)


def test_shares_are_groups_and_change_in_place(node: Node, whole: int) -> None:
    pid = check(node)
    groups = _native.SmGroups(0)
    count, each = groups.count, groups.group_sms
    groups.close()
    for name, share in (("affine", 60), ("lookup", 40)):
        assert abs(sms_of(node, name, whole) - each * count * share / 100) < each
    with node.control() as control:
        for name, share in (("affine", "20%"), ("lookup", "80%")):
            *_, last = control.resize(name, share)
            assert last.resized.path == "in place", last
    assert abs(sms_of(node, "affine", whole) - each * count * 0.2) < each
    assert sms_of(node, "affine", whole) + sms_of(node, "lookup", whole) <= count * each
    assert check(node) == pid


def test_a_dead_host_comes_back_with_all(node: Node) -> None:
    pid = check(node)
    kill_and_wait(pid)
    for name in SHARES:
        node.wait_function(name, lambda f: f.state == "READY" and len(f.workers) == 1)
    assert check(node) != pid
    with node.client(timeout_s=WAIT_S) as client:
        x, expected = affine_of(3)
        np.testing.assert_array_equal(client.infer("affine", {"x": x})["y"], expected)
