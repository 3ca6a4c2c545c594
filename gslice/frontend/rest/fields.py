"""Fields of a JSON object by their types, with errors that say where they are."""

from __future__ import annotations

import json
from typing import Any

from gslice.core.errors import InvalidArgument

_INT64 = range(-(1 << 63), 1 << 63)
_UINT64 = range(1 << 64)


def parse_object(text: bytes | memoryview, what: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        InvalidArgument: It is none.
    """
    try:
        found = json.loads(str(text, "utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"{what} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise InvalidArgument(f"{what} must be a JSON object")
    return found


def text_field(found: dict[str, Any], key: str, where: str = "", *, needed: bool = False) -> str:
    """A string; empty if it is not there.

    Raises:
        InvalidArgument: It is something else, or lacks although it is needed.
    """
    value = found.get(key, None if needed else "")
    if not isinstance(value, str):
        raise InvalidArgument(f"{where}{key} must be a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"{where}{key}: half a surrogate pair is no text") from error
    return value


def list_field(found: dict[str, Any], key: str, kind: type, where: str = "") -> list[Any]:
    """A list of strings, numbers or objects; empty if it is not there.

    Raises:
        InvalidArgument: It is something else.
    """
    value = found.get(key, [])
    if not isinstance(value, list) or any(type(item) is not kind for item in value):
        names = {int: "integers", dict: "objects", str: "strings"}
        raise InvalidArgument(f"{where}{key} must be a list of {names[kind]}")
    return value


def flag_field(found: dict[str, Any], key: str, where: str = "") -> bool | None:
    """True, false, or None if it is not there.

    Raises:
        InvalidArgument: It is something else.
    """
    value = found.get(key)
    if value is not None and not isinstance(value, bool):
        raise InvalidArgument(f"{where}{key} must be true or false")
    return value


def size_field(found: dict[str, Any], key: str, where: str = "") -> int | None:
    """A number of bytes, or None if it is not there.

    Raises:
        InvalidArgument: It is something else.
    """
    value = found.get(key)
    if value is not None and (type(value) is not int or value not in _UINT64):
        raise InvalidArgument(f"{where}{key} must be a number of bytes, 0 or more")
    return value


def object_field(found: dict[str, Any], key: str, where: str = "") -> dict[str, Any]:
    """An object; an empty one if it is not there.

    Raises:
        InvalidArgument: It is something else.
    """
    value = found.get(key, {})
    if not isinstance(value, dict):
        raise InvalidArgument(f"{where}{key} must be an object")
    return value


def add_shape(field: Any, shape: list[int], where: str) -> None:
    """Puts a shape into a message.

    Raises:
        InvalidArgument: A dimension is no 64-bit number.
    """
    if any(dim not in _INT64 for dim in shape):
        raise InvalidArgument(f"{where}shape has a dimension of more than 64 bits")
    field.extend(shape)


def add_parameters(field: Any, parameters: dict[str, Any], where: str) -> None:
    """Puts parameters into a message, each as the kind that it is.

    Raises:
        InvalidArgument: One is of no kind that a parameter can have.
    """
    for name in parameters:
        text = text_field({"name": name}, "name", where)
        value = parameters[name]
        if isinstance(value, bool):
            field[text].bool_param = value
        elif isinstance(value, str):
            field[text].string_param = text_field(parameters, name, where)
        elif isinstance(value, float):
            field[text].double_param = value
        elif isinstance(value, int) and value in _INT64:
            field[text].int64_param = value
        elif isinstance(value, int) and value in _UINT64:
            field[text].uint64_param = value
        else:
            raise InvalidArgument(
                f"{where}{text} must be a string, a number of at most 64 bits, true or false"
            )


def plain_parameters(field: Any) -> dict[str, Any]:
    """A message's parameters as JSON has them."""
    return {
        name: getattr(value, kind)
        for name, value in field.items()
        if (kind := value.WhichOneof("parameter_choice")) is not None
    }


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number in JSON")
