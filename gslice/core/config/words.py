"""Values of node.yaml that carry a unit or have words of their own, as pydantic types."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, WithJsonSchema
from pydantic_core import PydanticCustomError

from gslice.core.errors import InvalidArgument
from gslice.core.units import (
    format_duration,
    format_percent,
    format_size,
    parse_duration,
    parse_percent,
    parse_size,
)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ONNX_FLAGS = ("batched", "cpu_nodes")
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")


_USER = re.compile(r"[a-z_][a-z0-9_.-]{0,31}|[0-9]{1,10}")


def wrong(text: str) -> PydanticCustomError:
    """An error whose text is already what a person should read."""
    return PydanticCustomError("gslice", "{text}", {"text": text})


def parsed(value: Any, parse: Callable[[str], Any], expected: str, advice: str = "") -> Any:
    """What text with a unit means; text and numbers only."""
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
        amount = parsed(value, parse, f"{what}, as in {example}")
        if amount in instead.values():  # nothing silently means what has a word of its own
            raise wrong(f"must be {what}, not {value}")
        return amount

    return BeforeValidator(read)


def _written(write: Callable[[Any], Any], **instead: Any) -> PlainSerializer:
    """The other way: the schema shows defaults as they are written in the file."""
    words = {value: word for word, value in instead.items()}
    return PlainSerializer(
        lambda amount: words[amount] if amount in words else write(amount), when_used="json"
    )


def at_least(least: int, text: str) -> AfterValidator:
    """A lower bound, in words with its unit."""

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
    _written(format_duration),
    _text_schema(f"^{_DURATION_PATTERN}$", "30ms", "2s"),
]
DurationOrNone = Annotated[
    int,
    _words(parse_duration, "a duration or `none`", "30ms", none=0),
    _written(format_duration, none=0),
    _text_schema(f"^({_DURATION_PATTERN}|none)$", "30ms", "none"),
]
DurationOrAuto = Annotated[
    int,
    _words(parse_duration, "a duration or `auto`", "2ms", auto=-1),
    _written(format_duration, auto=-1),
    _text_schema(f"^({_DURATION_PATTERN}|auto)$", "2ms", "auto"),
]
Size = Annotated[
    int,
    _words(parse_size, "a size", "64MiB"),
    _written(format_size),
    _text_schema(f"^{_SIZE_PATTERN}$", "64MiB", "1GB"),
]
PositiveSize = Annotated[Size, at_least(1, "1B")]
SizeOrAuto = Annotated[
    int,
    _words(parse_size, "a size or `auto`", "4GiB", auto=0),
    _written(format_size, auto=0),
    _text_schema(f"^({_SIZE_PATTERN}|auto)$", "4GiB", "auto"),
]
SizeOrNone = Annotated[
    int,
    _words(parse_size, "a size or `none`", "4GiB", none=0),
    _written(format_size, none=0),
    _text_schema(f"^({_SIZE_PATTERN}|none)$", "4GiB", "none"),
]
Percent = Annotated[
    float,
    _words(parse_percent, "a percentage", "40%"),
    _written(format_percent),
    _text_schema(r"^[0-9]+(\.[0-9]+)?%$", "40%"),
]


def _address(value: Any) -> Any:
    match = _ADDRESS.fullmatch(value) if isinstance(value, str) else None
    if match is None or int(match[2]) > 65535:
        raise wrong(f"{value!r} is not an address; write host:port, as in 127.0.0.1:8001")
    return value


def _address_or_off(value: Any) -> Any:
    return "" if value == "off" else _address(value)


def _count_or_auto(value: Any) -> Any:
    if value == 0 and not isinstance(value, bool):
        raise wrong("must be at least 1, or `auto`")
    return 0 if value == "auto" else value


def _spares(value: Any) -> Any:
    if value == "auto":
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 16:
        raise wrong("must be a number from 0 to 16, or `auto`")
    return value


def served_version(value: Any) -> Any:
    """The number of a version as text, which is what the protocol has, or `latest`."""
    text = str(value)
    if text != "latest" and (isinstance(value, bool) or not is_version(text)):
        raise wrong(f"{text!r} is not a version; write the number of one, as in 1, or `latest`")
    return text


def is_version(text: str) -> bool:
    """Whether a text is the number of a version."""
    return re.fullmatch(r"[1-9][0-9]{0,17}", text) is not None


def environment_text(value: Any) -> Any:
    """Variables of an environment: whatever is written, as text."""
    if not isinstance(value, dict):
        return value
    for key, entry in value.items():
        if isinstance(entry, (bool, dict, list)) or entry is None:
            raise wrong(f"{key} must be text; put it in quotes, as in {key}: '1'")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key):
            raise wrong(f"{key!r} cannot be the name of an environment variable")
    return {key: str(entry) for key, entry in value.items()}


def argument_texts(value: Any) -> Any:
    """A command line: a list of words, of which numbers are some."""
    if not isinstance(value, list):
        raise wrong("must be a list of words, as in [vllm, serve, --port, 9000]")
    if not value:
        raise wrong("must name a program, as in [vllm, serve]")
    for word in value:
        if isinstance(word, bool) or not isinstance(word, (str, int)) or "\0" in str(word):
            raise wrong(f"{word!r} must be text; put it in quotes, as in ['{word}']")
    if not str(value[0]).strip():
        raise wrong("its first word is the program, and is empty")
    return [str(word) for word in value]


def check_onnx_args(args: Mapping[str, Any]) -> None:
    """What the ONNX engine takes besides the model."""
    for key, value in args.items():
        if key == "arena":
            try:
                parse_size(str(value))
            except InvalidArgument as error:
                raise wrong(f"args.arena: {error.message}") from error
        elif key not in _ONNX_FLAGS:
            raise wrong(f"args.{key}: an .onnx model takes {', '.join(_ONNX_FLAGS)} and arena")
        elif not isinstance(value, bool):
            raise wrong(f"args.{key}: {value!r} must be true or false")


def _web_address(value: Any) -> Any:
    try:
        url = urllib.parse.urlsplit(value) if isinstance(value, str) else None
        known = url is not None and url.scheme in ("http", "https") and bool(url.hostname)
        known = known and url is not None and (url.port is None or url.port > 0)
    except ValueError:  # its port is no number, or its host no address
        known = False
    if not known or re.search(r"[\s\x00-\x1f]", value) or not value.isascii():
        raise wrong(f"{value!r} is not a URL; write one as in http://127.0.0.1:9000/health")
    return value


def _memory_prefix(value: str) -> str:
    if not re.fullmatch(r"/[^/\0]{1,200}", value):
        raise wrong(f"{value!r} is no prefix of keys; write one as in /name-, without another /")
    return value


Address = Annotated[str, BeforeValidator(_address)]
AddressOrOff = Annotated[str, BeforeValidator(_address_or_off), _written(str, off="")]
MemoryPrefix = Annotated[
    str,
    AfterValidator(_memory_prefix),
    Field(description="Of the keys in /dev/shm, as in /name-."),
    WithJsonSchema({"type": "string", "pattern": "^/[^/]+$", "examples": ["/triton-"]}),
]
WebAddress = Annotated[
    str,
    BeforeValidator(_web_address),
    WithJsonSchema({"type": "string", "pattern": "^https?://[^ ]+$"}),
]
CountOrAuto = Annotated[
    int,
    BeforeValidator(_count_or_auto),
    Field(ge=0, le=65_536),
    _written(int, auto=0),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"const": "auto"}]}),
]


def _worker_user(value: Any) -> Any:
    """A user by its name, or by its number; `auto` and `none` look like names."""
    text = str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else ""
    if not _USER.fullmatch(text):
        raise wrong("must be a user's name or number, auto or none")
    return text


WorkerUser = Annotated[
    str,
    BeforeValidator(_worker_user),
    WithJsonSchema({"type": ["string", "integer"]}),
]
SpareCount = Annotated[
    int | None,
    BeforeValidator(_spares),
    _written(int, auto=None),
    WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 16}, {"const": "auto"}]}
    ),
]
