"""MIG instances: what NVML and the probe tell of them, over a machine of stand-ins."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from gslice.core.errors import FailedPrecondition
from gslice.device.cuda import Gpu
from gslice.device.inventory import Inventory
from gslice.device.mig import Board, visible_boards
from tests.fakes.gpu import GIB, FakeGpu, make_gpus, make_instances

ASK = """
import dataclasses, json
from gslice.core.errors import GsliceError
from gslice.device.inventory import find_gpus, read_inventory
from gslice.device.nvml import Nvml
try:
    found = read_inventory()
except GsliceError as error:
    print(json.dumps({"error": str(error)}))
else:
    nvml = Nvml()
    print(json.dumps({
        "gpus": {n: dataclasses.asdict(g) for n, g in found.gpus.items()},
        "partitioned": dict(found.partitioned),
        "library": found.library,
        "names": find_gpus(),
        "facts": {n: dataclasses.asdict(nvml.facts(g.uuid)) for n, g in found.gpus.items()},
        "now": {n: dataclasses.asdict(nvml.reading(g.uuid)) for n, g in found.gpus.items()},
        "energy": {n: nvml.energy_j(g.uuid) for n, g in found.gpus.items()},
    }))
"""

SECOND = "GPU-00000001-fa4e-fa4e-fa4e-000000000001"
ONE, OTHER = (Gpu(f"MIG-{i}", "H100 MIG 1g.10gb", 16, (9, 0), 10 * GIB) for i in range(2))
BOARDS = [Board("GPU-a", "H100", True, {0: ONE, 3: OTHER}), Board("GPU-b", "H100")]


def ask(fake: FakeGpu, **variables: str) -> dict:
    import json

    done = subprocess.run(
        [sys.executable, "-c", ASK],
        env={**os.environ, **fake.environment, **variables},
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def mixed():
    """One GPU in two instances, one whole."""
    first, second = make_gpus(2)
    split = type(first)(**{**vars(first), "mig": 1})
    with FakeGpu([split, second, *make_instances(split, 2, sms=26)]) as fake:
        yield fake


def test_instances_and_whole_gpus_beside_each_other(mixed: FakeGpu) -> None:
    told = ask(mixed)
    assert told["names"] == ["cuda:0/mig:0", "cuda:0/mig:1", "cuda:1"]
    assert told["partitioned"] == {"cuda:0": "NVIDIA H100 80GB HBM3"}
    instance, whole = told["gpus"]["cuda:0/mig:1"], told["gpus"]["cuda:1"]
    assert instance == {
        "uuid": "MIG-00000000-fa4e-fa4e-fa4e-000000000002",
        "name": "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "sms": 26,
        "compute_capability": [9, 0],
        "sm_groups": 0,  # CUDA tells of them, not NVML
        "group_sms": 0,
        "memory_bytes": 10 * GIB,
    }
    assert (whole["uuid"], whole["sms"], whole["memory_bytes"]) == (SECOND, 132, 80 * GIB)
    assert told["library"].endswith("libcuda.so.1")


def test_memory_is_an_instance_s_own_and_the_rest_its_gpu_s(mixed: FakeGpu) -> None:
    told = ask(mixed)
    facts, now = told["facts"]["cuda:0/mig:0"], told["now"]["cuda:0/mig:0"]
    assert (facts["memory_bytes"], facts["name"][-7:]) == (10 * GIB, "1g.10gb")
    assert (facts["pcie_generation"], facts["pcie_width"], facts["numa_node"]) == (5, 16, 0)
    assert facts["pci_bus_id"] == "00000000:10:00.0"
    assert (facts["power_limit_w"], now["power_w"], now["utilization_percent"]) == (0, 0, 0)
    assert (now["memory_used_bytes"], now["temperature_c"]) == (64 << 20, 41)
    assert told["energy"]["cuda:0/mig:0"] == 0
    assert told["energy"]["cuda:1"] > 0


@pytest.mark.parametrize(
    ("chosen", "names"),
    [
        (SECOND, ["cuda:0"]),
        ("1", ["cuda:0"]),
        ("MIG-00000000-fa4e-fa4e-fa4e-000000000002", ["cuda:0/mig:1"]),
        ("0", ["cuda:0/mig:0", "cuda:0/mig:1"]),
    ],
)
def test_what_an_operator_shows_is_what_there_is(mixed, chosen: str, names: list[str]) -> None:
    assert ask(mixed, CUDA_VISIBLE_DEVICES=chosen)["names"] == names


def test_a_machine_of_instances_only() -> None:
    (gpu,) = make_gpus(1, mig=1)
    with FakeGpu([gpu, *make_instances(gpu, 1)]) as fake:
        assert ask(fake)["names"] == ["cuda:0/mig:0"]
    with FakeGpu([gpu]) as fake:
        assert ask(fake)["error"].startswith(
            "every GPU is partitioned by MIG, and none has an instance (none; `nvidia-smi mig"
        )


def test_what_is_visible_of_boards() -> None:
    assert visible_boards(BOARDS, None) == BOARDS
    assert visible_boards(BOARDS, "") == []
    assert visible_boards(BOARDS, "GPU-b") == BOARDS[1:]
    assert visible_boards(BOARDS, "MIG-1, 1") == [
        Board("GPU-a", "H100", True, {3: OTHER}),
        BOARDS[1],
    ]


def test_devices_are_found_by_name_and_by_uuid() -> None:
    inventory = Inventory(
        13000, "/l", {"cuda:0/mig:0": ONE, "cuda:0/mig:3": OTHER}, {"cuda:0": "H"}
    )
    assert inventory.gpu("cuda:0/mig:3") is OTHER is inventory.gpu("MIG-1")
    for name, words in (
        ("cuda:0", r"cuda:0 is partitioned by MIG.* \(instances: cuda:0/mig:0, cuda:0/mig:3\)"),
        ("cuda:1", "there is no GPU cuda:1 "),
        ("cuda:0/mig:1", "there is no MIG instance cuda:0/mig:1 "),
        ("MIG-7", "there is no MIG instance MIG-7 "),
    ):
        with pytest.raises(FailedPrecondition) as raised:
            inventory.gpu(name)
        assert raised.match(words)
    with pytest.raises(FailedPrecondition, match="instances: none; `nvidia-smi mig -cgi"):
        Inventory(13000, "/l", {}, {"cuda:0": "H"}).gpu("cuda:0")
