"""h2load as the front-end benchmark uses it: a run that is not answered in full gives no figure."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks import h2load as client
from benchmarks.http2 import PREFIX_BYTES, Request
from benchmarks.load import Load
from gslice.client.load import percentile
from gslice.core.errors import FailedPrecondition


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


def check_installed() -> None:
    """Refuses to begin without it.

    Raises:
        FailedPrecondition: It is not installed.
    """
    if client.find() is None:
        raise FailedPrecondition("h2load is not here: apt-get install nghttp2-client")


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
    found = client.run(
        f"http://{request.authority}{request.path}",
        request.body,
        client.GRPC,
        requests=max(requests, width.concurrency),
        connections=width.connections,
        streams=width.streams,
        core=core,
    )
    return load_of(found, answer_bytes + PREFIX_BYTES)


def load_of(found: client.H2Load, body_bytes: int) -> Load:
    """Its figures.

    Args:
        found: What it gave.
        body_bytes: What each answer's DATA frames must hold.

    Raises:
        RuntimeError: Something is missing, or too much.
    """
    sent = found.succeeded + found.failed
    if found.failed:
        raise RuntimeError(f"of {sent} requests not all were answered: {found.failed} failed")
    if found.data_bytes != sent * body_bytes:
        raise RuntimeError(
            f"{sent} answers have {found.data_bytes} bytes, not {body_bytes} each: calls failed"
        )
    ascending = sorted(each / 1000 for each in found.latencies_ns)
    return Load(
        requests=sent,
        seconds=sent / found.rps,
        p50_us=percentile(ascending, 50),
        p99_us=percentile(ascending, 99),
        client_cpu_us=found.cpu_us / sent,
    )
