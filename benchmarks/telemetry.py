"""What does telemetry cost? `python -m benchmarks.telemetry --json OUT [--tracing] [--quick]`

Every process of the server runs on one core, the load client on another. The arms take turns, A B
A B: a node that nobody scrapes, the same node scraped once a second, and with `--tracing` one that
traces a request in a hundred, to a collector on the client's core that throws spans away. The
function is an identity with small tensors: what a request costs besides is as little as can be, so
the part that telemetry takes is as large as can be.

`cost_percent` is the median, over the turns, of how much fewer requests a second an arm answers
than the first arm in the same turn; `scrape_ms` how long a scrape takes, while requests are served.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import grpc.aio
import numpy as np
import uvloop

from benchmarks.common import Report, Row, arguments, finish, medians
from benchmarks.cores import Cores, two_cores
from benchmarks.http2 import Connection, Request
from benchmarks.load import INFER, ONE_CONNECTION, Load, closed_loop
from benchmarks.wire import SMALL_BYTES, infer_request, raw_outputs
from gslice.demo.node import ServedNode

QUESTION = "What does telemetry cost? (server on one core, client on another)"
SPREAD_OF = ("rps",)
PLAIN, SCRAPED, TRACED = "not scraped", "scraped each second", "traced, one in a hundred"
SAMPLE = 0.01
CONCURRENCY = 32
_FUNCTION = "identity"
_PERIOD_S = 1.0


def functions() -> dict[str, object]:
    """`functions` of the node's node.yaml."""
    tensor = {"name": "x", "dtype": "FP32", "dims": [-1, SMALL_BYTES // 4]}
    return {_FUNCTION: {"identity": {"inputs": [tensor]}}}


async def measure(cores: Cores, arms: Sequence[str], seconds: float, repeats: int) -> list[Row]:
    """A row an arm."""
    os.sched_setaffinity(0, {cores.client})
    runs: dict[str, list[Row]] = {arm: [] for arm in arms}
    async with contextlib.AsyncExitStack() as stack:
        plain = await stack.enter_async_context(_node(cores, {}))
        nodes = {PLAIN: plain, SCRAPED: plain}
        if TRACED in arms:
            url = await stack.enter_async_context(_collector())
            tracing = {"tracing": {"otlp": url, "sample": SAMPLE}}
            nodes[TRACED] = await stack.enter_async_context(_node(cores, tracing))
        for _ in range(repeats):
            for arm in arms:
                runs[arm].append(await _run(nodes[arm], seconds, scraped=arm == SCRAPED))
    return [{"name": arm, **_figures(runs, arm)} for arm in arms]


def _figures(runs: dict[str, list[Row]], arm: str) -> Row:
    first = next(iter(runs.values()))
    costs = [100 * (1 - b["rps"] / a["rps"]) for a, b in zip(first, runs[arm], strict=True)]
    return {**medians(runs[arm], SPREAD_OF), "cost_percent": round(statistics.median(costs), 2)}


async def _run(node: ServedNode, seconds: float, *, scraped: bool) -> Row:
    took_s: list[float] = []
    scraping: asyncio.Task[None] | None = None
    if scraped:
        scraping = asyncio.create_task(_scrape(node.status.metrics_address, took_s))
    try:
        load = await _load(node, seconds)
    finally:
        if scraping is not None:
            scraping.cancel()
            await asyncio.gather(scraping, return_exceptions=True)
    return {
        "rps": load.rps,
        "p50_us": load.p50_us,
        "p99_us": load.p99_us,
        "scrapes": len(took_s),
        "scrape_ms": 1000 * statistics.median(took_s) if took_s else 0.0,
    }


async def _load(node: ServedNode, seconds: float) -> Load:
    x = np.ones((1, SMALL_BYTES // 4), np.float32)
    request = Request(node.grpc_address, INFER, infer_request(_FUNCTION, {"x": x}))
    async with await Connection.connect(request.authority) as connection:
        answer = await connection.call(request, keep=True)
        if raw_outputs(answer) != [x.tobytes()]:
            raise RuntimeError(f"a wrong answer of {len(answer)} bytes")
        await closed_loop(connection, request, CONCURRENCY, seconds / 5)  # warm up
        return await closed_loop(connection, request, CONCURRENCY, seconds)


async def _scrape(address: str, took_s: list[float]) -> None:
    """Reads the page once a second, and does not look at it."""
    host, _, port = address.rpartition(":")
    while True:
        begun_s = time.monotonic()
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n".encode())
        page = await reader.read(-1)
        writer.close()
        if b"gslice_requests_total" not in page:
            raise RuntimeError("what was scraped is no page of metrics")
        took_s.append(time.monotonic() - begun_s)
        await asyncio.sleep(max(0.0, _PERIOD_S - took_s[-1]))


@contextlib.asynccontextmanager
async def _node(cores: Cores, settings: Mapping[str, object]) -> AsyncIterator[ServedNode]:
    with tempfile.TemporaryDirectory(prefix="gslice-bench-") as directory:
        node = ServedNode(
            Path(directory),
            functions(),
            devices={"cpu": {"limiter": "none"}},
            cores={cores.server},
            node={"spares": 0, "http": "off", **ONE_CONNECTION, **settings},
        )
        async with node:
            yield node


@contextlib.asynccontextmanager
async def _collector() -> AsyncIterator[str]:
    """Takes whatever is exported; the URL."""

    async def export(_request: bytes, _context: object) -> bytes:
        return b""  # an empty answer: all was taken

    handler = grpc.unary_unary_rpc_method_handler(export)
    service = "opentelemetry.proto.collector.trace.v1.TraceService"
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {"Export": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await server.stop(None)


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of one run")
    parser.add_argument("--repeats", type=int, default=9, help="turns")
    parser.add_argument("--tracing", action="store_true", help="needs gslice[otel]")
    options = parser.parse_args()
    seconds, repeats = (0.05, 1) if options.quick else (options.seconds, options.repeats)
    arms = (PLAIN, SCRAPED, TRACED) if options.tracing else (PLAIN, SCRAPED)
    cores = two_cores()
    settings = {
        "seconds": seconds,
        "repeats": repeats,
        "concurrency": CONCURRENCY,
        "cores": vars(cores),
    }
    report = Report(QUESTION, settings)
    report.rows = uvloop.run(measure(cores, arms, seconds, repeats))
    finish(report, options.json)


if __name__ == "__main__":
    main()
