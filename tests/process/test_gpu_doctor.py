"""`gslice doctor` on a machine with GPUs, and on machines where something is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from tests.fakes.gpu import FakeGpu, make_gpus, make_instances


def doctor(fake: FakeGpu, *arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Its exit code, and its checks by name."""
    done = subprocess.run(
        [sys.executable, "-m", "gslice", "doctor", "--json", *arguments],
        env={**os.environ, **fake.environment},
        capture_output=True,
        text=True,
    )
    assert done.stdout, done.stderr
    report = json.loads(done.stdout)
    return done.returncode, {check["name"]: check for check in report["checks"]}


def test_a_gpu_in_order_is_proven(fake_gpu: FakeGpu) -> None:
    code, checks = doctor(fake_gpu)
    found = {name: check["status"] for name, check in checks.items()}
    assert code == 0, checks
    assert {name: found[name] for name in ("GPU driver", "cuda:0", "MPS programs")} == {
        "GPU driver": "ok",
        "cuda:0": "ok",
        "MPS programs": "ok",
    }
    assert found["cuda:0 MPS"] == found["cuda:0 shares"] == "ok"
    assert checks["cuda:0 shares"]["detail"].startswith("50% is 66 SMs, 25% is 32 SMs")
    assert "expected" in checks["cuda:0 limit"]["detail"]
    assert "GB/s to the GPU" in checks["cuda:0 copies"]["detail"]
    assert "132 SMs" in checks["cuda:0"]["detail"]
    assert fake_gpu.processes() == []


def test_every_gpu_is_looked_at() -> None:
    with FakeGpu(make_gpus(2, sms=20, name="Small")) as fake:
        _, checks = doctor(fake)
        for name in ("cuda:0", "cuda:1"):
            assert checks[name]["detail"].startswith("Small, 20 SMs")
            assert checks[f"{name} shares"]["detail"].startswith("50% is 10 SMs, 25% is 4 SMs")


def test_quick_uses_no_gpu(fake_gpu: FakeGpu) -> None:
    code, checks = doctor(fake_gpu, "--quick")
    assert code == 0
    assert "cuda:0" in checks
    assert [name for name in checks if name.startswith("cuda:0 ")] == ["cuda:0 green"]
    assert checks["cuda:0 green"]["detail"] == "15 groups of 8 SMs, 12 of 132 SMs in none"
    assert fake_gpu.total("kernels") == 0


def test_a_gpu_that_is_lost() -> None:
    with FakeGpu(make_gpus(1, lost=1)) as fake:
        code, checks = doctor(fake, "--quick")
        assert code == 1
        assert checks["cuda:0"]["status"] == "fail"
        assert "the GPU is lost" in checks["cuda:0"]["detail"]


def test_a_gpu_without_a_driver() -> None:
    with FakeGpu(cuda=False) as fake:
        code, checks = doctor(fake)
        assert code == 1
        assert checks["GPU driver"]["status"] == "fail"
        assert "no NVIDIA driver: libcuda.so.1: cannot open" in checks["GPU driver"]["detail"]


def test_an_old_driver() -> None:
    with FakeGpu(driver_version=11040) as fake:
        code, checks = doctor(fake)
        assert code == 1
        assert checks["GPU driver"]["detail"] == (
            "the NVIDIA driver speaks CUDA 11.4, gslice needs 12.0"
        )
        assert checks["GPU driver"]["hint"] == "update the driver"


def test_without_mps() -> None:
    with FakeGpu(mps=False) as fake:
        code, checks = doctor(fake)
        assert code == 0
        assert checks["MPS programs"]["status"] == "warn"
        assert "nvidia-cuda-mps-control is neither on the PATH" in checks["MPS programs"]["detail"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"start_fails": 1}, "MPS does not start: Failed to start the MPS control daemon"),
        ({"server_fails": 1}, "CUDA_ERROR_MPS_CONNECTION_FAILED"),
        ({"refuse": 808}, "CUDA_ERROR_MPS_MAX_CLIENTS_REACHED"),
    ],
)
def test_an_mps_that_does_not_work(fake_gpu: FakeGpu, settings: dict[str, int], words: str) -> None:
    fake_gpu.set_mps(**settings)
    code, checks = doctor(fake_gpu)
    assert code == 1
    assert checks["cuda:0 MPS"]["status"] == "fail"
    assert words in checks["cuda:0 MPS"]["detail"]


def test_no_memory_for_the_trial(fake_gpu: FakeGpu) -> None:
    fake_gpu.fail("cuMemHostAlloc", 2)
    code, checks = doctor(fake_gpu)
    assert code == 1
    assert "cuMemHostAlloc: CUDA_ERROR_OUT_OF_MEMORY (2)" in checks["cuda:0 MPS"]["detail"]


NVML_SAYS: list[tuple[dict[str, int], str, str]] = [
    ({"numa_node": 1}, "ok", "PCIe 5 x16, NUMA node 1; driver "),
    ({"power_mw": 31_000}, "ok", "37% busy, 31 of 700 W"),
    ({"power_mw": -1, "utilization_percent": -1}, "ok", "0% busy, 0 of 700 W"),
    ({"compute_mode": 2}, "fail", "compute is prohibited"),
    ({"mig": 1}, "warn", "partitioned by MIG"),
]


def test_what_nvml_says() -> None:
    gpus = make_gpus(len(NVML_SAYS))
    with FakeGpu([replace(g, **said[0]) for g, said in zip(gpus, NVML_SAYS, strict=True)]) as fake:
        _, checks = doctor(fake, "--quick")
    for index, (fields, status, words) in enumerate(NVML_SAYS):
        found = checks[f"cuda:{index}"]
        assert found["status"] == status, fields
        assert words in found["detail"]


def test_instances_are_listed_and_proven() -> None:
    first, second = make_gpus(2)
    split = replace(first, mig=1)
    with FakeGpu([split, second, *make_instances(split, 2)]) as fake:
        code, checks = doctor(fake)
    assert code == 0, checks
    board, instance = checks["cuda:0"], checks["cuda:0/mig:1"]
    assert (board["status"], board["hint"]) == (
        "note",
        "each is a device: cuda:0/mig:0, cuda:0/mig:1",
    )
    assert "partitioned by MIG: 2 instances" in board["detail"]
    assert instance["detail"].startswith("NVIDIA H100 80GB HBM3 MIG 1g.10gb, 16 SMs, 10.0 GiB")
    assert instance["detail"].endswith("; MIG-00000000-fa4e-fa4e-fa4e-000000000002")
    assert "busy" not in instance["detail"]
    shares = "50% is 8 SMs, 25% is 4 SMs, read back in the client"
    assert checks["cuda:0/mig:1 shares"]["detail"] == shares
    assert checks["cuda:1 shares"]["detail"].startswith("50% is 66 SMs")
    assert "cuda:0/mig:1 mps-static" not in checks


def test_static_partitions_are_found_by_carving_one(fake_gpu: FakeGpu) -> None:
    _, without = doctor(fake_gpu)
    assert without["cuda:0 mps-static"]["status"] == "note"
    assert without["cuda:0 mps-static"]["detail"].startswith("MPS carves none: MPS does not start")
    fake_gpu.set_mps(chunk_sms=8)
    code, checks = doctor(fake_gpu)
    found = checks["cuda:0 mps-static"]
    assert (code, found["status"]) == (0, "note")
    assert found["detail"] == "MPS can carve static partitions, in chunks of 8 SMs"
    assert found["hint"].startswith("gslice does not use them: a partition cannot change")
    assert fake_gpu.processes() == []
