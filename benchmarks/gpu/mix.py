"""Four models on one GPU under closed-loop load, through the real daemon, shared in three ways.

    shares          gslice's MPS clients, a quarter of the SMs each
    default_mps     the same workers as clients of a plain MPS daemon, without limits
    time_slicing    the same workers without MPS

Each way is a daemon of its own, so they come one after the other. The load comes over gRPC from a
process for each model; the front-ends are counted in, and are the same for all three.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.common import Row, medians
from benchmarks.cores import ROOT
from benchmarks.gpu.mps import Client, Mps
from benchmarks.gpu.report import GpuReport
from benchmarks.gpu.step import Clock, main, needed
from gslice.demo.node import ServedNode

MIX = ("resnet50", "mobilenet_v2", "densenet121", "bert_base")
WAYS = ("shares", "default_mps", "time_slicing")
CONCURRENCY = 16
BATCH_MAX = 8
FRONTENDS = 4
ROUNDS = 3
_LEAST_ROUND_S = 0.5
_MOST_ROUND_S = 3.0


def measure(report: GpuReport, clock: Clock) -> None:
    """A row for each way and model, and one for each way's sum."""
    for module in ("torch", "torchvision", "transformers"):
        needed(module)
    report.setting(concurrency=CONCURRENCY, batch_max=BATCH_MAX, frontends=FRONTENDS, rounds=ROUNDS)
    for done, way in enumerate(WAYS):
        uvloop.run(_one_way(report, way, clock.share_s(len(WAYS) - done)))
        report.headline(headline(report.rows))


@contextlib.contextmanager
def _mps_of(way: str) -> Iterator[Mps | None]:
    if way == "default_mps":
        with Mps() as mps:
            yield mps
    else:
        yield None


def functions(way: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """`functions` of the node's node.yaml.

    Args:
        way: One of WAYS.
        environment: Of the workers.
    """
    share = f"{100 // len(MIX)}%" if way == "shares" else "auto"
    return {
        name: {
            "torch": "benchmarks.gpu.models:served",
            "python_path": str(ROOT),
            "args": {"model": name},
            "device": "cuda:0",
            "share": share,
            "batch": {"max": BATCH_MAX},
            "environment": dict(environment),
        }
        for name in MIX
    }


async def _one_way(report: GpuReport, way: str, seconds: float) -> None:
    with tempfile.TemporaryDirectory(prefix="gs-mix-") as directory, _mps_of(way) as mps:
        node = ServedNode(
            Path(directory),
            functions(way, mps.environment if mps else {}),
            devices={"cuda:0": {"limiter": "mps" if way == "shares" else "none"}},
            node={"frontends": FRONTENDS},
        )
        budget = Clock(seconds)
        async with node:
            status = await node.refresh()
            pids = {f.name: f.workers[0].pid for f in status.functions}
            if mps is not None and not set(pids.values()) <= set(mps.clients()):
                raise RuntimeError("the workers are no clients of the plain MPS daemon")
            effective = {f.name: round(f.share_effective_percent, 1) for f in status.functions}
            rounds = min(_MOST_ROUND_S, max(_LEAST_ROUND_S, budget.left_s / (ROUNDS + 1)))
            loads = _load(node.grpc_address, rounds)
    for name in MIX:
        figures = medians([load[name] for load in loads], ("rps", "p99_us"))
        report.add(f"{way}, {name}", way=way, share_effective_percent=effective[name], **figures)
    total = medians([{"rps": sum(load[name]["rps"] for name in MIX)} for load in loads], ("rps",))
    report.add(f"{way}, all", way=way, **total)


def _load(address: str, round_s: float) -> list[dict[str, Row]]:
    """Figures of each round by function, all four under load at once."""
    clients = {
        name: Client(
            *("caller", {}), address=address, function=name, model=name, concurrency=CONCURRENCY
        )
        for name in MIX
    }
    try:
        for client in clients.values():
            _answer(client)
        return [_round(clients, round_s) for _ in range(ROUNDS)]
    finally:
        for client in clients.values():
            client.kill()


def _round(clients: Mapping[str, Client], seconds: float) -> dict[str, Row]:
    for client in clients.values():
        client.go_on(seconds=seconds)
    return {name: _answer(client) for name, client in clients.items()}


def _answer(client: Client) -> Row:
    if "failed" in (answer := client.read()):
        raise RuntimeError(f"a load client: {answer['failed']}")
    return answer


def headline(rows: list[Row]) -> str:
    """Requests a second of all four together, way by way, and the worst p99."""
    told = []
    for way in WAYS:
        mine = [row for row in rows if row["way"] == way]
        if mine:
            worst_us = max(row["p99_us"] for row in mine if "p99_us" in row)
            told.append(
                f"{way} {mine[-1]['rps']:.0f} requests/s, worst p99 {worst_us / 1e3:.1f} ms"
            )
    return "; ".join(told)


if __name__ == "__main__":
    main("mix", measure)
