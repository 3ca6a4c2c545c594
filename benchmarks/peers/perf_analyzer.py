"""perf_analyzer, Triton's own load client: for servers that have Triton's `ModelConfig`, too.

It measures in windows of so many requests and calls a run stable after three; the third is the last
here, stable or not. It tells percentiles up to p99, and not how many requests it sent in all.
"""

from __future__ import annotations

import csv
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.streams import Stream

WINDOWS = 3
TIMEOUT_S = 600
ANY_DEVIATION_PERCENT = 1_000_000
FOLDER = "perf-analyzer"


@dataclass(frozen=True)
class Analyzed:
    """What a run gave.

    Attributes:
        rps: Requests a second.
        p50_us: Median latency.
        p99_us: Latency at the 99th percentile.
    """

    rps: float
    p50_us: float
    p99_us: float


def find(environments: Path) -> str:
    """Where it is: among the environments, or wherever the shell finds it; empty: nowhere."""
    mine = shutil.which("perf_analyzer", path=str(environments / FOLDER / "bin"))
    return mine or shutil.which("perf_analyzer") or ""


def version(program: str) -> str:
    """What it says of itself.

    Raises:
        RuntimeError: It lacks something to run, usually libraries; the message says what.
    """
    done = subprocess.run([program, "--version"], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip())
    return (done.stdout or done.stderr).strip()


def run(program: str, address: str, stream: Stream, concurrency: int, requests: int) -> Analyzed:
    """Sends about so many requests, with random tensors; the calling process's cores are its.

    Raises:
        RuntimeError: It could not run; the message is its own.
    """
    shape = ",".join(str(size) for size in stream.array.shape)
    with tempfile.TemporaryDirectory(prefix="perf-analyzer-") as directory:
        out = Path(directory) / "out.csv"
        command = [
            *(program, "-m", stream.function, "-u", address, "-i", "grpc", "--async"),
            *(f"--concurrency-range={concurrency}:{concurrency}", "-f", str(out)),
            *(f"--shape={stream.input}:{shape}", "--measurement-mode=count_windows"),
            f"--measurement-request-count={max(concurrency, requests // WINDOWS)}",
            *(f"--max-trials={WINDOWS}", f"--stability-percentage={ANY_DEVIATION_PERCENT}"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
        if done.returncode != 0 or not out.exists():
            said = (done.stderr or done.stdout).strip().splitlines() or ["nothing"]
            raise RuntimeError(f"perf_analyzer ended with {done.returncode}: {said[-1]}")
        return parse(out.read_text())


def parse(text: str) -> Analyzed:
    """Reads its CSV.

    Raises:
        RuntimeError: It has no row, or not these columns.
    """
    row = next(csv.DictReader(text.splitlines()), {})
    try:
        return Analyzed(
            rps=float(row["Inferences/Second"]),
            p50_us=float(row["p50 latency"]),
            p99_us=float(row["p99 latency"]),
        )
    except KeyError as missing:
        raise RuntimeError(f"perf_analyzer wrote no column {missing}") from None
