"""What the probe and NVML say about GPUs, on a machine that may have none."""

from __future__ import annotations

import json

import pytest

from gslice.core.errors import FailedPrecondition, Unavailable
from gslice.device.cuda import Gpu, uuid_text, version_text
from gslice.device.inventory import (
    Inventory,
    find_gpus,
    inventory_of,
    probe_answer,
    probe_environment,
)
from gslice.device.nvml import bits_of, count_gpus
from gslice.device.probe import _path_of

H100 = Gpu("GPU-1", "NVIDIA H100", 132, (9, 0), 80 << 30)


def test_an_inventory_survives_the_pipe() -> None:
    found = json.dumps({"driver_version": 13000, "library": "/l", "gpus": [{**vars(H100)}]})
    assert inventory_of(probe_answer(f"a warning\n{found}\n", "")) == Inventory(
        13000, "/l", {"cuda:0": H100}
    )


def test_what_the_probe_found_wrong_is_raised_here() -> None:
    said = json.dumps({"error": "no NVIDIA driver", "hint": "install it", "code": 14})
    with pytest.raises(Unavailable) as raised:
        probe_answer(said, "")
    assert str(raised.value) == "no NVIDIA driver (install it)"


def test_a_probe_that_crashed_leaves_its_last_words() -> None:
    with pytest.raises(FailedPrecondition, match="the GPU probe failed: Segmentation fault"):
        probe_answer("", "some\nSegmentation fault\n")
    with pytest.raises(FailedPrecondition, match="the GPU probe failed: it said nothing"):
        probe_answer("", "")


def test_a_gpu_that_is_not_there() -> None:
    inventory = Inventory(13000, "/l", {"cuda:0": H100})
    assert inventory.gpu("cuda:0") is H100
    with pytest.raises(FailedPrecondition) as raised:
        inventory.gpu("cuda:1")
    assert str(raised.value) == "there is no GPU cuda:1 (GPUs: cuda:0 NVIDIA H100)"


def test_the_probe_sees_whole_gpus() -> None:
    environment = probe_environment(
        {"A": "b", "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "5", "CUDA_MPS_PIPE_DIRECTORY": "/p"}
    )
    assert environment == {
        "A": "b",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_MPS_PIPE_DIRECTORY": "/nonexistent",
    }


def test_without_nvml_nothing_is_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> Inventory:
        raise AssertionError("the probe was started")

    monkeypatch.setattr("gslice.device.inventory.count_gpus", lambda: 0)
    monkeypatch.setattr("gslice.device.inventory.read_inventory", nobody)
    assert find_gpus() == ()


def test_a_driver_that_cannot_serve_leaves_the_cpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def old() -> Inventory:
        raise FailedPrecondition("the NVIDIA driver speaks CUDA 11.4")

    monkeypatch.setattr("gslice.device.inventory.count_gpus", lambda: 1)
    monkeypatch.setattr("gslice.device.inventory.read_inventory", old)
    assert find_gpus() == ()
    assert "the GPUs cannot be used: the NVIDIA driver speaks CUDA 11.4" in caplog.text


def test_counting_needs_no_nvml_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    assert count_gpus() == 0


def test_words_of_the_driver() -> None:
    assert version_text(12040) == "12.4"
    assert version_text(13000) == "13.0"
    raw = bytes(range(16))
    assert uuid_text(raw) == "GPU-00010203-0405-0607-0809-0a0b0c0d0e0f"
    assert bits_of([0b101, 0, 1 << 63]) == {0, 2, 191}
    maps = "7f00 r-xp 0 08:01 1   /usr/lib/libcuda.so.580.95\n7f01 r-xp 0 0 0 /x/libcudart.so.13\n"
    assert _path_of("libcuda.so.1", lambda: maps) == "/usr/lib/libcuda.so.580.95"
    assert _path_of("libcuda.so.1", lambda: "") == ""
