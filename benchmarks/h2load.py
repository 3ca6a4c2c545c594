"""h2load, of the nghttp2 project: a client that is not ours. By count, never by time."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

TIMEOUT_S = 600


@dataclass(frozen=True)
class H2Load:
    """What a run of h2load gave.

    Attributes:
        rps: Requests a second, by its own word.
        succeeded: Requests with a status of 2xx.
        failed: All others.
        data_bytes: Of the answers' bodies together.
        latencies_ns: Of the requests that succeeded; it knows whole microseconds.
    """

    rps: float
    succeeded: int
    failed: int
    data_bytes: int
    latencies_ns: list[int]

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
) -> H2Load:
    """Sends a number of requests; the calling process's cores are its.

    Args:
        url: What is asked for, by POST.
        body: Of every request.
        headers: Of every request.
        requests: How many.
        connections: How many.
        streams: Requests in flight on each; must be 1 with HTTP/1.1.
        http1: Speak HTTP/1.1.

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
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip().splitlines() or ["nothing"]
            raise RuntimeError(f"h2load ended with code {done.returncode} and said: {said[-1]}")
        return parse(done.stdout, log.read_text())


def parse(output: str, log: str) -> H2Load:
    """Reads what it printed, and its log: start, status and microseconds of each request.

    Raises:
        RuntimeError: A line is not there.
    """
    rate = _match(r"^finished in \S+, ([\d.]+) req/s", output)
    counts = _match(r"^requests: (\d+) total, .* (\d+) succeeded", output)
    data = _match(r"^traffic: .*\((\d+)\) data$", output)
    total, succeeded = int(counts[1]), int(counts[2])
    rows = [line.split("\t") for line in log.splitlines()]
    latencies_ns = [int(row[2]) * 1000 for row in rows if row[1].startswith("2")]
    return H2Load(float(rate[1]), succeeded, total - succeeded, int(data[1]), latencies_ns)


def _match(pattern: str, output: str) -> re.Match[str]:
    found = re.search(pattern, output, re.MULTILINE)
    if found is None:
        last = (output.strip().splitlines() or ["nothing"])[-1]
        raise RuntimeError(f"h2load printed no line like {pattern!r}; the last one was: {last}")
    return found
