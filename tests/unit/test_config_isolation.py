"""`isolation: exclusive` and MIG instances in node.yaml."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from gslice.core.config import DeviceConfig, config_to_yaml, function_to_yaml, load_config
from gslice.core.config.devices import gpu_name
from gslice.core.errors import ConfigError
from gslice.core.types import FunctionSpec, device_kind
from gslice.supervise.node import mps_key

IDENTITY = "identity: {inputs: [{name: x, dtype: INT64, dims: [-1]}]}"
INSTANCE = "MIG-00000000-fa4e-fa4e-fa4e-000000000001"


def loaded(tmp_path: Path, text: str):
    path = tmp_path / "node.yaml"
    path.write_text(f"version: 1\n{text}")
    return load_config(path, environ={})


def test_a_function_that_wants_its_device_to_itself(tmp_path: Path) -> None:
    config = loaded(tmp_path, f"functions: {{f: {{isolation: exclusive, {IDENTITY}}}}}\n")
    spec = config.functions["f"]
    assert spec.exclusive
    assert "isolation: exclusive" in function_to_yaml(spec)
    assert "isolation" not in function_to_yaml(replace(spec, isolation="shared"))
    again = loaded(tmp_path, config_to_yaml(config).partition("\n")[2])
    assert again.functions == config.functions


def test_a_command_without_a_share_has_all_of_its_device(tmp_path: Path) -> None:
    text = "functions:\n  f: {command: [sleep, 9], isolation: exclusive}\n"
    spec = loaded(tmp_path, text).functions["f"]
    assert (spec.exclusive, spec.program is not None) == (True, True)
    with pytest.raises(ConfigError, match="a command needs a share of its own"):
        loaded(tmp_path, "functions:\n  f: {command: [sleep, 9]}\n")


@pytest.mark.parametrize("source", [IDENTITY, "command: [sleep, 9]"])
def test_it_has_no_share_beside_that(tmp_path: Path, source: str) -> None:
    text = f"functions:\n  f: {{isolation: exclusive, share: 40%, {source}}}\n"
    with pytest.raises(ConfigError, match="share says nothing with isolation: exclusive"):
        loaded(tmp_path, text)


def test_others_that_are_pinned_to_its_device_are_told_by_the_line(tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    text = (
        f"devices: {{cpu:{core}: {{}}, cuda:0: {{}}}}\nfunctions:\n"
        f"  a: {{device: cuda:0, {IDENTITY}}}\n  b: {{device: cuda:0, {IDENTITY}}}\n"
        f"  c: {{device: cuda:0, isolation: exclusive, {IDENTITY}}}\n"
    )
    told = r"node.yaml:6: functions.c.isolation: cuda:0 cannot be its alone: pinned to it are also"
    with pytest.raises(ConfigError, match=f"{told} a, b"):
        loaded(tmp_path, text)
    elsewhere = text.replace("device: cuda:0, isolation", f"device: 'cpu:{core}', isolation")
    assert loaded(tmp_path, elsewhere).functions["c"].exclusive


def test_on_a_gpu_nothing_limits_what_has_it_to_itself() -> None:
    gpu, cpu = DeviceConfig("cuda", "mps"), DeviceConfig("cpu", "cgroup", cpus=(0, 1))
    shared = FunctionSpec("f")
    alone = replace(shared, isolation="exclusive")
    assert [d.limiter_of(s, d.limiter) for d in (gpu, cpu) for s in (shared, alone)] == [
        *("mps", "none"),
        *("cgroup", "cgroup"),
    ]
    assert gpu.fits(alone, (), "none")
    assert not gpu.fits(alone, (), "mps"), "it was loaded when it shared"
    assert not gpu.fits(shared, (), "none")
    assert cpu.fits(alone, (0, 1), "cgroup")


# ---- MIG instances -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "gpu"),
    [
        ("cuda:0", "cuda:0"),
        ("cuda:07", "cuda:7"),
        ("cuda:1/mig:0", "cuda:1/mig:0"),
        (INSTANCE, INSTANCE),
        ("cuda:0/mig", ""),
        ("cuda:", ""),
        ("MIG-1", ""),
        ("cpu:0", ""),
    ],
)
def test_names_of_gpus(name: str, gpu: str) -> None:
    assert gpu_name(name) == gpu
    assert device_kind(name) == ("cpu" if name == "cpu:0" else "cuda")


def test_instances_are_devices_of_their_own(tmp_path: Path) -> None:
    text = (
        f"devices: {{cuda:0/mig:1: {{limits: {{memory: 4GiB}}}}, {INSTANCE}: {{}}, cuda:1: {{}}}}\n"
    )
    config = loaded(tmp_path, text)
    by_number, by_uuid, whole = config.devices.values()
    assert (by_number.gpu, by_number.memory_limit_bytes) == ("cuda:0/mig:1", 4 << 30)
    assert (by_uuid.gpu, by_uuid.kind, by_uuid.is_instance) == (INSTANCE, "cuda", True)
    assert by_number.is_like(by_uuid)
    assert not by_number.is_like(whole), "a share of a whole GPU is worth something else"
    again = loaded(tmp_path, config_to_yaml(config).partition("\n")[2])
    assert again.devices == config.devices
    assert [mps_key(device.gpu) for device in config.devices.values()] == [
        "0-mig-1",
        "MIG-00000000",
        "1",
    ]


@pytest.mark.parametrize("name", ["cuda:0/mig", "MIG-1", "gpu0"])
def test_what_is_no_device(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="is not a device; write cpu, cpu:0-1, cuda:0 or cuda:0/"):
        loaded(tmp_path, f"devices: {{'{name}': {{}}}}\n")


def test_static_partitions_are_no_limiter_yet(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'mps-static' is not there yet; a GPU takes auto, mps"):
        loaded(tmp_path, "devices: {cuda:0: {limiter: mps-static}}\n")
