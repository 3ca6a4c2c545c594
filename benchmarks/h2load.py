"""h2load, of the nghttp2 project: a client that is not ours. By count, never by time."""

from __future__ import annotations

import re
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.cores import pinned

TIMEOUT_S = 600
GRPC = {"content-type": "application/grpc", "te": "trailers"}  # the headers of a call


@dataclass(frozen=True)
class H2Load:
    """What a run of h2load gave.

    Attributes:
        rps: Requests a second, from the first request to the last answer.
        succeeded: Requests with a status of 2xx.
        failed: All others.
        data_bytes: Of the answers' bodies together.
        latencies_ns: Of the requests that succeeded; it knows whole microseconds.
        cpu_us: Its own processor time.
    """

    rps: float
    succeeded: int
    failed: int
    data_bytes: int
    latencies_ns: list[int]
    cpu_us: float = 0.0

    def errors(self, body_bytes: int) -> int:
        """Requests that were not answered with a body of so many bytes.

        A gRPC error is an HTTP success. It has no message, and so the bytes tell.
        """
        missing_bytes = max(0, self.succeeded * body_bytes - self.data_bytes)
        return self.failed + -(-missing_bytes // body_bytes)


def find() -> str | None:
    """Its version; None: it is not installed."""
    if shutil.which("h2load") is None:
        return None
    done = subprocess.run(["h2load", "--version"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def run(
    url: str,
    body: bytes | memoryview,
    headers: Mapping[str, str],
    *,
    requests: int,
    connections: int = 1,
    streams: int = 1,
    http1: bool = False,
    core: int | None = None,
) -> H2Load:
    """Sends a number of requests.

    Args:
        url: What is asked for, by POST.
        body: Of every request.
        headers: Of every request.
        requests: How many.
        connections: How many.
        streams: Requests in flight on each; must be 1 with HTTP/1.1.
        http1: Speak HTTP/1.1.
        core: Where it runs; None: on the calling process's.

    Raises:
        RuntimeError: It could not run, or its output cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="h2load-") as directory:
        data, log = Path(directory) / "body", Path(directory) / "log"
        data.write_bytes(body)
        command = [
            *("h2load", f"--requests={requests}", f"--clients={connections}"),
            *(f"--max-concurrent-streams={streams}", f"--data={data}", f"--log-file={log}"),
            *(f"--header={name}: {value}" for name, value in headers.items()),
            *(["--no-tls-proto=http/1.1"] if http1 else []),
            url,
        ]
        before_s = _children_cpu_s()
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            preexec_fn=None if core is None else pinned(core),
        )
        cpu_us = (_children_cpu_s() - before_s) * 1e6
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip().splitlines() or ["nothing"]
            raise RuntimeError(f"h2load ended with code {done.returncode} and said: {said[-1]}")
        return replace(parse(done.stdout, log.read_text()), cpu_us=cpu_us)


def parse(output: str, log: str) -> H2Load:
    """Reads what it printed, and its log: start, status and microseconds of each request.

    Raises:
        RuntimeError: A line is not there.
    """
    counts = _match(r"^requests: (\d+) total, .* (\d+) succeeded", output)
    data = _match(r"^traffic: .*\((\d+)\) data$", output)
    total, succeeded = int(counts[1]), int(counts[2])
    rows = [[int(column) for column in line.split("\t")[:3]] for line in log.splitlines()]
    if not rows:
        raise RuntimeError("h2load logged no request")
    seconds = (max(start + took for start, _, took in rows) - min(row[0] for row in rows)) / 1e6
    latencies_ns = [took * 1000 for _, status, took in rows if 200 <= status < 300]
    rps = total / seconds if seconds > 0 else 0.0
    return H2Load(rps, succeeded, total - succeeded, int(data[1]), latencies_ns)


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _match(pattern: str, output: str) -> re.Match[str]:
    found = re.search(pattern, output, re.MULTILINE)
    if found is None:
        last = (output.strip().splitlines() or ["nothing"])[-1]
        raise RuntimeError(f"h2load printed no line like {pattern!r}; the last one was: {last}")
    return found
