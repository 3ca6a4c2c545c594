"""What a front-end process is told when it starts: its command line."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field

from gslice import _native
from gslice.core.errors import ConfigError
from gslice.core.logs import LogStyle
from gslice.core.tls import TlsContent, TlsFiles
from gslice.core.tracing import Tracing
from gslice.ipc.messages import REST

KINDS = ("python", "native")  # of those that speak gRPC
MESSAGE_LIMIT_BYTES = (2 << 30) - 1  # protobuf's own


@dataclass(frozen=True)
class Limits:
    """What clients may not exceed.

    Attributes:
        request_max_bytes: A larger message is answered RESOURCE_EXHAUSTED.
        connection_age_ms: After about that long a client is told (GOAWAY) to connect anew. Calls
            that it has begun go on. gRPC offers no other way to part from a client without a call
            that fails.
        memory_max_bytes: Most that messages may take outside their slots, in and out, all
            together. Not of the kind `python`: gRPC there keeps no such account.
    """

    request_max_bytes: int
    connection_age_ms: int
    memory_max_bytes: int


@dataclass(frozen=True)
class Settings:
    """All of it.

    Attributes:
        index: Its place in front-end tables.
        kind: What speaks gRPC, `python` or `native`; or `rest`, which speaks HTTP.
        orphan_grace_s: How long to serve on without a daemon.
        limits: Of clients.
        tls: What encrypts its port; None: nothing does.
        client_memory: Prefix of the keys of clients' memory; empty: requests may name none.
        control: The daemon's control socket, for the web page; empty: there is no page.
        logs: How to log.
        tracing: Where traces of requests go; None: there are none.
    """

    index: int
    kind: str
    orphan_grace_s: float
    limits: Limits
    tls: TlsContent | None
    client_memory: str
    control: str = ""
    logs: LogStyle = field(default_factory=LogStyle)
    tracing: Tracing | None = None

    @property
    def logs_failures(self) -> bool:
        """Whether each request that fails is logged."""
        return self.logs.level == "debug"

    @property
    def journal(self) -> tuple[float, bool] | None:
        """What the data path is to record, as `keep_journal` takes it; None: nothing."""
        if self.tracing is None and not self.logs_failures:
            return None
        return self.tracing.sample if self.tracing else 0.0, self.logs_failures


def parse(description: str | None, arguments: list[str] | None = None) -> Settings:
    """Reads the command line; one that is wrong ends the process, as argparse does.

    Args:
        description: For `--help`.
        arguments: Stand in for those of the process.

    Raises:
        ConfigError: a certificate file cannot be read, or this build has no native kind.
    """
    parser = argparse.ArgumentParser(prog="python -m gslice.frontend", description=description)
    parser.add_argument("--index", type=int, required=True, help="place in front-end tables")
    parser.add_argument("--kind", choices=(*KINDS, REST), default=KINDS[0])
    parser.add_argument("--orphan-grace-us", type=int, default=300_000_000)
    parser.add_argument("--request-max-bytes", type=int, default=MESSAGE_LIMIT_BYTES)
    parser.add_argument("--connection-age-us", type=int, default=30_000_000)
    parser.add_argument("--memory-max-bytes", type=int, default=256 << 20)
    parser.add_argument("--certificate", default="", help="PEM file: the port is encrypted")
    parser.add_argument("--key", default="", help="PEM file: the certificate's")
    parser.add_argument("--client-authority", default="", help="PEM file: clients must show theirs")
    parser.add_argument("--client-memory", default="", help="prefix of its keys; empty: none")
    parser.add_argument("--otlp", default="", help="URL of a collector of traces; empty: none")
    parser.add_argument("--trace-sample", type=float, default=0.0, help="part that is traced")
    LogStyle.options(parser)
    parser.add_argument("--control", default="", help="the daemon's control socket: a web page")
    given = parser.parse_args(arguments)
    if bool(given.certificate) != bool(given.key) or (given.client_authority and not given.key):
        parser.error("--certificate and --key go together, --client-authority with both")
    if given.kind == "native" and not _native.GRPC_SERVER:
        raise ConfigError("this gslice was built without the native front-end")
    files = TlsFiles(given.certificate, given.key, given.client_authority)
    return Settings(
        index=given.index,
        kind=given.kind,
        orphan_grace_s=given.orphan_grace_us / 1e6,
        limits=Limits(
            min(given.request_max_bytes, MESSAGE_LIMIT_BYTES),
            given.connection_age_us // 1000,
            given.memory_max_bytes,
        ),
        tls=files.read() if given.certificate else None,
        client_memory=given.client_memory,
        logs=LogStyle.of(given),
        tracing=Tracing(given.otlp, given.trace_sample) if given.otlp else None,
        control=given.control,
    )
