"""Latency of a batch by model, batch size and share: MPS clients, one after the other.

Each share needs a process of its own. All import torch at the beginning, and touch the GPU only
when it is their turn. A figure is the GPU's time of a graph replay, median; shares come in an order
that leaves a rough curve whenever the time is over.
"""

from __future__ import annotations

from typing import Any

from benchmarks.gpu.models import MODELS
from benchmarks.gpu.mps import Client, Mps
from benchmarks.gpu.questions import MPS_STEP_SMS
from benchmarks.gpu.report import GpuReport
from benchmarks.gpu.step import Clock, main, needed

PERCENTS = (100, 25, 50, 10, 75, 40, 15, 60)
BUCKETS = (1, 2, 4, 8, 16, 32)
KNEE_BUCKET = 8
KNEE_SLOWDOWN = 1.1  # the smallest share that is at most so much slower than the whole GPU
_MOST_S = 15.0  # for one share


def measure(report: GpuReport, clock: Clock) -> None:
    """A row for each share, model and batch size."""
    for module in ("torch", "torchvision", "transformers"):
        needed(module)
    with Mps() as mps:
        clients = {
            percent: mps.client("curve", percent, models=list(MODELS), buckets=list(BUCKETS))
            for percent in PERCENTS
        }
        try:
            for done, percent in enumerate(PERCENTS):
                seconds = min(_MOST_S, clock.share_s(len(PERCENTS) - done))
                if seconds < 1.0:
                    break
                _one(report, clients[percent], percent, seconds)
        finally:
            for client in clients.values():
                client.kill()


def _one(report: GpuReport, client: Client, percent: int, seconds: float) -> None:
    """The rows of one share."""
    client.read()  # torch is imported
    client.go_on(seconds=seconds)
    effective: dict[str, Any] = {}
    while not (answer := client.read()).get("done"):
        if "failed" in answer:
            raise RuntimeError(f"{percent} %: {answer['failed']}")
        if "sms" in answer:
            effective = {"effective_sms": answer["sms"], "context_ms": answer["context_ms"]}
            continue
        model, bucket = answer["model"], answer["bucket"]
        report.add(
            f"{model}, batch {bucket}, {percent} %",
            **answer,
            percent=percent,
            effective_sms=effective["effective_sms"],
        )
    client.close()
    shares = report.report.settings.get("shares", {})
    report.setting(shares={**shares, str(percent): effective})
    report.headline(headline(report.rows, report.report.settings["shares"]))


def headline(rows: list[dict[str, Any]], shares: dict[str, dict[str, Any]]) -> str:
    """Each model's knee, and how near the effective SMs are to the requested ones."""
    knees = ", ".join(
        f"{model} {knee} %" for model in MODELS if (knee := knee_percent(rows, model))
    )
    text = f"knee at batch {KNEE_BUCKET}: {knees}" if knees else "no knee yet"
    whole = shares.get("100", {}).get("effective_sms")
    if not whole:
        return text
    off = max(
        abs(share["effective_sms"] - whole * int(percent) / 100)
        for percent, share in shares.items()
    )
    return f"{text}; effective SMs at most {off:.1f} from the request (a step is {MPS_STEP_SMS})"


def knee_percent(rows: list[dict[str, Any]], model: str) -> int:
    """The smallest measured share that is hardly slower than the whole GPU; 0: not measured."""
    latency: dict[int, float] = {
        row["percent"]: row["latency_us"]
        for row in rows
        if row["model"] == model and row["bucket"] == KNEE_BUCKET and "latency_us" in row
    }
    if 100 not in latency:
        return 0
    return min(p for p, us in latency.items() if us <= KNEE_SLOWDOWN * latency[100])


if __name__ == "__main__":
    main("curves", measure)
