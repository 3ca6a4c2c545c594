"""How a front-end is started: of which kind, with which arguments, on which address."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from gslice._native import GRPC_SERVER, GRPC_SERVER_TLS
from gslice.core.errors import Unavailable
from gslice.core.tracing import telemetry_words
from gslice.ipc.messages import REST
from gslice.supervise.process import Launch

if TYPE_CHECKING:
    from pathlib import Path

    from gslice.core.config import NodeConfig


def kind_of(config: NodeConfig) -> str:
    """What is to speak gRPC: `native` or `python`.

    Raises:
        ConfigError: what node.yaml asks for was not built.
    """
    return config.frontend_kind(native=GRPC_SERVER, native_tls=GRPC_SERVER_TLS)


def offer_of(config: NodeConfig, kind: str) -> tuple[str, str, str, bool]:
    """What somebody notices of how a front-end is started, beside its kind.

    Returns:
        The digest of its certificates, and the prefix of the clients' memory that it takes, each
        empty if there is none; what it tells of itself; and whether it has the web page.

    Raises:
        ConfigError: a certificate cannot be read.
    """
    digest = config.tls.read().digest if config.tls is not None else ""
    prefix = config.client_memory.prefix if config.client_memory is not None else ""
    return (
        digest,
        prefix,
        telemetry_words(config.logs.style, config.tracing),
        _has_page(config, kind),
    )


def launch_of(config: NodeConfig, kind: str, index: int, log: Path) -> Launch:
    """The process of a front-end.

    Args:
        config: The node's.
        kind: Its kind.
        index: Its place in front-end tables.
        log: Takes what it writes.
    """
    options: dict[str, object] = {
        "--index": index,
        "--kind": kind,
        "--orphan-grace-us": config.orphan_grace_us,
        "--request-max-bytes": config.request_max_bytes,
        "--connection-age-us": config.connection_age_us,
        "--memory-max-bytes": config.frontend_memory_bytes,
    }
    if config.tracing is not None:
        options |= {"--otlp": config.tracing.otlp, "--trace-sample": config.tracing.sample}
    if config.client_memory is not None:
        options["--client-memory"] = config.client_memory.prefix
    if _has_page(config, kind):
        options["--control"] = config.control_path
    if config.tls is not None:
        options |= {"--certificate": config.tls.certificate, "--key": config.tls.key}
        if config.tls.client_authority:
            options["--client-authority"] = config.tls.client_authority
    arguments = [str(part) for option in options.items() for part in option]
    arguments += config.logs.style.arguments
    return Launch("gslice.frontend", arguments, log)


def _has_page(config: NodeConfig, kind: str) -> bool:
    return config.ui and kind == REST


def port_of(address: str) -> str:
    """The port of host:port."""
    return address.rpartition(":")[2]


def refuse_taken(address: str) -> None:
    """Front-ends share their port among themselves, and would with another node's unnoticed.

    Raises:
        Unavailable: somebody listens there.
    """
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    try:
        # It never listens: a client that connected here would be reset.
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host.strip("[]"), int(port)))
    except OSError as error:
        raise Unavailable(
            f"cannot listen on {address}: {error.strerror or error}",
            hint="choose another address, or stop what listens there",
        ) from error
