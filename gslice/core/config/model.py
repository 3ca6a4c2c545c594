"""The shape of node.yaml, as pydantic models: what keys there are and what each may hold."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    WithJsonSchema,
    model_validator,
)

from gslice.core.config.access import AccessSection, Insecure
from gslice.core.config.engines import Engine, Shapes, check_engine, engine_of, is_exported
from gslice.core.config.fetching import Location, ModelCache, Warmup, samples
from gslice.core.config.ranges import ReplicaRange, Replicas, Section, Share, ShareRange
from gslice.core.config.telling import Logs, Tracing
from gslice.core.config.tensors import Identity, ModelTensors
from gslice.core.config.words import (
    NAME,
    Address,
    AddressOrOff,
    CountOrAuto,
    Duration,
    DurationOrAuto,
    DurationOrNone,
    MemoryPrefix,
    Percent,
    PositiveSize,
    SizeOrAuto,
    SizeOrNone,
    SpareCount,
    WebAddress,
    argument_texts,
    at_least,
    check_onnx_args,
    environment_text,
    served_version,
    wrong,
)
from gslice.core.types import INSTANCES_MAX, QUEUE_MAX

# The bounds of queue, front-ends, instances and lanes are the segment's: native/segment/layout.hpp.


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

    grpc: Address = "127.0.0.1:8001"
    http: AddressOrOff = Field(
        default="127.0.0.1:8000", description="KServe v2 over HTTP; off: not offered."
    )
    metrics: Address = "127.0.0.1:8002"
    ui: Literal["on", "off"] = Field(default="on", description="The HTTP port has a web page.")
    state_dir: str = Field(
        default="", description="Default: $GSLICE_STATE_DIR, else the user's state."
    )
    orphan_grace: Duration = 60_000_000
    hang_timeout: Annotated[Duration, at_least(100_000, "100ms")] = 30_000_000
    drain_timeout: Duration = 10_000_000
    pinned_memory: SizeOrAuto = Field(
        default=0, description="Budget of all requests' tensors together."
    )
    frontends: int = Field(default=1, ge=1, le=8)
    frontend: Literal["auto", "native", "python"] = Field(
        default="auto", description="What speaks gRPC; auto: native where it was built."
    )
    frontend_memory: SizeOrAuto = Field(
        default=0, description="Of each front-end but python ones: for messages on their way."
    )
    connection_age: Annotated[Duration, at_least(100_000, "100ms")] = 30_000_000
    request_max: PositiveSize = 64 << 20
    tls: Tls | None = Field(default=None, description="Default: gRPC and HTTP are not encrypted.")
    controller: Literal["auto", "off"] = Field(
        default="auto", description="auto: shares and batches follow the SLOs."
    )
    packing: Literal["fewest", "headroom"] = Field(
        default="headroom", description="Devices for `device: auto`: few, or with most room."
    )
    spares: SpareCount = None
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
    logs: Logs = Logs()
    tracing: Tracing | None = Field(default=None, description="Default: requests are not traced.")
    model_cache: ModelCache = ModelCache()


class Limits(Section):
    """`devices.<name>.limits`: up to where gslice manages the device."""

    share: Percent = 100.0
    memory: SizeOrNone = 0


class Device(Section):
    """`devices.<name>`."""

    limiter: Literal["auto", "cgroup", "threads", "none", "mps", "green", "mps-static"] = "auto"
    limits: Limits = Limits()
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


class Slo(Section):
    """`slo`: the promise."""

    p99: DurationOrNone = 0


class Batch(Section):
    """`batch`: how requests are put together."""

    max: CountOrAuto = 0
    delay: DurationOrAuto = -1


class Queue(Section):
    """`queue`: how much may wait."""

    max: int = Field(default=256, ge=1, le=QUEUE_MAX)
    request_max: PositiveSize = 32 << 20


Residency = Annotated[
    Literal["pinned", "warm", "cold"],
    Field(description="warm: evicted if memory is needed; cold: loaded when a request comes."),
]
IdleAfter = Annotated[Duration, at_least(100_000, "100ms")]


class Resident(Section):
    """When a function is loaded."""

    residency: Residency = "warm"
    idle_after: IdleAfter = 600_000_000


class Defaults(Resident):
    """`defaults`: of every function."""

    slo: Slo = Slo()
    batch: Batch = Batch()
    queue: Queue = Queue()


class Versions(Section):
    """`versions`: which models of a function the node holds."""

    keep: int = Field(default=1, ge=1, le=8, description="Kept warm, the one that serves included.")
    serve: Annotated[
        str,
        BeforeValidator(served_version),
        WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"const": "latest"}]}),
    ] = "latest"
    number: int = Field(
        default=0,
        ge=0,
        lt=10**18,
        description="Of the declared model, unless another has it. 0: the daemon gives one.",
    )


class Health(Section):
    """`health`: how a command is asked whether it serves."""

    url: WebAddress
    period: Annotated[Duration, at_least(10_000, "10ms")] = 1_000_000
    timeout: Annotated[Duration, at_least(1_000, "1ms")] = 2_000_000


class Stop(Section):
    """`stop`: how a command is ended."""

    signal: Literal["SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2"] = "SIGTERM"
    timeout: Annotated[Duration, Field(description="Then it is killed.")] = 30_000_000


def _health(value: Any) -> Any:
    return {"url": value} if isinstance(value, str) else value


def _or_url_schema(schema: dict[str, Any]) -> None:
    schema["anyOf"] = [*schema.pop("anyOf", []), {"type": "string"}]


SOURCES = ("model", "torch", "python", "identity", "command")
_OF_COMMANDS = ("directory", "memory", "health", "stop")
_WITH_COMMANDS = {
    *("command", *_OF_COMMANDS),
    *("device", "isolation", "share", "priority", "environment", "residency"),
}


class Function(Resident):
    """`functions.<name>`: one of `model`, `torch`, `python`, `identity`, and how to serve it.

    Or `command`: a program that is not ours, which runs under a share and a memory limit.
    """

    model: Location | None = Field(
        default=None, description="An .onnx, .pt2 of torch.export, or .plan of TensorRT; or a URL."
    )
    engine: Engine = "auto"
    shapes: dict[str, Shapes] = Field(
        default_factory=dict, description="By input, for TensorRT: lengths that the model leaves."
    )
    torch: str | None = Field(
        default=None, description="module:factory of a torch.nn.Module, or path/to/file.py:factory."
    )
    python: str | None = Field(default=None, description="module:Class, or path/to/file.py:Class.")
    python_path: str = Field(
        default="", description="Where its modules are. Default: beside the file."
    )
    identity: Identity | None = None
    tensors: ModelTensors | None = Field(
        default=None, description="What the model must take and give; it is checked at the load."
    )
    command: Annotated[
        list[str] | None,
        BeforeValidator(argument_texts),
        Field(description="A program to run, as in [vllm, serve, ...]; its traffic is its own."),
        WithJsonSchema({"type": "array", "minItems": 1, "items": {"type": ["string", "integer"]}}),
    ] = None
    directory: str = Field(
        default="", description="Where the command starts. Default: beside the file."
    )
    memory: SizeOrNone = Field(
        default=0, description="Of its device: most that the command may take."
    )
    health: Annotated[
        Health | None, BeforeValidator(_health), Field(json_schema_extra=_or_url_schema)
    ] = Field(default=None, description="A URL that answers 2xx while the command serves.")
    stop: Stop = Stop()
    args: dict[str, Any] = Field(default_factory=dict)
    versions: Versions = Versions()
    device: str = "auto"
    replicas: Replicas = ReplicaRange(min=1, max=1)
    isolation: Literal["shared", "exclusive"] = Field(
        default="shared", description="exclusive: no other function is on its devices."
    )
    share: Share = ShareRange()
    instances: int = Field(default=1, ge=1, le=INSTANCES_MAX)
    priority: Literal["low", "normal", "high"] = "normal"
    slo: Slo = Slo()
    batch: Batch = Batch()
    queue: Queue = Queue()
    warmup: Annotated[
        Warmup | None, BeforeValidator(samples), Field(json_schema_extra=_or_url_schema)
    ] = None
    side_effects: bool = False
    threads: CountOrAuto = 0
    lanes: int = Field(default=2, ge=1, le=4)
    precision: Literal["auto", "fp32", "fp16", "bf16"] = "auto"
    channels_last: bool = False
    environment: Annotated[dict[str, str], BeforeValidator(environment_text)] = Field(
        default_factory=dict
    )

    @model_validator(mode="after")
    def _one_source(self) -> Function:
        given = [key for key in SOURCES if getattr(self, key) is not None]
        if not given:
            raise wrong(f"says nothing to serve; add one of {', '.join(SOURCES)}")
        if len(given) > 1:
            raise wrong(f"{' and '.join(given)} exclude each other; keep one")
        if self.isolation == "exclusive" and self.share != ShareRange():
            raise wrong("share says nothing with isolation: exclusive; it has all of its devices")
        self._check_command()
        check_engine(self.model, self.engine, self.shapes)
        for key, form, example in (
            ("python", "module:Class", "tagger:Tagger"),
            ("torch", "module:factory", "tagger:make"),
        ):
            code = getattr(self, key)
            if code is not None and not re.fullmatch(r"[^:\s]+:[A-Za-z_]\w*", code):
                raise wrong(f"{key}: {code!r} must be {form}, as in {example}")
        is_code = self.python is not None or self.torch is not None
        if self.python_path and not is_code:
            raise wrong("python_path goes with python and torch only")
        engine = "" if self.model is None else engine_of(self.model, self.engine)
        if self.args and not is_code:
            if engine != "onnxruntime":
                raise wrong("args goes with python, torch and .onnx models only")
            check_onnx_args(self.args)
        if self.tensors is not None:
            if self.model is None:
                raise wrong("tensors goes with model only")
            if engine not in ("onnxruntime", "torch"):
                raise wrong(f"tensors says nothing with {engine}, which takes what its plan says")
            if engine == "torch" and self.tensors.reshaped:
                raise wrong("model_dims goes with .onnx models only")
        is_torch = self.torch is not None or is_exported(self.model)
        for key in ("precision", "channels_last"):
            if getattr(self, key) not in ("auto", False) and not is_torch:
                raise wrong(f"{key} goes with torch, and with .pt2 models, only")
        return self

    def _check_command(self) -> None:
        written = [key for key in type(self).model_fields if key in self.model_fields_set]
        if self.command is None:
            if extra := [key for key in _OF_COMMANDS if key in written]:
                verb = "goes" if len(extra) == 1 else "go"
                raise wrong(f"{' and '.join(extra)} {verb} with command only")
            return
        if extra := [key for key in written if key not in _WITH_COMMANDS]:
            verb = "says" if len(extra) == 1 else "say"
            raise wrong(f"{' and '.join(extra)} {verb} nothing of a command, which is not ours")
        if self.isolation == "shared" and self.share.min != self.share.max:
            raise wrong("a command needs a share of its own, as in share: 30%; nobody can find one")
        if "residency" in written and self.residency != "pinned":
            raise wrong(f"residency: a command is always pinned, never {self.residency}")


def _check_name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise wrong(
            f"{name!r} cannot be a function's name; use up to 64 letters, digits, '.', '_' and '-'"
        )
    return name


FunctionName = Annotated[str, AfterValidator(_check_name)]


def _or_auto_schema(schema: dict[str, Any]) -> None:
    mapping = {key: schema.pop(key) for key in ("type", "additionalProperties")}
    schema["anyOf"] = [mapping, {"const": "auto"}]


class NodeFile(Section):
    """The whole of node.yaml."""

    version: Literal[1]
    node: Node = Node()
    devices: Annotated[
        dict[str, Device],
        BeforeValidator(lambda value: {} if value == "auto" else value),
        Field(json_schema_extra=_or_auto_schema),
    ] = Field(default_factory=dict, description="Default: auto, one CPU device of all cores.")
    defaults: Defaults = Defaults()
    functions: dict[FunctionName, Function] = Field(default_factory=dict)
