"""h2load, nghttp2's own load client: a process that knows nothing of gRPC, gslice or Python.

It is told how many requests to send, never how long: a run by time would count those that were cut
off at its end. It sees HTTP only, and a failed gRPC call is an HTTP success; so the size of what
came back is held against that of an answer that was looked at before.
"""

from __future__ import annotations

import re
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cores import pinned
from benchmarks.http2 import PREFIX_BYTES, Request
from benchmarks.load import Load
from gslice.client.load import percentile
from gslice.core.errors import FailedPrecondition

TIMEOUT_S = 600
_HEADERS = ("content-type: application/grpc", "te: trailers")
_COUNTS = re.compile(
    r"^requests: \d+ total, \d+ started, \d+ done, (\d+) succeeded, (\d+) failed, (\d+) errored",
    re.MULTILINE,
)
_DATA = re.compile(r"^traffic: .* \((\d+)\) data$", re.MULTILINE)


@dataclass(frozen=True)
class Width:
    """How much is in flight.

    Attributes:
        connections: Connections.
        streams: Calls at a time on each.
    """

    connections: int
    streams: int

    @classmethod
    def of(cls, concurrency: int, connections: int) -> Width:
        """`concurrency` calls over so many connections; at least one on each."""
        return cls(connections, max(1, concurrency // connections))

    @property
    def concurrency(self) -> int:
        """Calls in flight."""
        return self.connections * self.streams


def program() -> str:
    """Where h2load is.

    Raises:
        FailedPrecondition: It is not installed.
    """
    path = shutil.which("h2load")
    if path is None:
        raise FailedPrecondition("h2load is not here: apt-get install nghttp2-client")
    return path


def h2load(request: Request, answer_bytes: int, requests: int, width: Width, core: int) -> Load:
    """Sends the same call `requests` times.

    Args:
        request: The call.
        answer_bytes: Size of the message that each must be answered with.
        requests: How often.
        width: How many at a time.
        core: Where h2load runs.

    Raises:
        RuntimeError: Not every one was answered, and with that many bytes.
    """
    requests = max(requests, width.concurrency)
    with tempfile.TemporaryDirectory(prefix="gslice-h2load-") as directory:
        body, log = Path(directory) / "body", Path(directory) / "log"
        body.write_bytes(request.body)
        command = [
            program(),
            *(f"--requests={requests}", f"--clients={width.connections}", f"--data={body}"),
            *(f"--max-concurrent-streams={width.streams}", f"--log-file={log}"),
            *(f"--header={header}" for header in _HEADERS),
            f"http://{request.authority}{request.path}",
        ]
        before = _children_cpu_s()
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            preexec_fn=pinned(core),
            check=False,
        )
        cpu_s = _children_cpu_s() - before
        if done.returncode != 0:
            raise RuntimeError(f"h2load ended with {done.returncode}: {done.stderr.strip()}")
        check(done.stdout, requests, answer_bytes + PREFIX_BYTES)
        return load_of(log.read_text().splitlines(), cpu_s)


def check(said: str, requests: int, body_bytes: int) -> None:
    """Refuses a run that was not answered in full.

    Args:
        said: What h2load printed.
        requests: How many were sent.
        body_bytes: What each answer's DATA frames must hold.

    Raises:
        RuntimeError: Something is missing, or too much.
    """
    counts, data = _COUNTS.search(said), _DATA.search(said)
    if counts is None or data is None:
        raise RuntimeError(f"h2load printed no counts: {said[-500:]}")
    if [int(count) for count in counts.groups()] != [requests, 0, 0]:
        raise RuntimeError(f"of {requests} requests not all were answered: {counts[0]}")
    if int(data[1]) != requests * body_bytes:
        raise RuntimeError(
            f"{requests} answers have {data[1]} bytes, expected {body_bytes} each: calls failed"
        )


def load_of(log: Sequence[str], cpu_s: float) -> Load:
    """What h2load's log of each request says: start, status and duration, in microseconds.

    The rate counts from the first request to the last answer: the time to connect is not in it.
    """
    lines = [[int(column) for column in line.split("\t")[:3]] for line in log]
    ascending = sorted(float(duration) for _, _, duration in lines)
    ended_us = max(start + duration for start, _, duration in lines)
    return Load(
        requests=len(lines),
        seconds=(ended_us - min(start for start, _, _ in lines)) / 1e6,
        p50_us=percentile(ascending, 50),
        p99_us=percentile(ascending, 99),
        client_cpu_us=cpu_s * 1e6 / len(lines),
    )


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
