"""The native core's driver table against the real driver, as another view of it has it."""

from __future__ import annotations

import pytest

from benchmarks.gpu.driver import COMPUTE_MAJOR, COMPUTE_MINOR, Gpu
from benchmarks.gpu.questions import pinned
from gslice import _native
from gslice.device.nvml import Nvml

pytestmark = pytest.mark.gpu


def test_device_is_what_the_driver_says(gpu: Gpu):
    device = _native.CudaDevice(0, 2)
    try:
        assert device.name == gpu.name()
        assert device.driver_version == gpu.version() >= 12_000
        assert device.sm_count == gpu.multiprocessors()
        capability = (gpu.attribute(COMPUTE_MAJOR), gpu.attribute(COMPUTE_MINOR))
        assert device.compute_capability == capability
        assert device.uuid.startswith("GPU-")
        assert 0 < device.memory_free_bytes() <= device.memory_bytes
        streams = {device.lane_stream(0), device.lane_stream(1)}
        assert len(streams) == 2
        assert 0 not in streams  # never the legacy stream
    finally:
        device.close()
        device.close()


def test_nvml_and_the_driver_mean_the_same_gpu():
    device, nvml = _native.CudaDevice(0, 1), Nvml()
    try:
        assert nvml.facts(device.uuid).name == device.name
    finally:
        nvml.close()
        device.close()


def test_one_memory_file_is_pinned_in_two_processes():
    answer = pinned()
    assert answer.holds, answer.text
