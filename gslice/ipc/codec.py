"""Dataclasses to JSON values and back, driven by type hints.

Knows nested dataclasses, tuples, lists, dictionaries with text keys, optional fields, `Any` and
the JSON scalars. Unknown fields are ignored, so that a newer peer may say more; a missing or
ill-typed one is an error that names its path.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from typing import Any, TypeVar

from gslice.core.errors import InvalidArgument

T = TypeVar("T")


def to_json(value: Any) -> Any:
    """The JSON value of a dataclass, or of anything a dataclass field may hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    return value


def from_json(cls: type[T], value: Any) -> T:
    """The dataclass that a JSON value stands for.

    Raises:
        InvalidArgument: A required field is missing, or a value has another type than its field.
    """
    decoded: T = _decode(cls, value, cls.__name__)
    return decoded


def _decode(hint: Any, value: Any, path: str) -> Any:
    if hint is Any:
        return value
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType or origin is typing.Union:
        return _decode_optional(args, value, path)
    if origin is tuple:
        items = _expect(list, value, path)
        hints = [args[0]] * len(items) if args[-1] is Ellipsis else args
        if len(hints) != len(items):
            raise InvalidArgument(f"{path}: expected {len(hints)} items, got {len(items)}")
        return tuple(_decode_items(hints, items, path))
    if origin is list:
        items = _expect(list, value, path)
        return list(_decode_items([args[0]] * len(items), items, path))
    if origin is dict:
        entries = _expect(dict, value, path)
        return {key: _decode(args[1], item, f"{path}.{key}") for key, item in entries.items()}
    if dataclasses.is_dataclass(hint):
        return _decode_dataclass(typing.cast("type", hint), value, path)
    if hint is float and type(value) is int:
        return float(value)
    return _expect(hint, value, path)


def _decode_items(hints: typing.Iterable[Any], items: list[Any], path: str) -> list[Any]:
    return [
        _decode(hint, item, f"{path}[{index}]")
        for index, (hint, item) in enumerate(zip(hints, items, strict=True))
    ]


def _decode_optional(args: tuple[Any, ...], value: Any, path: str) -> Any:
    if value is None and types.NoneType in args:
        return None
    (hint,) = (arg for arg in args if arg is not types.NoneType)
    return _decode(hint, value, path)


def _decode_dataclass(cls: type, value: Any, path: str) -> Any:
    entries = _expect(dict, value, path)
    hints, required = _fields(cls)
    missing = [name for name in required if name not in entries]
    if missing:
        raise InvalidArgument(f"{path}: missing {', '.join(missing)}")
    known = {
        name: _decode(hint, entries[name], f"{path}.{name}")
        for name, hint in hints.items()
        if name in entries
    }
    return cls(**known)


@functools.cache
def _fields(cls: type) -> tuple[dict[str, Any], list[str]]:
    """Type hints of a dataclass's fields, and the names that have no default."""
    resolved = typing.get_type_hints(cls)
    fields = dataclasses.fields(cls)
    required = [
        f.name
        for f in fields
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    return {f.name: resolved[f.name] for f in fields}, required


def _expect(kind: type[T], value: Any, path: str) -> T:
    # An exact match: bool is an int to isinstance, but not on the wire.
    if type(value) is not kind:
        raise InvalidArgument(f"{path}: expected {kind.__name__}, got {type(value).__name__}")
    return value
