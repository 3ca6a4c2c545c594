"""What a front-end does not need any more goes back to the kernel, if it is much."""

from __future__ import annotations

import ctypes

from gslice.frontend import memory

MIB = 1 << 20
_PIECE_BYTES = 64 << 10  # from the heap, as it is below what glibc maps by itself


def test_what_something_small_pins_is_given_back() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    heap = memory.Heap()
    before = memory.own_bytes()
    pieces = [libc.malloc(_PIECE_BYTES) for _ in range(160 * MIB // _PIECE_BYTES)]
    for piece in pieces:
        ctypes.memset(piece, 1, _PIECE_BYTES)
    pins = pieces[::64]
    for piece in set(pieces) - set(pins):
        libc.free(piece)
    assert memory.own_bytes() > before + 100 * MIB
    heap.look()
    assert memory.own_bytes() < before + 32 * MIB
    for piece in pins:
        libc.free(piece)


def test_a_little_is_kept(monkeypatch) -> None:
    heap, trims = memory.Heap(), []
    heap._trim = trims.append
    own = memory.own_bytes()
    for more, times in ((63, 0), (65, 1), (65 + 63, 1), (65 + 65, 2)):
        monkeypatch.setattr(memory, "own_bytes", lambda more=more: own + more * MIB)
        heap.look()
        assert len(trims) == times
