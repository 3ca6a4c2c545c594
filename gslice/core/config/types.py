"""The configuration that the rest of gslice works with: checked, frozen, units in the names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gslice.core.access import Access, ShareQuota
from gslice.core.errors import ConfigError
from gslice.core.logs import FILE_MAX_BYTES, LogStyle
from gslice.core.tls import TlsFiles
from gslice.core.tracing import Tracing
from gslice.core.types import FunctionSpec


@dataclass(frozen=True)
class ClientMemoryConfig:
    """Memory of clients that requests may name: KServe's system shared memory.

    Attributes:
        prefix: Keys begin with it, as in `/name-`.
        max_bytes: Of all regions together.
        owner_uid: Whose the files must be.
    """

    prefix: str
    max_bytes: int
    owner_uid: int


@dataclass(frozen=True)
class AccessConfig:
    """Who may do what at the ports.

    Attributes:
        access: Without what is in the file of keys.
        key_file: More keys; None: there is none.
    """

    access: Access = field(default_factory=Access)
    key_file: Path | None = None


@dataclass(frozen=True)
class LogConfig:
    """What the node's processes log.

    Attributes:
        style: Of lines.
        max_bytes: Of a file; then it is moved away.
        keep: How many that were moved away are kept, of each.
    """

    style: LogStyle = field(default_factory=LogStyle)
    max_bytes: int = FILE_MAX_BYTES
    keep: int = 1


@dataclass(frozen=True)
class ModelCacheConfig:
    """Where what functions name by a URL is kept.

    Attributes:
        directory: Absolute.
        max_bytes: Of all of it together.
    """

    directory: Path
    max_bytes: int


@dataclass(frozen=True)
class NodeConfig:
    """Settings of the daemon.

    Attributes:
        grpc: host:port of KServe v2 over gRPC; port 0 takes a free one.
        http: host:port of KServe v2 over HTTP; empty: not offered.
        metrics: host:port of the Prometheus page.
        ui: The HTTP port has the web page.
        state_dir: Sockets, logs and the store; absolute.
        orphan_grace_us: How long children serve on without a daemon.
        hang_timeout_us: A worker without progress for that long is restarted.
        drain_timeout_us: How long requests in flight may take at a stop.
        pinned_memory_bytes: Budget of all functions' segments together.
        frontends: Front-end processes that speak gRPC.
        frontend: What speaks gRPC in them: `native`, `python`, or `auto`.
        frontend_memory_bytes: Of each but those of gRPC in Python: most that messages, in and out,
            may take outside their slots, all together.
        connection_age_us: After that long a client is asked to connect anew.
        request_max_bytes: Largest message that a front-end accepts.
        tls: What encrypts gRPC and HTTP; None: nothing does.
        controller: `auto`: shares and batches follow the SLOs; `off`: they stay as configured.
        packing: Where functions go that may run on several devices: on the `fewest` devices, or
            where there is most `headroom`.
        spares: Most workers kept waiting for a function; None: one for each engine in use, two at
            most.
        client_memory: Which memory of clients requests may name; None: none.
        access: Who may do what.
        insecure: Ports that others may reach although nothing encrypts them, by role.
        model_roots: Directories, and beginnings of URLs, of all that functions load; none: it
            may be anywhere.
        python_functions: Functions may be Python code: `python`, and `torch` by a factory.
        metrics_triton: Whether the Prometheus page has the names that Triton uses, too.
        logs: What is logged, and how much is kept.
        tracing: Where traces of requests go; None: there are none.
        model_cache: Where what functions name by a URL is kept.
    """

    grpc: str
    http: str
    metrics: str
    state_dir: Path
    orphan_grace_us: int
    hang_timeout_us: int
    drain_timeout_us: int
    pinned_memory_bytes: int
    frontends: int
    frontend: str
    frontend_memory_bytes: int
    connection_age_us: int
    request_max_bytes: int
    tls: TlsFiles | None
    controller: str
    packing: str
    spares: int | None
    model_cache: ModelCacheConfig
    client_memory: ClientMemoryConfig | None = None
    ui: bool = True
    access: AccessConfig = AccessConfig()
    insecure: tuple[str, ...] = ()
    model_roots: tuple[str, ...] = ()
    python_functions: bool = True

    @property
    def control_path(self) -> Path:
        """The socket of the control API, for the owner only."""
        return self.state_dir / "control.sock"

    @property
    def samples_dir(self) -> Path:
        """Where gslice writes the samples that a Triton repository's models are warmed up with."""
        return self.state_dir / "warmup"

    @property
    def share_quotas(self) -> tuple[ShareQuota, ...]:
        """Those of all tenants that have one."""
        tenants = self.access.access.tenants
        return tuple(ShareQuota(t.name, t.share_percent) for t in tenants if t.share_percent)

    def share_quota(self, function: str) -> ShareQuota | None:
        """As of `Access`."""
        return self.access.access.share_quota(function)

    @property
    def asks(self) -> bool:
        """Whether callers are asked who they are, or some may do less than others."""
        return self.access.key_file is not None or not self.access.access.open

    metrics_triton: bool = True
    logs: LogConfig = field(default_factory=LogConfig)
    tracing: Tracing | None = None

    def frontend_kind(self, *, native: bool, native_tls: bool) -> str:
        """What speaks gRPC here: `native` or `python`.

        Args:
            native: This build has the native front-end.
            native_tls: It knows TLS.

        Raises:
            ConfigError: the native one is asked for, and this build cannot.
        """
        lacking = ""
        if not native:
            lacking = "libnghttp2-dev"
        elif (self.tls is not None or self.asks) and not native_tls:
            lacking = "libssl-dev"
        if self.frontend == "native" and lacking:
            without = "it" if not native else "TLS and API keys in it"
            raise ConfigError(
                f"node.frontend: native, but this gslice was built without {without}",
                hint=f"install {lacking} and rebuild, or write frontend: python",
            )
        return "python" if lacking or self.frontend == "python" else "native"


@dataclass(frozen=True)
class DeviceConfig:
    """A device and the limits up to which gslice manages it.

    Attributes:
        kind: `cpu` or `cuda`.
        limiter: `auto`, `cgroup`, `threads` or `none`; of a GPU `auto`, `mps`, `green` or
            `none`.
        share_limit_percent: Most that all functions together may get.
        memory_limit_bytes: Most memory of the device that all workers together may take; 0: no
            limit.
        cpus: The cores of a CPU device, ascending; of a GPU those of its workers' threads, where
            none means those near it.
        gpu: Which one it is: `cuda:0`, by the order of the PCI bus among those that this user may
            see; of a MIG instance `cuda:0/mig:1`, by NVML's number on its GPU, or `MIG-...`, its
            UUID.
        mps_pipe: Pipe directory of an MPS control daemon that somebody else runs; empty: gslice
            runs its own.
        share_weights: Whether workers of one model on a GPU have its weights in common.
        user: Whom its workers run as: a user or its number, `auto` or `none`.
    """

    kind: str = "cpu"
    limiter: str = "auto"
    share_limit_percent: float = 100.0
    memory_limit_bytes: int = 0
    cpus: tuple[int, ...] = ()
    gpu: str = "cuda:0"
    mps_pipe: str = ""
    share_weights: bool = True
    user: str = "auto"

    def is_like(self, other: DeviceConfig) -> bool:
        """Whether a share is worth the same on both, as far as the configuration says."""
        if self.kind == "cpu":
            return other.kind == "cpu" and len(self.cpus) == len(other.cpus)
        return other.kind == "cuda" and self.is_instance == other.is_instance

    @property
    def is_instance(self) -> bool:
        """Whether it is a MIG instance."""
        return "mig" in self.gpu.lower()

    def limiter_of(self, spec: FunctionSpec, limiter: str) -> str:
        """What enforces a function's share there: nothing where it has a GPU to itself.

        Args:
            spec: The function.
            limiter: Of the others.
        """
        return "none" if self.kind == "cuda" and spec.exclusive else limiter

    def fits(self, spec: FunctionSpec, cpus: Sequence[int], limiter: str) -> bool:
        """Whether what was loaded with these settings is as if it were loaded now.

        Args:
            spec: As it was loaded.
            cpus: The device's cores then.
            limiter: That it was to be under.
        """
        if self.kind == "cpu":
            return (tuple(cpus), limiter) == (self.cpus, self.limiter)
        wanted = self.limiter_of(spec, self.limiter)
        chosen = limiter if wanted == "auto" else wanted
        return limiter == chosen and (not self.cpus or tuple(cpus) == self.cpus)


@dataclass(frozen=True)
class Config:
    """The desired state of a node.

    Attributes:
        node: Settings of the daemon.
        devices: By name, such as `cpu`.
        functions: By name.
        path: The node.yaml it was read from; None without a file.
        defaults: Of functions that are added later, as the file has them.
        gpus: Names of the GPUs that were found; looked for with `devices: auto` only.
    """

    node: NodeConfig
    devices: dict[str, DeviceConfig]
    functions: dict[str, FunctionSpec]
    path: Path | None = None
    defaults: dict[str, Any] = field(default_factory=dict, compare=False)
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True)
class SettingChange:
    """One setting in which the running state differs from node.yaml.

    Attributes:
        path: Such as `functions.detector.share`.
        file_value: YAML; empty when it is not in the file.
        running_value: YAML; empty when it was removed at run time.
    """

    path: str
    file_value: str
    running_value: str


@dataclass(frozen=True)
class Override:
    """A setting that is not in the file: from a command line option or the environment.

    Attributes:
        path: Its keys from the top, such as ("node", "grpc").
        value: As YAML would give it: text, number, list or mapping.
        origin: What an error names, such as `--grpc`.
    """

    path: tuple[str, ...]
    value: object
    origin: str = field(default="command line")
