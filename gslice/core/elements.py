"""BYTES tensors: each element is a 4-byte little-endian length and its bytes."""

from __future__ import annotations

import struct
from collections.abc import Iterable

_LENGTH = struct.Struct("<I")


def decode_elements(data: bytes | memoryview) -> list[bytes]:
    """The elements of a serialised tensor.

    Raises:
        ValueError: An element is cut off.
    """
    elements = []
    offset = 0
    while offset < len(data):
        if len(data) - offset < _LENGTH.size:
            raise ValueError("the length of a BYTES element is cut off")
        (length,) = _LENGTH.unpack_from(data, offset)
        offset += _LENGTH.size
        if len(data) - offset < length:
            raise ValueError("a BYTES element is cut off")
        elements.append(bytes(data[offset : offset + length]))
        offset += length
    return elements


def encode_elements(elements: Iterable[bytes | str]) -> bytes:
    """Serialises elements; text becomes UTF-8.

    Raises:
        TypeError: An element is neither bytes nor text.
    """
    parts = []
    for element in elements:
        data = element.encode() if isinstance(element, str) else element
        if not isinstance(data, bytes):
            raise TypeError(f"a BYTES element must be bytes or str, not {type(data).__name__}")
        parts.append(_LENGTH.pack(len(data)))
        parts.append(data)
    return b"".join(parts)
