"""A spare for a GPU, of stand-ins: no client of MPS until it is a function's worker."""

from __future__ import annotations

import pytest

from tests.fakes.gpu import FakeGpu
from tests.node import kill_and_wait
from tests.process.gpu import MPS, load, numbers, on_gpu
from tests.process.test_spares import AUTO, wait_spare


def test_it_attaches_with_the_share_of_the_function(start_gpu_node, gpu: FakeGpu) -> None:
    node = start_gpu_node({"f": on_gpu(share="25%")}, devices=MPS, node=AUTO)
    spare = wait_spare(node)
    assert spare not in gpu.processes()  # CUDA has not started in it
    kill_and_wait(node.worker_pids("f")[0])
    found = node.wait_function("f", lambda f: [w.pid for w in f.workers] == [spare])
    found = node.wait_function("f", lambda f: f.state == "READY")
    assert found.limiter == "mps"
    assert found.share_effective_percent == pytest.approx(100 * 32 / 132)
    assert gpu.counters(spare)[f"sms.{gpu.gpus[0].uuid}"] == 32
    assert node.client().infer("f", numbers(1, 2))["y"].ravel().tolist() == [1, 2]


def test_a_changed_share_takes_one_for_the_shadow(start_gpu_node, gpu: FakeGpu) -> None:
    node = start_gpu_node({"f": on_gpu(share="25%")}, devices=MPS, node=AUTO)
    spare = wait_spare(node)
    assert load(node, "f", on_gpu(share="50%"))[-1] == "done"
    found = node.wait_function("f", lambda f: [w.pid for w in f.workers] == [spare])
    assert found.share_effective_percent == 50
    assert gpu.counters(spare)[f"sms.{gpu.gpus[0].uuid}"] == 66
