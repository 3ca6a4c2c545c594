"""GPUs in node.yaml: devices named or found, and the functions that go there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gslice.core.config import (
    Config,
    DeviceConfig,
    config_to_yaml,
    devices,
    load_config,
    save_functions,
)
from gslice.core.errors import ConfigError
from gslice.core.types import ShareBounds

IDENTITY = "{identity: {inputs: [{name: x, dtype: INT64, dims: [-1]}]}}"


def loaded(tmp_path: Path, text: str, gpus: tuple[str, ...] = ()) -> Config:
    path = tmp_path / "node.yaml"
    path.write_text(f"version: 1\n{text}")
    return load_config(path, environ={}, find_gpus=lambda: gpus)


def test_a_gpu_with_all_its_settings(tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    config = loaded(
        tmp_path,
        "devices:\n  cuda:3: {limiter: mps, limits: {share: 80%, memory: 60GiB},"
        f" cpus: '{core}', mps_pipe: pipe, share_weights: false}}\n",
    )
    assert config.devices == {
        "cuda:3": DeviceConfig(
            kind="cuda",
            limiter="mps",
            share_limit_percent=80,
            memory_limit_bytes=60 << 30,
            cpus=(core,),
            gpu="cuda:3",
            mps_pipe=str(tmp_path / "pipe"),
            share_weights=False,
        )
    }


def test_what_is_shown_says_the_same_when_it_is_read(tmp_path: Path) -> None:
    gpu = "{limits: {share: 50%}, mps_pipe: /p, share_weights: false}"
    config = loaded(tmp_path, f"devices: {{cuda:1: {gpu}, cpu: {{}}}}\n")
    again = loaded(tmp_path, config_to_yaml(config).partition("\n")[2])
    assert again.devices == config.devices


def test_a_gpu_may_use_cores_of_the_cpu_device(tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    found = loaded(tmp_path, f"devices: {{cpu: {{}}, cuda:0: {{cpus: '{core}'}}}}\n").devices
    assert core in found["cpu"].cpus
    assert found["cuda:0"].cpus == (core,)


def test_auto_finds_gpus_beside_the_cpu(tmp_path: Path) -> None:
    config = loaded(tmp_path, f"functions: {{f: {IDENTITY}}}\n", ("cuda:0", "cuda:1"))
    assert list(config.devices) == ["cpu", "cuda:0", "cuda:1"]
    assert [d.kind for d in config.devices.values()] == ["cpu", "cuda", "cuda"]
    assert config.devices["cuda:1"].gpu == "cuda:1"
    assert config.functions["f"].device == "cpu"
    assert config.gpus == ("cuda:0", "cuda:1")


def test_named_devices_are_not_looked_for(tmp_path: Path) -> None:
    def nobody() -> tuple[str, ...]:
        raise AssertionError("the probe takes a second, and nobody asked for it")

    path = tmp_path / "node.yaml"
    path.write_text("version: 1\ndevices: {cpu: {}}\n")
    assert list(load_config(path, environ={}, find_gpus=nobody).devices) == ["cpu"]


def test_a_function_on_a_gpu_that_was_not_found(tmp_path: Path) -> None:
    text = f"functions:\n  f: {{device: cuda:0, {IDENTITY[1:]}\n"
    with pytest.raises(ConfigError, match="'cuda:0' is not a device of this node"):
        loaded(tmp_path, text)
    assert loaded(tmp_path, text, ("cuda:0",)).functions["f"].device == "cuda:0"


def test_saving_knows_the_gpus_that_were_found(tmp_path: Path) -> None:
    config = loaded(tmp_path, f"functions:\n  f: {{device: cuda:0, {IDENTITY[1:]}\n", ("cuda:0",))
    assert config.path is not None
    spec = config.functions["f"]
    changed = type(spec)(**{**vars(spec), "share": ShareBounds(30, 30, auto=False)})
    save_functions(config.path, {"f": changed}, config.gpus)
    assert load_config(config.path, environ={}, find_gpus=lambda: config.gpus).functions == {
        "f": changed
    }


@pytest.mark.parametrize(
    ("source", "given", "device", "devices"),
    [
        ("torch: m:f", "auto", "cuda:0", ("cuda:0", "cuda:1", "cpu")),
        ("model: m.pt2", "auto", "cuda:0", ("cuda:0", "cuda:1", "cpu")),
        ("model: m.onnx", "auto", "cpu", ()),
        ("model: m.plan", "auto", "cuda:0", ("cuda:0", "cuda:1")),
        ("model: m.onnx, engine: tensorrt_rtx", "cuda:1", "cuda:1", ()),
        ("torch: m:f", "cuda:1", "cuda:1", ()),
        ("torch: m:f", "cpu", "cpu", ()),
    ],
)
def test_where_a_function_may_run(
    tmp_path: Path, source: str, given: str, device: str, devices: tuple[str, ...]
) -> None:
    text = f"functions: {{f: {{{source}, device: '{given}'}}}}\n"
    found = loaded(tmp_path, text, ("cuda:0", "cuda:1"))
    spec = found.functions["f"]
    assert (spec.device, spec.devices) == (device, devices)
    # What is shown reads back as the same.
    again = loaded(tmp_path, config_to_yaml(found).partition("\n")[2])
    assert again.functions["f"] == spec


def test_onnx_runs_on_gpus_where_its_package_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "cuda_provider", lambda: tmp_path / "provider.so")
    text = "functions: {f: {model: m.onnx}, g: {model: m.onnx, device: cpu}}\n"
    found = loaded(tmp_path, text, ("cuda:0",)).functions
    assert (found["f"].device, found["f"].devices) == ("cuda:0", ("cuda:0", "cpu"))
    assert (found["g"].device, found["g"].devices) == ("cpu", ())


def test_what_knows_no_gpu_stays_with_the_kind_of_the_first_device(tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    text = f"devices: {{cpu:{core}: {{}}, cuda:0: {{}}}}\nfunctions: {{f: {IDENTITY}}}\n"
    spec = loaded(tmp_path, text).functions["f"]
    assert (spec.device, spec.devices) == (f"cpu:{core}", ())


def test_who_cannot_be_in_a_host_goes_elsewhere_or_is_alone(tmp_path: Path) -> None:
    config = loaded(
        tmp_path,
        "devices: {cuda:0: {limiter: green}, cuda:1: {}}\nfunctions:\n"
        "  f: {python: m:C, environment: {A: b}}\n"
        "  g: {python: m:C}\n"
        "  h: {python: m:C, environment: {A: b}, isolation: exclusive, device: cuda:0}\n",
    )
    assert config.functions["f"].device == "cuda:1"
    assert config.functions["f"].devices == ()
    assert config.functions["g"].devices == ("cuda:0", "cuda:1")
    assert config.functions["h"].device == "cuda:0"
