"""What sharing weights saves: functions of one model, loaded one by one, each way on a fresh node.

    shared    as gslice does it: the first worker of the model makes a block, the others map it
    own       with `share_weights: false`: a copy for each

`gpu_bytes` is by how much NVML's memory in use grew with a load, with the worker's context and all
that its library takes; so nobody else may use the GPU. `weights_bytes` and `shared_weights_bytes`
are what gslice says of the function. `load_ms` is a whole load, process and import included.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.common import Row
from benchmarks.cores import ROOT
from benchmarks.gpu import mps
from benchmarks.gpu.report import GpuReport
from benchmarks.gpu.step import Clock, Skipped, main, needed
from gslice.client.control import Control
from gslice.core.errors import LoadFailed
from gslice.demo.node import ServedNode
from gslice.device.inventory import read_inventory
from gslice.device.nvml import Nvml

WAYS = ("shared", "own")
FUNCTIONS = 3
HEAVY_BYTES = 256 << 20
MODEL = "vgg19"  # of the suite's, the one with the most weights
GPU = "cuda:0"
MIB = 1 << 20
_HERE = {"cpu": {"limiter": "none"}}
_IDLE = {"identity": {"inputs": [{"name": "x", "dtype": "FP32", "dims": [-1, 8]}]}, "device": "cpu"}


def subjects() -> dict[str, dict[str, Any]]:
    """Bodies of functions in node.yaml, by what they are; torch's only where torch has a GPU."""
    place = {"python_path": str(ROOT), "device": GPU, "share": f"{90 // FUNCTIONS}%"}
    torch = {"torch": "benchmarks.gpu.models:served", "args": {"model": MODEL}, "batch": {"max": 4}}
    heavy = {"python": "benchmarks.gpu.heavy:Heavy", "args": {"size_bytes": HEAVY_BYTES}}
    found = {MODEL: {**torch, **place}} if _torch_has_gpu() else {}
    return found | {"plain weights": {**heavy, **place}}


def _torch_has_gpu() -> bool:
    try:
        needed("torchvision")  # the model's
        return bool(needed("torch").cuda.is_available())
    except Skipped:
        return False


def measure(report: GpuReport, clock: Clock) -> None:
    """A row for each load, and one with what was saved for each subject."""
    chosen = subjects()
    report.setting(functions=FUNCTIONS)
    if MODEL not in chosen:
        report.setting(skipped=f"{MODEL}: torch with a GPU and torchvision are not here")
    left = len(chosen) * len(WAYS)
    with _memory() as used_bytes:
        for subject, body in chosen.items():
            loads: dict[str, list[Row]] = {}
            for way in WAYS:
                loads[way] = uvloop.run(load_all(body, way, used_bytes, clock.share_s(left)))
                left -= 1
                for number, figures in enumerate(loads[way], 1):
                    report.add(f"{subject}, {way}, load {number}", way=way, **figures)
            report.add(f"{subject}, saved", **saved(loads))
            report.headline(headline(report.rows))


@contextlib.contextmanager
def _memory() -> Iterator[Any]:
    """What reads the memory in use of the first GPU, by NVML."""
    uuid = read_inventory().gpu(GPU).uuid
    nvml = Nvml()
    try:
        yield lambda: nvml.reading(uuid).memory_used_bytes
    finally:
        nvml.close()


async def load_all(body: Mapping[str, Any], way: str, used_bytes: Any, seconds: float) -> list[Row]:
    """Loads functions one by one on a fresh node, and looks at the GPU after each.

    Args:
        body: Of each, in node.yaml.
        way: One of WAYS.
        used_bytes: Reads the memory in use.
        seconds: After so long no more than the second is loaded.
    """
    limiter = "mps" if mps.is_installed() else "none"
    devices = {GPU: {"limiter": limiter, "share_weights": way == "shared"}, **_HERE}
    clock = Clock(seconds)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="gs-weights-") as directory:
        # A spare would hide what a load takes, and take memory of its own.
        node = ServedNode(Path(directory), {"idle": _IDLE}, devices=devices, node={"spares": 0})
        async with node:
            before = used_bytes()
            for name in (f"f{number}" for number in range(FUNCTIONS)):
                if len(rows) >= 2 and clock.left_s <= 0:
                    break
                begun = time.perf_counter()
                await asyncio.to_thread(_load, Path(directory) / "state", name, body)
                load_ms = (time.perf_counter() - begun) * 1e3
                after, status = used_bytes(), await node.refresh()
                (function,) = (f for f in status.functions if f.name == name)
                rows.append(
                    {
                        "load_ms": round(load_ms, 1),
                        "gpu_bytes": after - before,
                        "weights_bytes": function.memory.weights_bytes,
                        "shared_weights_bytes": function.memory.shared_weights_bytes,
                    }
                )
                before = after
    return rows


def _load(state: Path, name: str, body: Mapping[str, Any]) -> None:
    with Control(state) as control:
        *_, last = control.load(name, json.dumps(body))
    if last.name != "done":
        raise LoadFailed(f"{name}: {last.detail}")


def saved(loads: Mapping[str, Sequence[Row]]) -> Row:
    """What sharing saves: of all functions together, of each after the first, and of its load.

    Args:
        loads: Of each way.
    """
    count = min(len(rows) for rows in loads.values())
    shared, own = (loads[way][:count] for way in WAYS)
    block = shared[0]["shared_weights_bytes"]
    return {
        "functions": count,
        "block_bytes": block,
        "expected_saved_bytes": block * (count - 1),
        "saved_bytes": _sum(own) - _sum(shared),
        "own_bytes": _sum(own),
        "shared_bytes": _sum(shared),
        "saved_bytes_each": round(_each(own, "gpu_bytes") - _each(shared, "gpu_bytes")),
        "own_load_ms": _each(own, "load_ms"),
        "shared_load_ms": _each(shared, "load_ms"),
    }


def _sum(rows: Sequence[Row]) -> int:
    return sum(int(row["gpu_bytes"]) for row in rows)


def _each(rows: Sequence[Row], figure: str) -> float:
    """Of those after the first, which makes the block and meets an empty GPU."""
    return round(float(statistics.median(row[figure] for row in rows[1:])), 1)


def headline(rows: Sequence[Row]) -> str:
    """What was saved, subject by subject."""
    told = []
    for row in rows:
        if "saved_bytes" in row:
            subject = row["name"].removesuffix(", saved")
            told.append(
                f"{row['functions']} x {subject}: {row['shared_bytes'] / MIB:.0f} MiB instead of"
                f" {row['own_bytes'] / MIB:.0f}, {row['saved_bytes'] / MIB:.0f} saved (weights say"
                f" {row['expected_saved_bytes'] / MIB:.0f}); a further load"
                f" {row['shared_load_ms']:.0f} ms instead of {row['own_load_ms']:.0f}"
            )
    return "; ".join(told)


if __name__ == "__main__":
    main("weights", measure)
