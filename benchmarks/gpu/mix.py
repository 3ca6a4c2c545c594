"""Four models on one GPU through the real daemon, shared in three ways: who answers most in time?

    time_slicing    the workers without MPS
    shares          gslice's MPS clients, a quarter of the SMs each
    default_mps     the same workers as clients of a plain MPS daemon, without limits

Each way is a daemon of its own, so they come one after the other. The load comes over gRPC from a
process for each model; the front-ends are counted in, and are the same for all three.

On the first node each model is measured by itself: its SLO is a multiple of what a single request
takes there, and load 1 is a quarter of what it can do there, so that the four together would fill
the GPU. All ways then get the same Poisson loads. An answer is in time within the SLO of when its
request was due; `goodput_rps` is how many a second were, and a way's goodput is its best over the
loads. The bars are how many times that of another way gslice's has to be.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.common import Row
from benchmarks.cores import ROOT
from benchmarks.gpu.mps import Client, Mps
from benchmarks.gpu.report import GpuReport
from benchmarks.gpu.step import Clock, main, needed
from benchmarks.load import ONE_CONNECTION
from gslice.demo.node import ServedNode

MIX = ("resnet50", "mobilenet_v2", "densenet121", "bert_base")
GSLICE = "shares"
WAYS = ("time_slicing", GSLICE, "default_mps")
BARS = {"time_slicing": 3.0, "default_mps": 1.5}
"""How many times a way's goodput gslice's has to be."""
CONCURRENCY = 16
BATCH_MAX = 8
FRONTENDS = 4
SLO_TIMES = 8.0
"""An SLO is so many times what a single request takes alone."""
LOADS = (0.5, 1.0, 1.5, 2.0, 3.0)
_ALONE_S = 0.5
_LEAST_ROUND_S = 0.5
_MOST_ROUND_S = 3.0


@dataclass(frozen=True)
class Target:
    """What is asked of a model.

    Attributes:
        slo_us: Its SLO.
        rate_per_s: At load 1.
    """

    slo_us: float
    rate_per_s: float


def measure(report: GpuReport, clock: Clock) -> None:
    """A row for each way and load."""
    for module in ("torch", "torchvision", "transformers"):
        needed(module)
    report.setting(batch_max=BATCH_MAX, frontends=FRONTENDS, slo_times=SLO_TIMES, bars=BARS)
    targets: dict[str, Target] = {}
    for done, way in enumerate(WAYS):
        uvloop.run(_one_way(report, way, targets, clock.share_s(len(WAYS) - done)))
        report.headline(headline(report.rows))
        report.setting(bars_met={base: met for base, _, met in verdicts(report.rows)})


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
    share = f"{100 // len(MIX)}%" if way == GSLICE else "auto"
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


async def _one_way(report: GpuReport, way: str, targets: dict[str, Target], seconds: float) -> None:
    """The rows of one way; the first also finds the targets of all."""
    with tempfile.TemporaryDirectory(prefix="gs-mix-") as directory, _mps_of(way) as mps:
        node = ServedNode(
            Path(directory),
            functions(way, mps.environment if mps else {}),
            devices={"cuda:0": {"limiter": "mps" if way == GSLICE else "none"}},
            node={"frontends": FRONTENDS, **ONE_CONNECTION},
        )
        budget = Clock(seconds)
        async with node:
            status = await node.refresh()
            pids = {f.name: f.workers[0].pid for f in status.functions}
            if mps is not None and not set(pids.values()) <= set(mps.clients()):
                raise RuntimeError("the workers are no clients of the plain MPS daemon")
            effective = {f.name: round(f.share_effective_percent, 1) for f in status.functions}
            report.setting(**{f"share_effective_percent {way}": effective})
            with _callers(node.grpc_address) as callers:
                if not targets:
                    targets.update({name: target_of(callers[name]) for name in MIX})
                    report.setting(targets={name: vars(of) for name, of in targets.items()})
                for done, load in enumerate(LOADS):
                    # What an overloaded round leaves in queues takes time to be answered, too.
                    round_s = budget.share_s(len(LOADS) - done) / 2
                    round_s = min(_MOST_ROUND_S, max(_LEAST_ROUND_S, round_s))
                    answers = ask(callers, targets, load, round_s)
                    report.add(f"{way}, load {load:g}", **figures(way, load, answers, round_s))


@contextlib.contextmanager
def _callers(address: str) -> Iterator[dict[str, Client]]:
    """A process for each model, connected."""
    callers = {
        name: Client("caller", {}, address=address, function=name, model=name) for name in MIX
    }
    try:
        for caller in callers.values():
            _answer(caller)
        yield callers
    finally:
        for caller in callers.values():
            caller.kill()


def target_of(caller: Client) -> Target:
    """By what a model does while the others are idle: one request at a time, then many."""
    caller.go_on(seconds=_ALONE_S, concurrency=1)
    alone_us = _answer(caller)["p50_us"]
    caller.go_on(seconds=_ALONE_S, concurrency=CONCURRENCY)
    return Target(SLO_TIMES * alone_us, _answer(caller)["rps"] / len(MIX))


def ask(
    callers: Mapping[str, Client], targets: Mapping[str, Target], load: float, seconds: float
) -> dict[str, Row]:
    """All models at a load at once; the arrivals are the same in each way.

    Returns:
        Of each model, how many requests were `sent`, `answered` and `in_time`, and `p99_us`.
    """
    for seed, (name, caller) in enumerate(callers.items()):
        target = targets[name]
        rate_per_s = load * target.rate_per_s
        caller.go_on(seconds=seconds, rate_per_s=rate_per_s, slo_us=target.slo_us, seed=seed)
    return {name: _answer(caller) for name, caller in callers.items()}


def _answer(caller: Client) -> Row:
    if "failed" in (answer := caller.read()):
        raise RuntimeError(f"a load client: {answer['failed']}")
    return answer


def figures(way: str, load: float, answers: Mapping[str, Row], seconds: float) -> Row:
    """The row of a round.

    Args:
        way: One of WAYS.
        load: One of LOADS.
        answers: What each model's clients got.
        seconds: For how long they asked.
    """

    def per_s(figure: str) -> float:
        return round(sum(float(answer[figure]) for answer in answers.values()) / seconds, 1)

    row: Row = {"way": way, "load": load, "goodput_rps": per_s("in_time")}
    row |= {"sent_rps": per_s("sent"), "answered_rps": per_s("answered")}
    for name, answer in answers.items():
        row[f"{name}_in_time_percent"] = round(100 * answer["in_time"] / max(1, answer["sent"]), 1)
        row[f"{name}_p99_ms"] = round(answer["p99_us"] / 1e3, 1)
    return row


def goodput_rps(rows: Sequence[Row]) -> dict[str, float]:
    """The best of each way that was measured."""
    best: dict[str, float] = {}
    for row in rows:
        best[row["way"]] = max(best.get(row["way"], 0.0), row["goodput_rps"])
    return best


def verdicts(rows: Sequence[Row]) -> list[tuple[str, float, bool]]:
    """For each bar: the other way, how many times its goodput gslice's is, whether that will do."""
    best = goodput_rps(rows)
    ratios = {
        base: best[GSLICE] / max(best[base], 0.1) for base in BARS if {base, GSLICE} <= best.keys()
    }
    return [(base, round(ratio, 2), ratio >= BARS[base]) for base, ratio in ratios.items()]


def headline(rows: Sequence[Row]) -> str:
    """The goodput of each way, and how it stands with the bars."""
    told = [f"{way} {rps:.0f}/s in time" for way, rps in goodput_rps(rows).items()]
    told += [
        f"{ratio:g} times {base} (bar {BARS[base]:g}: {'pass' if met else 'fail'})"
        for base, ratio, met in verdicts(rows)
    ]
    return "; ".join(told)


if __name__ == "__main__":
    main("mix", measure)
