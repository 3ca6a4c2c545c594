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

from gslice.core.config.engines import Engine, Shapes, check_engine, engine_of, is_exported
from gslice.core.config.fetching import Location, Warmup, samples
from gslice.core.config.node import Device, Node
from gslice.core.config.ranges import ReplicaRange, Replicas, Section, Share, ShareRange
from gslice.core.config.tensors import Identity, ModelTensors
from gslice.core.config.words import (
    NAME,
    CountOrAuto,
    Duration,
    DurationOrAuto,
    DurationOrNone,
    PositiveSize,
    SizeOrNone,
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


class Slo(Section):
    """`slo`: the promise."""

    p99: DurationOrNone = Field(
        default=0, description="99 of 100 answers come within that time. none: nothing is promised."
    )


class Batch(Section):
    """`batch`: how requests are put together."""

    max: CountOrAuto = Field(
        default=0, description="Most rows of a batch; auto: as the model allows."
    )
    delay: DurationOrAuto = Field(
        default=-1, description="How long to wait for more rows; auto: not at all in this release."
    )


class Queue(Section):
    """`queue`: how much may wait."""

    max: int = Field(default=256, ge=1, le=QUEUE_MAX, description="Requests that may wait or run.")
    request_max: PositiveSize = Field(
        default=32 << 20, description="Tensors of the largest request, and of its answer."
    )


Residency = Annotated[
    Literal["pinned", "warm", "cold"],
    Field(description="warm: evicted if memory is needed; cold: loaded when a request comes."),
]
IdleAfter = Annotated[Duration, at_least(100_000, "100ms")]


class Resident(Section):
    """When a function is loaded."""

    residency: Residency = "warm"
    idle_after: IdleAfter = Field(
        default=600_000_000,
        description="Of a cold function: unloaded when no request came for that long.",
    )


class Defaults(Resident):
    """`defaults`: of every function."""

    slo: Slo = Field(default=Slo(), description="The promise.")
    batch: Batch = Field(default=Batch(), description="How requests are put together.")
    queue: Queue = Field(default=Queue(), description="How much may wait.")


class Versions(Section):
    """`versions`: which models of a function the node holds."""

    keep: int = Field(default=1, ge=1, le=8, description="Kept warm, the one that serves included.")
    serve: Annotated[
        str,
        BeforeValidator(served_version),
        WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"const": "latest"}]}),
    ] = Field(default="latest", description="A number that was recorded; latest: what is declared.")
    number: int = Field(
        default=0,
        ge=0,
        lt=10**18,
        description="Of the declared model, unless another has it. 0: the daemon gives one.",
    )


class Health(Section):
    """`health`: how a command is asked whether it serves."""

    url: WebAddress = Field(description="Answers 2xx while the command serves.")
    period: Annotated[Duration, at_least(10_000, "10ms")] = Field(
        default=1_000_000, description="How often it is asked."
    )
    timeout: Annotated[Duration, at_least(1_000, "1ms")] = Field(
        default=2_000_000, description="How long an answer may take."
    )


class Stop(Section):
    """`stop`: how a command is ended."""

    signal: Literal["SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2"] = Field(
        default="SIGTERM", description="What tells it to end."
    )
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
    identity: Identity | None = Field(
        default=None,
        description="Gives back what it gets; its tensors are said here.",
    )
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
    stop: Stop = Field(default=Stop(), description="How a command is ended.")
    args: dict[str, Any] = Field(
        default_factory=dict, description="Of a Python class, a torch factory, or the ONNX engine."
    )
    versions: Versions = Field(
        default=Versions(), description="Which models of it are held, and which one serves."
    )
    device: str = Field(
        default="auto",
        description="Pinned by a name; auto: any of the kind of the first device, and it may move.",
    )
    replicas: Replicas = Field(
        default=ReplicaRange(min=1, max=1),
        description="On how many devices at a time; auto: as its SLO needs.",
    )
    isolation: Literal["shared", "exclusive"] = Field(
        default="shared", description="exclusive: no other function is on its devices."
    )
    share: Share = Field(
        default=ShareRange(),
        description="Of each of its devices; auto and ranges are found by the controller.",
    )
    instances: int = Field(
        default=1,
        ge=1,
        le=INSTANCES_MAX,
        description="Loaded copies on each device, which divide the share.",
    )
    priority: Literal["low", "normal", "high"] = Field(
        default="normal", description="Who comes first where a device is short."
    )
    slo: Slo = Field(default=Slo(), description="The promise.")
    batch: Batch = Field(default=Batch(), description="How requests are put together.")
    queue: Queue = Field(default=Queue(), description="How much may wait.")
    warmup: Annotated[
        Warmup | None, BeforeValidator(samples), Field(json_schema_extra=_or_url_schema)
    ] = Field(default=None, description="Samples that run first: .npz or .json. Default: zeros.")
    side_effects: bool = Field(
        default=False, description="true: a request is never run twice, not even after a crash."
    )
    threads: CountOrAuto = Field(
        default=0,
        description="Of the engine, on a CPU device; auto: as many as the share is worth.",
    )
    lanes: int = Field(default=2, ge=1, le=4, description="Batches in flight in an instance.")
    precision: Literal["auto", "fp32", "fp16", "bf16"] = Field(
        default="auto", description="What a torch model computes with; auto: as it is."
    )
    channels_last: bool = Field(default=False, description="How a torch model keeps images.")
    environment: Annotated[dict[str, str], BeforeValidator(environment_text)] = Field(
        default_factory=dict, description="Variables of its worker or command."
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

    version: Literal[1] = Field(description="Of this format.")
    node: Node = Field(default=Node(), description="The daemon.")
    devices: Annotated[
        dict[str, Device],
        BeforeValidator(lambda value: {} if value == "auto" else value),
        Field(json_schema_extra=_or_auto_schema),
    ] = Field(
        default_factory=dict,
        description="Default: auto, `cpu` with all cores and after it every GPU.",
    )
    defaults: Defaults = Field(default=Defaults(), description="Of every function, key by key.")
    functions: dict[FunctionName, Function] = Field(
        default_factory=dict, description="What is served, by name."
    )
