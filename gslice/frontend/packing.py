"""Messages that clients have compressed, by gzip or deflate."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_WINDOW_BITS = {"gzip": 31, "deflate": 15}  # as zlib wants to hear it
PACKINGS = tuple(_WINDOW_BITS)
_PIECE_BYTES = 1 << 20


def unpacked(data: bytes | bytearray, packing: str) -> Iterator[bytes]:
    """What was compressed, in pieces: all of it may be a thousand times as large.

    Args:
        data: All of it.
        packing: One of `PACKINGS`.

    Raises:
        ValueError: It cannot be read, or is cut off.
    """
    unpacker = zlib.decompressobj(_WINDOW_BITS[packing])
    try:
        piece = unpacker.decompress(data, _PIECE_BYTES)
        while piece or not unpacker.eof:
            if not piece:
                raise ValueError("it is cut off")
            yield piece
            piece = unpacker.decompress(unpacker.unconsumed_tail, _PIECE_BYTES)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if unpacker.unused_data:
        raise ValueError("something follows its end")


def packed(data: bytes, packing: str) -> bytes:
    """Compresses, lightly."""
    packer = zlib.compressobj(1, wbits=_WINDOW_BITS[packing])
    return packer.compress(data) + packer.flush()
