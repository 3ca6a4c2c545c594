"""JSON Schemas of what this protocol has beside the messages that it shares with gRPC."""

from __future__ import annotations

from typing import Any

from gslice.core.types import ELEMENT_BYTES

NOTHING: dict[str, Any] = {"type": "object", "properties": {}}
_TEXT = {"type": "string"}
_SHAPE = {"type": "array", "items": {"type": "integer"}}
_SIZE = {"type": "integer", "minimum": 0}
_DATATYPE = {"type": "string", "enum": list(ELEMENT_BYTES)}
_DATA = {
    "type": "array",
    "items": {},
    "description": (
        "Elements in row-major order, flat or nested as the shape is. BYTES are strings, BOOL is"
        " true or false. In answers flat; what JSON has no number for (NaN, infinite) is null."
    ),
}
_REGION = {
    "shared_memory_region": {
        **_TEXT,
        "description": "Name of a registered region that has the tensor instead of the body.",
    },
    "shared_memory_byte_size": _SIZE,
    "shared_memory_offset": _SIZE,
}


def _object(needed: tuple[str, ...] = (), /, **properties: Any) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    return {**schema, "required": list(needed)} if needed else schema


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


ERROR = _object(("error",), error=_TEXT)
READY = _object(("name", "ready"), name=_TEXT, ready={"type": "boolean"})
HEALTHY = _object(live={"type": "boolean"})
DOCUMENT: dict[str, Any] = {"type": "object"}
PAGE = _TEXT

_INPUT = _object(
    ("name", "datatype", "shape"),
    name=_TEXT,
    datatype=_DATATYPE,
    shape=_SHAPE,
    data=_DATA,
    parameters=_object(
        binary_data_size={**_SIZE, "description": "Its bytes behind the JSON, in place of data."},
        **_REGION,
    ),
)
_ASKED_OUTPUT = _object(
    ("name",),
    name=_TEXT,
    parameters=_object(
        binary_data={"type": "boolean", "description": "It comes as bytes behind the JSON."},
        **_REGION,
    ),
)
INFER_REQUEST = _object(
    ("inputs",),
    id={**_TEXT, "description": "Comes back with the answer."},
    parameters=_object(
        binary_data_output={
            "type": "boolean",
            "description": "Outputs that say nothing else come as bytes behind the JSON.",
        },
        timeout={**_SIZE, "description": "Microseconds until 504 is the answer."},
    ),
    inputs=_list(_INPUT),
    outputs={**_list(_ASKED_OUTPUT), "description": "Those to answer. Default: all."},
)
INFER_ANSWER = _object(
    ("model_name", "model_version", "outputs"),
    model_name=_TEXT,
    model_version=_TEXT,
    id=_TEXT,
    parameters=_object(),
    outputs=_list(
        _object(
            ("name", "datatype", "shape"),
            name=_TEXT,
            datatype=_DATATYPE,
            shape=_SHAPE,
            data=_DATA,
            parameters=_object(binary_data_size=_SIZE, **_REGION),
        )
    ),
)
INDEX_REQUEST = _object(ready={"type": "boolean", "description": "Only functions that are READY."})
LOAD_REQUEST = _object(
    parameters=_object(
        config={**_TEXT, "description": "JSON of settings that replace those of node.yaml."}
    )
)
UNLOAD_REQUEST = _object(parameters=_object(unload_dependents={"type": "boolean"}))
REGISTER_REQUEST = _object(("key", "byte_size"), key=_TEXT, offset=_SIZE, byte_size=_SIZE)
