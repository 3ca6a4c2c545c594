"""Weights once on the GPU: in the native core, and for the workers of a torch function."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from benchmarks.gpu.driver import Gpu
from benchmarks.gpu.mps import Mps
from gslice._native import CudaDevice, WeightBlock
from tests.node import Node, kill_and_wait

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]

MIB = 1 << 20
WEIGHT_BYTES = 256 * MIB
Body = Callable[..., dict[str, Any]]
Start = Callable[..., Node]


def test_a_descriptor_alone_keeps_them(gpu: Gpu):
    device = CudaDevice(0, 1)
    data = np.arange(MIB, dtype=np.uint32)
    made = WeightBlock.create(device, data.nbytes)
    made.write(0, data.view(np.uint8))
    made.seal()
    fd, size_bytes = os.dup(made.fd), made.size_bytes
    made.close()
    before_bytes = device.memory_free_bytes()
    taken = WeightBlock.map(device, fd, size_bytes)
    os.close(fd)
    back = np.zeros_like(data)
    gpu.download(back.ctypes.data, taken.pointer, back.nbytes)
    np.testing.assert_array_equal(back, data)
    assert before_bytes - device.memory_free_bytes() < size_bytes
    taken.close()
    assert device.memory_free_bytes() > before_bytes
    device.close()


def triples(node: Node) -> bool:
    x = np.arange(8192, dtype=np.float32).reshape(1, 8192)
    with node.client() as client:
        answer = client.infer("f", {"x": x})["y"]
    np.testing.assert_allclose(answer, 3 * x, rtol=1e-2)
    return True


@pytest.mark.parametrize("limiter", ["none", "mps"])
def test_a_torch_function_has_them_once(
    limiter: str, start_node: Start, torch_function: Body, request: pytest.FixtureRequest
):
    if limiter == "mps":
        request.getfixturevalue("mps")  # skips where there is none
    node = start_node({"f": torch_function("weighted", instances=2, share="50%")}, limiter)
    memory = node.function("f").memory
    assert WEIGHT_BYTES <= memory.shared_weights_bytes < WEIGHT_BYTES + 4 * MIB
    assert memory.weights_bytes < WEIGHT_BYTES // 2
    assert triples(node)
    for pid in node.worker_pids("f"):  # whoever made them, too
        kill_and_wait(pid)
        node.wait_function(
            "f",
            lambda f, pid=pid: (
                [w.state for w in f.workers] == ["READY"] * 2
                and pid not in [w.pid for w in f.workers]
            ),
        )
        assert triples(node)
    memory = node.function("f").memory
    assert WEIGHT_BYTES <= memory.shared_weights_bytes < WEIGHT_BYTES + 4 * MIB
    assert memory.weights_bytes < WEIGHT_BYTES // 2


def test_a_shadow_takes_them_over(start_node: Start, torch_function: Body, mps: Mps):
    del mps
    node = start_node({"f": torch_function("weighted", share="25%")}, "mps")
    with node.control() as control:
        *_, done = control.resize("f", "50%")
    assert done.name == "done", done.detail
    assert done.resized.extra_device_memory_bytes < WEIGHT_BYTES
    assert triples(node)
