"""Instance groups of a repository: instances, devices, and what is told of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gslice.core.config import DeviceConfig
from tests.unit.triton_bench import CPU, GPUS, body, read, refused

GROUP = "instance_group [ {{ count: {0} kind: {1} }} ]"
MIXED = {**GPUS, "cpu": DeviceConfig(cpus=(0, 1))}


@pytest.mark.parametrize(
    ("config", "file", "devices", "expected"),
    [
        ("", "model.onnx", CPU, {}),
        ("", "model.onnx", MIXED, {}),
        (GROUP.format(1, "KIND_GPU"), "model.onnx", MIXED, {"replicas": 2}),
        (GROUP.format(1, "KIND_CPU"), "model.onnx", MIXED, {"device": "cpu"}),
        ("", "model.pt2", MIXED, {}),
        (GROUP.format(2, "KIND_CPU"), "model.onnx", CPU, {"instances": 2}),
        (GROUP.format(1, "KIND_CPU"), "model.pt2", MIXED, {"device": "cpu"}),
        (GROUP.format(3, "KIND_AUTO"), "model.pt2", MIXED, {"instances": 3}),
        (GROUP.format(1, "KIND_GPU"), "model.pt2", MIXED, {"replicas": 2}),
        ("instance_group { kind: KIND_GPU gpus: 1 }", "model.pt2", MIXED, {"device": "cuda:1"}),
        ("instance_group { gpus: 1 }", "model.pt2", MIXED, {"device": "cuda:1"}),
        (
            "instance_group [ { count: 2 gpus: 0 }, { count: 2 gpus: 1 } ]",
            *("model.pt2", MIXED, {"replicas": 2, "instances": 2}),
        ),
    ],
)
def test_instances(
    tmp_path: Path, config: str, file: str, devices: Any, expected: dict[str, Any]
) -> None:
    assert body(tmp_path, config, devices, file=file) == expected


def test_an_onnx_model_for_a_gpu_is_served_on_the_cpu_where_there_is_none(tmp_path: Path) -> None:
    found = read(tmp_path, "\n" + GROUP.format(2, "KIND_GPU"), CPU)
    assert found.body["instances"] == 2
    assert "device" not in found.body
    (note,) = found.notes
    assert (note.place, note.setting) == ("m/config.pbtxt:2", "instance_group")
    assert note.text == "on the CPU: this node has no GPU"


def test_more_instances_than_there_may_be(tmp_path: Path) -> None:
    found = read(tmp_path, GROUP.format(9, "KIND_CPU"))
    assert found.body["instances"] == 8
    assert [note.setting for note in found.notes] == ["instance_group.count"]


def test_some_of_the_gpus_are_any_as_many(tmp_path: Path) -> None:
    devices = {**MIXED, "cuda:2": DeviceConfig(kind="cuda", gpu="cuda:2")}
    config = "instance_group { kind: KIND_GPU gpus: [ 0, 2 ] }\ninstance_group { kind: KIND_CPU }"
    found = read(tmp_path, config, devices, file="model.pt2")
    assert found.body["replicas"] == 2
    assert [note.text for note in found.notes] == [
        "the groups of the first one's kind are honoured, and no others",
        "on 2 GPUs, and the node chooses which",
    ]


@pytest.mark.parametrize(
    ("config", "file", "devices", "reason"),
    [
        (GROUP.format(1, "KIND_GPU"), "model.pt2", CPU, "m/config.pbtxt:1: it is for a GPU"),
        ("instance_group { gpus: 5 }", "model.pt2", MIXED, "it is for cuda:5"),
        (GROUP.format(1, "KIND_CPU"), "model.pt2", GPUS, "no CPU device"),
    ],
)
def test_devices_that_are_not_there(
    tmp_path: Path, config: str, file: str, devices: Any, reason: str
) -> None:
    assert reason in refused(tmp_path, config, devices, file=file).message
