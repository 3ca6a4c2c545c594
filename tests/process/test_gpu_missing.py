"""Nodes whose GPUs cannot be used: a clear error on their functions, and no harm to others."""

from __future__ import annotations

import pytest

from tests.fakes.gpu import FakeGpu
from tests.process.gpu import MPS, load, meet, numbers, on_gpu

BOTH = {"cpu": {}, **MPS}


@pytest.mark.parametrize(
    ("machine", "settings", "words"),
    [
        ({"cuda": False}, {}, "no NVIDIA driver: libcuda.so.1: cannot open"),
        ({"driver_version": 11040}, {}, "speaks CUDA 11.4, gslice needs 12.0"),
        ({"gpus": 0}, {}, "the NVIDIA driver finds no GPU"),
        ({"mps": False}, {}, "nvidia-cuda-mps-control is neither on the PATH"),
        ({}, {"start_fails": 1}, "MPS does not start"),
        ({}, {"server_fails": 1}, "MPS_CONNECTION_FAILED"),
        ({}, {"refuse": 808}, "MPS_MAX_CLIENTS_REACHED"),
    ],
)
def test_a_gpu_that_cannot_be_used_fails_its_functions_alone(
    start_node, identity, monkeypatch: pytest.MonkeyPatch, machine, settings, words
) -> None:
    with FakeGpu(**machine) as fake:
        meet(fake, monkeypatch)
        fake.set_mps(**settings)
        node = start_node({"f": on_gpu(), "g": {**identity, "device": "cpu"}}, devices=BOTH)
        found = node.function("f")
        assert found.state == "FAILED"
        assert words in found.reason
        assert node.client().infer("g", numbers(1))["x"].tolist() == [[1]]
        node.stop()


def test_what_was_missing_can_be_put_right(start_gpu_node, gpu: FakeGpu) -> None:
    gpu.set_mps(start_fails=1)
    node = start_gpu_node({"f": on_gpu()}, devices=MPS)
    assert node.status().devices[0].problem.startswith("MPS does not start")
    gpu.set_mps()
    assert load(node, "f", on_gpu())[-1] == "done"
    assert node.status().devices[0].problem == ""
    assert node.client().infer("f", numbers(1))["y"].tolist() == [[1]]
