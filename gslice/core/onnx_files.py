"""The files in which an ONNX model keeps its weights, without the packages that read ONNX.

Looked at are the initializers of the model's graph, where exporters put them; tensors within nodes
and their sub-graphs are not.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Field numbers of onnx.proto.
_MODEL_GRAPH = 7
_GRAPH_INITIALIZER = 5
_TENSOR_EXTERNAL_DATA = 13
_ENTRY_KEY, _ENTRY_VALUE = 1, 2

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_NAME_MAX_BYTES = 4096
_Span = tuple[int, int]


def external_files(model: Path) -> list[str]:
    """Their names, relative to the model's directory, each once and in order.

    A file that cannot be read, or that is no ONNX model, has none: the load will say more.
    """
    if not model.is_file():
        return []
    try:
        # Not mapped: whoever truncates it while it is read would end this process.
        with model.open("rb") as file:
            return sorted(set(_locations(file, (0, os.fstat(file.fileno()).st_size))))
    except (OSError, ValueError):
        return []


def _locations(file: BinaryIO, whole: _Span) -> Iterator[str]:
    for graph in _fields(file, whole, _MODEL_GRAPH):
        for tensor in _fields(file, graph, _GRAPH_INITIALIZER):
            for entry in _fields(file, tensor, _TENSOR_EXTERNAL_DATA):
                if _text(file, entry, _ENTRY_KEY) == "location":
                    yield _text(file, entry, _ENTRY_VALUE)


def _text(file: BinaryIO, span: _Span, field: int) -> str:
    for start, end in _fields(file, span, field):
        if end - start > _NAME_MAX_BYTES:
            raise ValueError("the name of a file is too long")
        file.seek(start)
        return file.read(end - start).decode()
    return ""


def _fields(file: BinaryIO, span: _Span, wanted: int) -> Iterator[_Span]:
    """Where the bytes of every field of one number are; all others are passed over.

    Raises:
        ValueError: this is no protobuf message.
    """
    at, end = span
    while at < end:
        file.seek(at)
        tag = _varint(file)
        kind = tag & 7
        size = _varint(file) if kind in (_VARINT, _BYTES) else 0
        at = file.tell()
        if kind == _BYTES:
            if at + size > end:
                raise ValueError("a field goes beyond its message")
            if tag >> 3 == wanted:
                yield at, at + size
            at += size
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        elif kind != _VARINT:
            raise ValueError(f"no field has the wire type {kind}")


def _varint(file: BinaryIO) -> int:
    value = shift = 0
    while shift < 64:
        byte = file.read(1)
        if not byte:
            raise ValueError("the file ends within a number")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
        shift += 7
    raise ValueError("a number has no end")
