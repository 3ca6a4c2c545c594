"""The shape of node.yaml, as pydantic models: what keys there are and what each may hold."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from gslice.core.errors import InvalidArgument
from gslice.core.types import ELEMENT_BYTES
from gslice.core.units import parse_duration, parse_percent, parse_size

# The bounds of queue, front-ends, instances and lanes are the segment's: native/segment/layout.hpp.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")


def wrong(text: str) -> PydanticCustomError:
    """An error whose text is already what a person should read."""
    return PydanticCustomError("gslice", "{text}", {"text": text})


def _parsed(value: Any, parse: Callable[[str], Any], expected: str, advice: str = "") -> Any:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise wrong(f"must be {expected}")
    try:
        return parse(str(value))
    except InvalidArgument as error:
        raise wrong(error.message + advice) from error


def _words(parse: Callable[[str], Any], what: str, example: str, **instead: Any) -> Any:
    """A validator that reads text with units; `instead` maps words to values."""

    def read(value: Any) -> Any:
        if isinstance(value, str) and value in instead:
            return instead[value]
        amount = _parsed(value, parse, f"{what}, as in {example}")
        if amount in instead.values():  # nothing silently means what has a word of its own
            raise wrong(f"must be {what}, not {value}")
        return amount

    return BeforeValidator(read)


def _at_least(least: int, text: str) -> AfterValidator:
    def check(value: int) -> int:
        if value < least:
            raise wrong(f"must be at least {text}")
        return value

    return AfterValidator(check)


def _text_schema(pattern: str, *examples: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": pattern, "examples": list(examples)})


_DURATION_PATTERN = r"[0-9]+(\.[0-9]+)?(us|ms|s|m|h)"
_SIZE_PATTERN = r"[0-9]+(\.[0-9]+)?([KMGT]i?)?B"

Duration = Annotated[
    int,
    _words(parse_duration, "a duration", "30ms"),
    _text_schema(f"^{_DURATION_PATTERN}$", "30ms", "2s"),
]
DurationOrNone = Annotated[
    int,
    _words(parse_duration, "a duration or `none`", "30ms", none=0),
    _text_schema(f"^({_DURATION_PATTERN}|none)$", "30ms", "none"),
]
DurationOrAuto = Annotated[
    int,
    _words(parse_duration, "a duration or `auto`", "2ms", auto=-1),
    _text_schema(f"^({_DURATION_PATTERN}|auto)$", "2ms", "auto"),
]
Size = Annotated[
    int,
    _words(parse_size, "a size", "64MiB"),
    _text_schema(f"^{_SIZE_PATTERN}$", "64MiB", "1GB"),
]
PositiveSize = Annotated[Size, _at_least(1, "1B")]
SizeOrAuto = Annotated[
    int,
    _words(parse_size, "a size or `auto`", "4GiB", auto=0),
    _text_schema(f"^({_SIZE_PATTERN}|auto)$", "4GiB", "auto"),
]
SizeOrNone = Annotated[
    int,
    _words(parse_size, "a size or `none`", "4GiB", none=0),
    _text_schema(f"^({_SIZE_PATTERN}|none)$", "4GiB", "none"),
]
Percent = Annotated[
    float,
    _words(parse_percent, "a percentage", "40%"),
    _text_schema(r"^[0-9]+(\.[0-9]+)?%$", "40%"),
]


def _address(value: Any) -> Any:
    match = _ADDRESS.fullmatch(value) if isinstance(value, str) else None
    if match is None or int(match[2]) > 65535:
        raise wrong(f"{value!r} is not an address; write host:port, as in 127.0.0.1:8001")
    return value


def _count_or_auto(value: Any) -> Any:
    if value == 0 and not isinstance(value, bool):
        raise wrong("must be at least 1, or `auto`")
    return 0 if value == "auto" else value


def _version_text(value: Any) -> Any:
    text = str(value)
    if isinstance(value, bool) or not re.fullmatch(r"[1-9][0-9]{0,17}", text):
        raise wrong(f"{text!r} is not a version; write a positive whole number, as in 1")
    return text


def _environment(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    for key, entry in value.items():
        if isinstance(entry, (bool, dict, list)) or entry is None:
            raise wrong(f"{key} must be text; put it in quotes, as in {key}: '1'")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key):
            raise wrong(f"{key!r} cannot be the name of an environment variable")
    return {key: str(entry) for key, entry in value.items()}


Address = Annotated[str, BeforeValidator(_address)]
CountOrAuto = Annotated[
    int,
    BeforeValidator(_count_or_auto),
    Field(ge=0, le=65_536),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"const": "auto"}]}),
]


class _Section(BaseModel):
    """A mapping of the file: unknown keys are errors, numbers are not text."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Node(_Section):
    """`node`: the daemon."""

    grpc: Address = "127.0.0.1:8001"
    http: Address = "127.0.0.1:8000"
    metrics: Address = "127.0.0.1:8002"
    state_dir: str = Field(
        default="", description="Default: $GSLICE_STATE_DIR, else the user's state."
    )
    orphan_grace: Duration = 60_000_000
    hang_timeout: Annotated[Duration, _at_least(100_000, "100ms")] = 30_000_000
    drain_timeout: Duration = 10_000_000
    pinned_memory: SizeOrAuto = Field(
        default=0, description="Budget of all requests' tensors together."
    )
    frontends: int = Field(default=1, ge=1, le=8)
    connection_age: Annotated[Duration, _at_least(100_000, "100ms")] = 30_000_000
    request_max: PositiveSize = 64 << 20


class Limits(_Section):
    """`devices.<name>.limits`: up to where gslice manages the device."""

    share: Percent = 100.0
    memory: SizeOrNone = 0


class Device(_Section):
    """`devices.<name>`."""

    limiter: Literal["auto", "cgroup", "threads", "none", "mps", "green"] = "auto"
    limits: Limits = Limits()
    cpus: str | list[int] = Field(
        default="",
        description="Cores, as in 0-3,6. Default: all; of a GPU, for its workers: those near it.",
    )
    mps_pipe: str = Field(
        default="",
        description="Pipe directory of an MPS control daemon that somebody else runs.",
    )


class Slo(_Section):
    """`slo`: the promise."""

    p99: DurationOrNone = 0


class Batch(_Section):
    """`batch`: how requests are put together."""

    max: CountOrAuto = 0
    delay: DurationOrAuto = -1


class Queue(_Section):
    """`queue`: how much may wait."""

    max: int = Field(default=256, ge=1, le=1024)
    request_max: PositiveSize = 32 << 20


class Defaults(_Section):
    """`defaults`: of every function."""

    slo: Slo = Slo()
    batch: Batch = Batch()
    queue: Queue = Queue()


class ShareRange(_Section):
    """`share: {min: 20%, max: 60%}`."""

    min: Percent = 1.0
    max: Percent = 100.0

    @model_validator(mode="after")
    def _ordered(self) -> ShareRange:
        if self.min > self.max:
            raise wrong("min is above max")
        return self


def _share(value: Any) -> Any:
    if value == "auto":
        return ShareRange()
    if isinstance(value, dict):
        return value
    forms = "auto, 40% or {min: 20%, max: 60%}"
    _parsed(value, parse_percent, forms, f"; a share is {forms}")
    return {"min": value, "max": value}


Share = Annotated[
    ShareRange,
    BeforeValidator(_share),
    WithJsonSchema(
        {
            "anyOf": [
                {"const": "auto"},
                {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?%$"},
                ShareRange.model_json_schema(),
            ]
        }
    ),
]


class Tensor(_Section):
    """A tensor of an `identity` function."""

    name: str = Field(min_length=1)
    dtype: str
    dims: list[int]

    @model_validator(mode="after")
    def _known(self) -> Tensor:
        if self.dtype not in ELEMENT_BYTES:
            raise wrong(f"{self.dtype!r} is not a data type; use {', '.join(ELEMENT_BYTES)}")
        if any(dim < -1 or dim == 0 for dim in self.dims):
            raise wrong("dims are positive, or -1 where any length goes")
        return self


class Identity(_Section):
    """`identity`: output i is input i."""

    inputs: list[Tensor] = Field(min_length=1)
    outputs: list[Tensor] | None = None


SOURCES = ("model", "torch", "python", "identity")


def is_exported(path: str | None) -> bool:
    """Whether a model is one of torch.export."""
    return path is not None and path.endswith(".pt2")


class Function(_Section):
    """`functions.<name>`: one of `model`, `torch`, `python`, `identity`, and how to serve it."""

    model: str | None = Field(default=None, description="An .onnx, or a .pt2 of torch.export.")
    torch: str | None = Field(
        default=None, description="module:factory of a torch.nn.Module, or path/to/file.py:factory."
    )
    python: str | None = Field(default=None, description="module:Class, or path/to/file.py:Class.")
    python_path: str = Field(
        default="", description="Where its modules are. Default: beside the file."
    )
    identity: Identity | None = None
    args: dict[str, Any] = Field(default_factory=dict)
    version: Annotated[str, BeforeValidator(_version_text)] = "1"
    device: str = "auto"
    share: Share = ShareRange()
    instances: int = Field(default=1, ge=1, le=8)
    priority: Literal["low", "normal", "high"] = "normal"
    slo: Slo = Slo()
    batch: Batch = Batch()
    queue: Queue = Queue()
    warmup: str = ""
    side_effects: bool = False
    threads: CountOrAuto = 0
    lanes: int = Field(default=2, ge=1, le=4)
    precision: Literal["auto", "fp32", "fp16", "bf16"] = "auto"
    channels_last: bool = False
    environment: Annotated[dict[str, str], BeforeValidator(_environment)] = Field(
        default_factory=dict
    )

    @model_validator(mode="after")
    def _one_source(self) -> Function:
        given = [key for key in SOURCES if getattr(self, key) is not None]
        if not given:
            raise wrong(f"says nothing to serve; add one of {', '.join(SOURCES)}")
        if len(given) > 1:
            raise wrong(f"{' and '.join(given)} exclude each other; keep one")
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
        if self.args and not is_code:
            raise wrong("args goes with python and torch only; setup, or the factory, gets them")
        is_torch = self.torch is not None or is_exported(self.model)
        for key in ("precision", "channels_last"):
            if getattr(self, key) not in ("auto", False) and not is_torch:
                raise wrong(f"{key} goes with torch, and with .pt2 models, only")
        return self


def _check_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise wrong(
            f"{name!r} cannot be a function's name; use up to 64 letters, digits, '.', '_' and '-'"
        )
    return name


FunctionName = Annotated[str, AfterValidator(_check_name)]


def _or_auto_schema(schema: dict[str, Any]) -> None:
    mapping = {key: schema.pop(key) for key in ("type", "additionalProperties")}
    schema["anyOf"] = [mapping, {"const": "auto"}]


class NodeFile(_Section):
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
