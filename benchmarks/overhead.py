"""What does gslice add to an inference? `python -m benchmarks.overhead --json OUT [--quick]`

Every process of the server runs on one core, the load client on another. The subjects take turns,
A B A B, with a bare grpc.aio echo server among them: whatever it costs is the price of gRPC in
Python on this machine. The load client (benchmarks/http2.py) sends bytes that were laid out
beforehand and decodes nothing; its own processor time is `client_cpu_us`.

`engine_us` is the mean time that a batch spent in the engine, from the function's own counters.
`added_us` is p50 minus that: with one call in flight it is what the server and gRPC add; with more
it contains waiting for the engine and for the core. `copies_per_request` counts the copies of a
tensor inside the server's processes: those that gslice counts itself, and gRPC's own two.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from benchmarks.common import Report, Row, arguments, finish, medians
from benchmarks.cores import Cores, two_cores
from benchmarks.echo import METHOD, echo_server
from benchmarks.http2 import Connection, Request
from benchmarks.load import INFER, ONE_CONNECTION, Load, closed_loop
from benchmarks.wire import (
    LARGE_BYTES,
    SMALL_BYTES,
    Counters,
    infer_request,
    open_segment,
    raw_outputs,
)
from gslice.demo.assets import find
from gslice.demo.node import ServedNode

QUESTION = "What does gslice add to an inference? (server on one core, client on another)"
SPREAD_OF = ("p50_us",)

GRPC_COPIES = 2  # from its network buffers to Python bytes, and back


@dataclass(frozen=True)
class Subject:
    """Something to measure.

    Attributes:
        name: In the rows.
        function: Served name; empty for the echo server.
        payload: The serialised request.
        payload_bytes: Of its tensors.
        answer: What comes back, where that is known: the tensor, or the echoed bytes.
    """

    name: str
    function: str
    payload: bytes
    payload_bytes: int
    answer: bytes | None = None

    def check(self, answer: bytes) -> None:
        """Refuses to measure a server that answers something else."""
        got = raw_outputs(answer)[0] if self.function else answer
        if not got or self.answer not in (None, got):
            raise RuntimeError(f"{self.name} gave a wrong answer of {len(got)} bytes")


def subjects() -> list[Subject]:
    """Echo, identity and a real model, small and large."""
    image = np.random.default_rng(0).random((1, 3, 224, 224), np.float32)
    file_bytes = np.random.default_rng(1).integers(0, 256, (1, 2048), np.int32)
    small = np.zeros((1, SMALL_BYTES // 4), np.float32)
    return [
        _echo(SMALL_BYTES),
        _served("identity", "identity_small", {"x": small}),
        _served("magika", "magika", {"bytes": file_bytes}),
        _echo(LARGE_BYTES),
        _served("identity", "identity_large", {"x": image}),
        _served("pp-ocr detector", "detector", {"x": image}),
    ]


def functions() -> dict[str, Any]:
    """`functions` of the node's node.yaml."""
    assets = find()

    def identity(dims: list[int]) -> dict[str, Any]:
        return {"identity": {"inputs": [{"name": "x", "dtype": "FP32", "dims": dims}]}}

    return {
        "identity_small": identity([-1, SMALL_BYTES // 4]),
        "identity_large": identity([-1, 3, 224, 224]),
        "magika": {"model": str(assets.filetype)},
        "detector": {"model": str(assets.detector)},
    }


async def measure(
    cores: Cores, concurrencies: Sequence[int], seconds: float, repeats: int
) -> list[Row]:
    """All rows: for each concurrency the subjects take turns, `repeats` times."""
    os.sched_setaffinity(0, {cores.client})
    rows: list[Row] = []
    with (
        tempfile.TemporaryDirectory(prefix="gslice-bench-") as directory,
        echo_server(cores.server) as echo_address,
    ):
        node = ServedNode(
            Path(directory),
            functions(),
            devices={"cpu": {"limiter": "none"}},  # the subjects take turns: none needs a share
            cores={cores.server},
            node={"spares": 0, **ONE_CONNECTION},  # nothing else computes meanwhile
        )
        async with node:
            for concurrency in concurrencies:
                runs: dict[Subject, list[Row]] = {subject: [] for subject in subjects()}
                for _ in range(repeats):
                    for subject, figures in runs.items():
                        if subject.function:
                            run = _run_served(node, subject, concurrency, seconds)
                        else:
                            run = _run_echo(echo_address, subject, concurrency, seconds)
                        figures.append(await run)
                rows += [_row(s, concurrency, figures) for s, figures in runs.items()]
    return rows


async def _run_echo(address: str, subject: Subject, concurrency: int, seconds: float) -> Row:
    load = await _load(Request(address, METHOD, subject.payload), subject, concurrency, seconds)
    return _figures(load, engine_us=0.0, copies=GRPC_COPIES)


async def _run_served(node: ServedNode, subject: Subject, concurrency: int, seconds: float) -> Row:
    segment = open_segment(node.pid, subject.function)
    request = Request(node.grpc_address, INFER, subject.payload)
    before = Counters.read(segment)
    load = await _load(request, subject, concurrency, seconds)
    after = Counters.read(segment)
    return _figures(
        load,
        engine_us=after.compute_mean_us_since(before),
        copies=after.copies_per_request_since(before) + GRPC_COPIES,
    )


async def _load(request: Request, subject: Subject, concurrency: int, seconds: float) -> Load:
    async with await Connection.connect(request.authority) as connection:
        subject.check(await connection.call(request, keep=True))
        await closed_loop(connection, request, concurrency, seconds / 5)  # warm up
        return await closed_loop(connection, request, concurrency, seconds)


def _figures(load: Load, engine_us: float, copies: float) -> Row:
    return {
        "rps": load.rps,
        "p50_us": load.p50_us,
        "p99_us": load.p99_us,
        "engine_us": engine_us,
        "added_us": load.p50_us - engine_us,
        "copies_per_request": copies,
        "client_cpu_us": load.client_cpu_us,
    }


def _row(subject: Subject, concurrency: int, figures: Sequence[Row]) -> Row:
    return {
        "name": subject.name,
        "payload_bytes": subject.payload_bytes,
        "concurrency": concurrency,
        **medians(figures, SPREAD_OF),
    }


def _echo(size: int) -> Subject:
    return Subject("grpc.aio echo", "", bytes(size), size, bytes(size))


def _served(name: str, function: str, inputs: dict[str, Any]) -> Subject:
    size = sum(array.nbytes for array in inputs.values())
    answer = inputs["x"].tobytes() if name == "identity" else None
    return Subject(name, function, infer_request(function, inputs), size, answer)


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one run")
    options = parser.parse_args()
    concurrencies, seconds, repeats = (
        ((1,), 0.05, 1) if options.quick else ((1, 8, 32), options.seconds, 3)
    )
    cores = two_cores()
    settings = {"seconds": seconds, "repeats": repeats, "cores": vars(cores)}
    report = Report(QUESTION, settings)
    report.rows = uvloop.run(measure(cores, concurrencies, seconds, repeats))
    finish(report, options.json)


if __name__ == "__main__":
    main()
