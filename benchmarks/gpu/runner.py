"""Runs one step in a process of its own, within its time, and leaves nothing of it behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.cores import ROOT
from benchmarks.gpu.report import StepFile

GRACE_S = 8.0
"""How long a step that was told to end may take to stop its servers."""
_MARK = "GSLICE_GPU_STEP"
_SOFT_PART = 0.85  # of its budget, which a step plans with; the rest is for starting and ending


@dataclass(frozen=True)
class Outcome:
    """How a step went.

    Attributes:
        name: Of the step.
        outcome: `ok`, `failed`, `timed out`, `interrupted` or `not run`.
        seconds: How long it took.
        budget_s: How long it was given.
        headline: Its answer in a line, or why there is none.
        left_behind: Processes that it left and that had to be ended.
    """

    name: str
    outcome: str
    seconds: float
    budget_s: float
    headline: str
    left_behind: int = 0


def run_step(name: str, module: str, folder: Path, budget_s: float) -> Outcome:
    """Runs a step; whatever happens to it is an outcome, Ctrl-C included.

    Args:
        name: Of the step; the result goes to `folder`/`name`.json, what it prints to .log.
        module: What `python -m` runs.
        folder: An existing directory.
        budget_s: After so long it is ended.
    """
    file = StepFile(folder / f"{name}.json")
    file.discard()
    log = folder / f"{name}.log"
    mark = f"{folder.resolve()}/{name}/{os.getpid()}"
    start = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", module, "--json", str(file.path)),
                *("--seconds", f"{budget_s * _SOFT_PART:.1f}"),
            ],
            cwd=ROOT,
            env={**os.environ, _MARK: mark},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is the runner's to handle
        )
        outcome = "interrupted"
        try:
            code = process.wait(budget_s)
            outcome = "ok" if code == 0 else "failed"
        except subprocess.TimeoutExpired:
            outcome = "timed out"
        except KeyboardInterrupt:
            pass
        finally:
            left = _end(process, mark)
    seconds = time.monotonic() - start
    headline = file.headline()
    if outcome == "failed":
        headline = _last_line(log) or headline
    elif outcome != "ok" and not headline:
        headline = f"{file.rows()} rows were ready"
    return Outcome(name, outcome, round(seconds, 1), round(budget_s, 1), headline, left)


def _end(process: subprocess.Popen[bytes], mark: str) -> int:
    """Ends a step and what it started; how many of these had outlived it."""
    if process.poll() is None:
        process.terminate()  # its own servers are stopped by the step, in their order
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    left = _marked(mark)
    for number in (signal.SIGTERM, signal.SIGKILL):
        for survivor in left:
            try:
                survivor.send_signal(number)
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(left, GRACE_S / 2)
    return len(left)


def _marked(mark: str) -> list[psutil.Process]:
    """Processes of a step: MPS daemons and servers leave its session, but keep its environment."""
    entry = f"{_MARK}={mark}".encode()
    found = []
    for process in psutil.process_iter():
        try:
            environment = Path(f"/proc/{process.pid}/environ").read_bytes()
        except OSError:  # gone meanwhile, or another user's
            continue
        if entry in environment.split(b"\0"):
            found.append(process)
    return found


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
