"""The stand-in for NVML, asked as nvidia-ml-py asks it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

from tests.fakes.client import Client
from tests.fakes.gpu import GIB, FakeGpu, make_gpus

ASK = """
import json, pynvml as n, sys
n.nvmlInit()
index = int(sys.argv[1])
gpu = n.nvmlDeviceGetHandleByIndex(index)
assert n.nvmlDeviceGetIndex(n.nvmlDeviceGetHandleByUUID(n.nvmlDeviceGetUUID(gpu))) == index

def ask(question):
    try:
        return question()
    except n.NVMLError as error:
        return str(error)

print(json.dumps({
    "count": n.nvmlDeviceGetCount(),
    "driver": n.nvmlSystemGetDriverVersion(),
    "cuda": n.nvmlSystemGetCudaDriverVersion_v2(),
    "name": n.nvmlDeviceGetName(gpu),
    "uuid": n.nvmlDeviceGetUUID(gpu),
    "bus": n.nvmlDeviceGetPciInfo(gpu).busId,
    "capability": n.nvmlDeviceGetCudaComputeCapability(gpu),
    "memory": [getattr(n.nvmlDeviceGetMemoryInfo(gpu), f) for f in ("total", "free", "used")],
    "memory_v2": [getattr(n.nvmlDeviceGetMemoryInfo(gpu, n.nvmlMemory_v2), f)
                  for f in ("total", "reserved", "free", "used")],
    "utilization": ask(lambda: n.nvmlDeviceGetUtilizationRates(gpu).gpu),
    "power": ask(lambda: n.nvmlDeviceGetPowerUsage(gpu)),
    "limit": n.nvmlDeviceGetEnforcedPowerLimit(gpu),
    "temperature": n.nvmlDeviceGetTemperature(gpu, n.NVML_TEMPERATURE_GPU),
    "link": [n.nvmlDeviceGetMaxPcieLinkGeneration(gpu), n.nvmlDeviceGetCurrPcieLinkWidth(gpu)],
    "node": list(n.nvmlDeviceGetMemoryAffinity(gpu, 1, n.NVML_AFFINITY_SCOPE_NODE)),
    "cpus": list(n.nvmlDeviceGetCpuAffinity(gpu, 2)),
    "mode": n.nvmlDeviceGetComputeMode(gpu),
    "mig": ask(lambda: n.nvmlDeviceGetMigMode(gpu)),
    "processes": [[p.pid, p.usedGpuMemory] for p in n.nvmlDeviceGetComputeRunningProcesses(gpu)],
}))
n.nvmlShutdown()
"""


def ask(fake: FakeGpu, index: int = 0) -> dict[str, Any]:
    answer = subprocess.run(
        [sys.executable, "-c", ASK, str(index)],
        env={**os.environ, **fake.environment},
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(answer.stdout)


def test_facts_and_readings() -> None:
    first, second = make_gpus(2, power_mw=312_500, numa_node=3, cpu_mask=0xF0)
    with FakeGpu([first, replace(second, name="NVIDIA L4", utilization_percent=-1)]) as fake:
        told = ask(fake, 1)
        assert told["count"] == 2
        assert (told["driver"], told["cuda"], told["name"]) == ("580.65.06", 13000, "NVIDIA L4")
        assert (told["uuid"], told["bus"]) == (second.uuid, "00000000:11:00.0")
        assert told["capability"] == [9, 0]
        assert (told["utilization"], told["power"], told["limit"]) == (
            "Not Supported",
            312_500,
            700_000,
        )
        assert (told["temperature"], told["link"], told["mode"], told["mig"]) == (
            41,
            [5, 16],
            0,
            [0, 0],
        )
        assert (told["node"], told["cpus"]) == ([1 << 3], [0xF0, 0])


def test_memory_is_what_living_processes_hold(fake_gpu: FakeGpu) -> None:
    reserved = fake_gpu.gpus[0].memory_reserved_bytes
    assert ask(fake_gpu)["processes"] == []
    with Client(fake_gpu.environment) as client:
        client.start()
        client.made("cuMemAlloc_v2", GIB)
        told = ask(fake_gpu)
        assert told["memory"] == [80 * GIB, 79 * GIB - reserved, GIB + reserved]
        assert told["memory_v2"] == [80 * GIB, reserved, 79 * GIB - reserved, GIB]
        assert told["processes"] == [[client.pid, GIB]]
        client.kill()
    assert ask(fake_gpu)["memory"][2] == reserved
