"""Messages of the protocol as JSON, and the JSON Schema of each: both from its descriptor."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import FieldDescriptor

_NUMBERS = {
    FieldDescriptor.CPPTYPE_INT32: "integer",
    FieldDescriptor.CPPTYPE_INT64: "integer",
    FieldDescriptor.CPPTYPE_UINT32: "integer",
    FieldDescriptor.CPPTYPE_UINT64: "integer",
    FieldDescriptor.CPPTYPE_FLOAT: "number",
    FieldDescriptor.CPPTYPE_DOUBLE: "number",
    FieldDescriptor.CPPTYPE_BOOL: "boolean",
    FieldDescriptor.CPPTYPE_STRING: "string",
    FieldDescriptor.CPPTYPE_ENUM: "string",
}


def to_json(found: Any) -> dict[str, Any]:
    """A message with all of its fields; but of messages in it, only those that are set.

    Unlike protobuf's own JSON, 64-bit numbers are numbers: clients of this protocol expect them.
    """
    return {
        field.name: _value(field, getattr(found, field.name))
        for field in found.DESCRIPTOR.fields
        if not field.has_presence or found.HasField(field.name)
    }


def schema_of(descriptor: Any, needed: tuple[str, ...] = ()) -> dict[str, Any]:
    """The JSON Schema of what `to_json` makes of a message; messages in it are written out.

    Args:
        descriptor: The message's.
        needed: Fields that a request must have.
    """
    properties = {field.name: _schema(field) for field in descriptor.fields}
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    if needed:
        schema["required"] = list(needed)
    return schema


def _value(field: Any, value: Any) -> Any:
    if _is_map(field):
        inner = field.message_type.fields_by_name["value"]
        return {key: _single(inner, each) for key, each in value.items()}
    if _is_repeated(field):
        return [_single(field, each) for each in value]
    return _single(field, value)


def _single(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return to_json(value)
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name
    return value


def _schema(field: Any) -> dict[str, Any]:
    if _is_map(field):
        inner = field.message_type.fields_by_name["value"]
        return {"type": "object", "additionalProperties": _single_schema(inner)}
    if _is_repeated(field):
        return {"type": "array", "items": _single_schema(field)}
    return _single_schema(field)


def _single_schema(field: Any) -> dict[str, Any]:
    if field.message_type is not None:
        return schema_of(field.message_type)
    schema: dict[str, Any] = {"type": _NUMBERS[field.cpp_type]}
    if field.enum_type is not None:
        schema["enum"] = list(field.enum_type.values_by_name)
    return schema


def _is_map(field: Any) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _is_repeated(field: Any) -> bool:
    # `is_repeated` came with protobuf 6.31, where `label` began to warn.
    if hasattr(field, "is_repeated"):
        return bool(field.is_repeated)
    return bool(field.label == FieldDescriptor.LABEL_REPEATED)
