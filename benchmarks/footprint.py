"""What does gslice cost at rest? `python -m benchmarks.footprint`

Resident memory of the idle daemon and front-end; the time from starting `gslice serve` to the first
accepted connection, and to the model being ready; how long `gslice --help` takes; and how much more
memory a worker holds than a plain script with the same imports and the same model after one
inference. Both of these are alive while their proportional set sizes are read, so that what they
share is split evenly. One start before the first that counts warms bytecode and file caches.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import uvloop

from benchmarks.bare import bare_onnxruntime
from benchmarks.common import Report, Row, arguments, finish, medians
from benchmarks.cores import two_cores
from gslice.demo.assets import find
from gslice.demo.node import ServedNode

QUESTION = "What does gslice cost at rest?"
SHAPES = {"x": [1, 3, 224, 224]}
MIB = 1 << 20


async def measure() -> Row:
    """One start and stop of a node with one model, beside a plain script with the same model."""
    model = find().detector
    core = two_cores().server
    with (
        tempfile.TemporaryDirectory(prefix="gslice-bench-") as directory,
        bare_onnxruntime(model, SHAPES, core) as bare,
    ):
        address = ("127.0.0.1", _free_port())
        node = ServedNode(
            Path(directory),
            {"detector": {"model": str(model), "threads": 1}},
            grpc_address=f"{address[0]}:{address[1]}",
            node={"spares": 0},  # with which a worker shares pages
        )
        start = time.perf_counter()
        async with asyncio.timeout(60):
            await node.start()
            try:
                await asyncio.to_thread(_connect, address)
                accepting_s = time.perf_counter() - start
                await node.wait_ready()
                ready_s = time.perf_counter() - start
                return {
                    "accepting_s": accepting_s,
                    "ready_s": ready_s,
                    "model_load_s": bare.load_s,
                    "help_ms": await asyncio.to_thread(_help_ms),
                    **_memory(await node.refresh(), bare.pid),
                }
            finally:
                await node.stop()


def _memory(status: Any, plain_pid: int) -> Row:
    worker = psutil.Process(status.functions[0].workers[0].pid).memory_full_info()
    plain = psutil.Process(plain_pid).memory_full_info()
    return {
        "daemon_rss_mb": psutil.Process(status.pid).memory_info().rss / MIB,
        "frontend_rss_mb": psutil.Process(status.frontends[0].pid).memory_info().rss / MIB,
        "worker_pss_mb": worker.pss / MIB,
        "plain_pss_mb": plain.pss / MIB,
        "worker_added_pss_mb": (worker.pss - plain.pss) / MIB,
        "worker_added_uss_mb": (worker.uss - plain.uss) / MIB,
    }


def _help_ms() -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "gslice", "--help"], capture_output=True, check=True)
    return (time.perf_counter() - start) * 1e3


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _connect(address: tuple[str, int]) -> None:
    """Connects as soon as somebody listens. A closed port refuses at once: this spins, briefly."""
    deadline = time.perf_counter() + 60
    while time.perf_counter() < deadline:
        try:
            socket.create_connection(address).close()
        except ConnectionRefusedError:
            time.sleep(0.002)
        else:
            return
    raise TimeoutError(f"nobody listened at {address}")


def main() -> None:
    options = arguments(__doc__ or "").parse_args()
    repeats, warm_ups = (1, 0) if options.quick else (5, 1)
    report = Report(QUESTION, {"repeats": repeats, "warm_ups": warm_ups})
    # The very first start after an installation compiles bytecode, a second of CPU, and keeps it.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    for _ in range(warm_ups):
        uvloop.run(measure())
    runs = [uvloop.run(measure()) for _ in range(repeats)]
    row = medians(runs, ("accepting_s", "ready_s", "help_ms"))
    report.rows = [{"name": "pp-ocr detector", **row}]
    finish(report, options.json)


if __name__ == "__main__":
    main()
