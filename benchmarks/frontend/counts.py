"""What a request costs, counted: system calls, allocations, context switches, copies of tensors."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import struct
import subprocess
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import Row
from benchmarks.cores import Cores, pinned
from benchmarks.frontend.bare import bare_echo
from benchmarks.frontend.built import built
from benchmarks.frontend.h2load import Width
from benchmarks.frontend.identity import Case, functions, node_of, payload_of, served_subject
from benchmarks.frontend.processes import context_switches, roles
from benchmarks.frontend.turns import WARM_UP_REQUESTS, Subject
from benchmarks.http2 import Request
from benchmarks.load import INFER
from benchmarks.wire import Counters, open_segment
from gslice.core.errors import FailedPrecondition

REQUESTS = 2000
DIRECTORY = "GSLICE_COUNT_ALLOCATIONS"


@dataclass(frozen=True)
class Calls:
    """System calls of one process, as strace counted them.

    Attributes:
        by_name: How many of each.
    """

    by_name: Mapping[str, int]

    @classmethod
    def parse(cls, summary: str) -> Calls:
        """The table of `strace -c`: %, seconds, usecs/call, calls, errors if any, name."""
        rows = [line.split() for line in summary.splitlines()]
        counted = [row for row in rows if len(row) in (5, 6) and row[3].isdigit()]
        return cls({row[-1]: int(row[3]) for row in counted if row[-1] != "total"})

    def figures(self, role: str, requests: int) -> Row:
        """All of them, and the most frequent by name, a request."""
        ordered = sorted(self.by_name.items(), key=lambda item: -item[1])
        often = [f"{name} {count / requests:.2f}" for name, count in ordered[:6]]
        total = sum(self.by_name.values()) / requests
        return {f"{role}_system_calls": round(total, 3), f"{role}_most": ", ".join(often)}


async def measure(kinds: Sequence[str], cases: Sequence[Case], cores: Cores) -> list[Row]:
    """The echo's rows, then those of each front-end."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="gslice-count-") as directory:
        counted = Path(directory)
        async with contextlib.AsyncExitStack() as servers:
            with _counting(counted):
                bare = servers.enter_context(bare_echo(cores.server))
            for case in (case for case in cases if case.copies):
                payload = payload_of(case)
                subject = Subject(Request(bare.address, INFER, payload), len(payload), [bare.pid])
                figures = _figures(subject, {"frontend": [bare.pid]}, case.width, cores, counted)
                rows.append(case.head("echo") | figures)
        for kind in kinds:
            async with contextlib.AsyncExitStack() as servers:
                with _counting(counted):
                    node = await servers.enter_async_context(node_of(kind, functions(), cores))
                for case in cases:
                    subject = await served_subject(case, node, payload_of(case))
                    found = roles(node.status)
                    workers = [
                        worker.pid
                        for function in node.status.functions
                        if function.name == case.function
                        for worker in function.workers
                    ]
                    pids = {"frontend": found["front-end"], "worker": workers}
                    segment = open_segment(node.pid, case.function)
                    before = Counters.read(segment)
                    figures = _figures(subject, pids, case.width, cores, counted)
                    copies = Counters.read(segment).copies_per_request_since(before)
                    rows.append(case.head(kind) | figures | {"copies": copies})
    return rows


def _figures(
    subject: Subject,
    pids: Mapping[str, Collection[int]],
    width: Width,
    cores: Cores,
    counted: Path,
) -> Row:
    """Twice the same load: once as it runs, once under strace."""
    requests = max(REQUESTS, width.concurrency)
    subject.run(WARM_UP_REQUESTS * width.concurrency, width, cores.client)
    before = _of_kernel_and_library(pids, counted)
    subject.run(requests, width, cores.client)
    after = _of_kernel_and_library(pids, counted)
    figures: Row = {key: round((after[key] - before[key]) / requests, 3) for key in after}
    with contextlib.ExitStack() as tracing:
        traces = {
            role: tracing.enter_context(_traced(found, cores.client))
            for role, found in pids.items()
        }
        subject.run(requests, width, cores.client)
    for role, path in traces.items():
        figures |= Calls.parse(path.read_text()).figures(role, requests)
        path.unlink()
    return figures


def _of_kernel_and_library(pids: Mapping[str, Collection[int]], counted: Path) -> dict[str, int]:
    return {
        f"{role}_{what}": count
        for role, found in pids.items()
        for what, count in (
            ("allocations", sum(_allocations(counted / str(pid)) for pid in found)),
            ("context_switches", context_switches(found)),
        )
    }


def _allocations(path: Path) -> int:
    return int(struct.unpack("=Q", path.read_bytes())[0])


@contextlib.contextmanager
def _counting(directory: Path) -> Iterator[None]:
    """What starts meanwhile counts its allocations; of Python's own ones every single one."""
    counting = {
        "LD_PRELOAD": str(built("count_allocations")),
        DIRECTORY: str(directory),
        "PYTHONMALLOC": "malloc",
    }
    before = {name: os.environ.get(name) for name in counting}
    os.environ.update(counting)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _traced(pids: Collection[int], core: int) -> Iterator[Path]:
    """Counts the system calls of running processes; the file is complete afterwards.

    Raises:
        FailedPrecondition: strace is not installed, or may not trace.
    """
    strace = shutil.which("strace")
    if strace is None:
        raise FailedPrecondition("strace is not here: apt-get install strace")
    descriptor, path = tempfile.mkstemp(prefix="gslice-strace-")
    os.close(descriptor)
    command = [strace, "-c", "-f", "-o", path, *(f"--attach={pid}" for pid in pids)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=pinned(core))
    with process:
        assert process.stderr is not None
        for pid in pids:
            line = process.stderr.readline()
            if "attached" not in line:
                raise FailedPrecondition(f"strace cannot attach to process {pid}: {line.strip()}")
        try:
            yield Path(path)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)
