"""The shape of node.yaml: what is said of the node itself, and of its devices."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gslice.core.config.access import AccessSection, Insecure
from gslice.core.config.fetching import ModelCache
from gslice.core.config.ranges import Section
from gslice.core.config.telling import Logs, Tracing
from gslice.core.config.words import (
    Address,
    AddressOrOff,
    Duration,
    MemoryPrefix,
    Percent,
    PositiveSize,
    SizeOrAuto,
    SizeOrNone,
    SpareCount,
    WorkerUser,
    at_least,
)


class Tls(Section):
    """`node.tls`: the gRPC port is encrypted."""

    certificate: str = Field(min_length=1, description="PEM: the server's, with its chain.")
    key: str = Field(min_length=1, description="PEM, without a passphrase.")
    client_authority: str = Field(
        default="", description="PEM: who signs the certificates that clients must show."
    )


class ClientMemory(Section):
    """`node.client_memory`: which memory of clients requests may name."""

    prefix: MemoryPrefix
    max: PositiveSize = Field(default=1 << 30, description="Of all regions together.")
    owner: Annotated[
        str | int | None, Field(description="Whose files: a user or its number. Default: our own.")
    ] = None


class Node(Section):
    """`node`: the daemon."""

    grpc: Address = Field(
        default="127.0.0.1:8001", description="KServe v2 over gRPC; port 0 takes a free one."
    )
    http: AddressOrOff = Field(
        default="127.0.0.1:8000", description="KServe v2 over HTTP; off: not offered."
    )
    metrics: Address = Field(
        default="127.0.0.1:8002",
        description="Prometheus, and whether the daemon lives and is ready.",
    )
    ui: Literal["on", "off"] = Field(default="on", description="The HTTP port has a web page.")
    state_dir: str = Field(
        default="", description="Default: $GSLICE_STATE_DIR, else the user's state."
    )
    orphan_grace: Duration = Field(
        default=60_000_000, description="How long front-ends and workers serve on without a daemon."
    )
    hang_timeout: Annotated[Duration, at_least(100_000, "100ms")] = Field(
        default=30_000_000, description="A worker without progress for that long is restarted."
    )
    drain_timeout: Duration = Field(
        default=10_000_000, description="How long requests in flight may take at a stop."
    )
    pinned_memory: SizeOrAuto = Field(
        default=0, description="Budget of all requests' tensors together."
    )
    frontends: int = Field(default=1, ge=1, le=8, description="Processes that share the gRPC port.")
    frontend: Literal["auto", "native", "python"] = Field(
        default="auto", description="What speaks gRPC; auto: native where it was built."
    )
    frontend_memory: SizeOrAuto = Field(
        default=0, description="Of each front-end but python ones: for messages on their way."
    )
    connection_age: Annotated[Duration, at_least(100_000, "100ms")] = Field(
        default=30_000_000, description="After that long a client is asked to connect anew."
    )
    request_max: PositiveSize = Field(
        default=64 << 20, description="The largest message that is accepted."
    )
    tls: Tls | None = Field(default=None, description="Default: gRPC and HTTP are not encrypted.")
    controller: Literal["auto", "off"] = Field(
        default="auto", description="auto: shares and batches follow the SLOs."
    )
    packing: Literal["fewest", "headroom"] = Field(
        default="headroom", description="Devices for `device: auto`: few, or with most room."
    )
    spares: SpareCount = Field(
        default=None,
        description="Workers that wait for a dead one's place; auto: one an engine, at most two.",
    )
    client_memory: ClientMemory | None = Field(
        default=None, description="Requests may name clients' shared memory. Default: they may not."
    )
    access: AccessSection | None = Field(
        default=None, description="Who may do what. Default: whoever reaches a port, everything."
    )
    insecure: Insecure = Field(
        default=False, description="Ports that others may reach although nothing encrypts them."
    )
    model_roots: list[str] = Field(
        default_factory=list,
        description="Directories and URLs of all that functions load. Default: anywhere.",
    )
    python_functions: bool = Field(
        default=True, description="Functions may be `python`, and `torch` by a factory."
    )
    metrics_triton: bool = Field(
        default=True, description="The metrics have the names that Triton uses, too."
    )
    logs: Logs = Field(default=Logs(), description="What is logged, and how much is kept.")
    tracing: Tracing | None = Field(default=None, description="Default: requests are not traced.")
    model_cache: ModelCache = Field(
        default=ModelCache(), description="Where what functions name by a URL is kept."
    )


class Limits(Section):
    """`devices.<name>.limits`: up to where gslice manages the device."""

    share: Percent = Field(default=100.0, description="Of the device, for all functions together.")
    memory: SizeOrNone = Field(default=0, description="Likewise, of its memory.")


class Device(Section):
    """`devices.<name>`."""

    limiter: Literal["auto", "cgroup", "threads", "none", "mps", "green", "mps-static"] = Field(
        default="auto", description="What enforces shares; auto: the best that works there."
    )
    limits: Limits = Field(default=Limits(), description="Up to where gslice uses the device.")
    cpus: str | list[int] = Field(
        default="",
        description="Cores, as in 0-3,6. Default: all; of a GPU, for its workers: those near it.",
    )
    mps_pipe: str = Field(
        default="",
        description="Pipe directory of an MPS control daemon that somebody else runs.",
    )
    share_weights: bool = Field(
        default=True, description="Of a GPU: workers of one model have its weights in common."
    )
    user: WorkerUser = Field(
        default="auto",
        description="Whom workers run as: a user or its number; auto: gslice-cpu, gslice-cuda-0,"
        " ... where these are there; none: the daemon's own.",
    )
