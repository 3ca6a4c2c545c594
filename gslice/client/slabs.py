"""Memory that a client and a server on the same host share: large tensors skip the network.

A client has memfds of its own, sealed against shrinking, which the server maps. Each request gets
areas of them for its large inputs and outputs. An area is used again once the server has answered
and nobody holds the arrays in it any more. One of a request that was given up is never used again:
the server may still read or write it.
"""

from __future__ import annotations

import collections
import fcntl
import ipaddress
import mmap
import os
import secrets
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from gslice.core.errors import (
    Cancelled,
    DeadlineExceeded,
    GsliceError,
    ResourceExhausted,
    Unavailable,
)

SLAB_BYTES_MIN = 4 << 20
SLABS_BYTES_MAX = 256 << 20
_STEP_BYTES = 64 << 10  # areas are multiples, so that later tensors find those of earlier ones
_ASK_AGAIN_S = 5.0  # who is short of something, or away
_REFUSED_S = 60.0  # who refuses: an upgrade, or other settings, may change its mind
_PASSING = (Cancelled, DeadlineExceeded, ResourceExhausted, Unavailable)


def is_local(url: str) -> bool:
    """Whether a target can only be on this host."""
    if url.startswith(("unix:", "unix-abstract:")):
        return True
    host = url.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Slab:
    """One memfd and the areas in it.

    Attributes:
        name: As the server knows it: a secret, for who knows it may use it.
        key: Where the server finds it.
        size_bytes: Of all areas.
        lost_bytes: Of areas that are never used again.
    """

    def __init__(self, size_bytes: int) -> None:
        self.name = f"gslice-client:{secrets.token_hex(16)}"
        self.size_bytes = size_bytes
        self.lost_bytes = 0
        self._fd = os.memfd_create(self.name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self._fd, size_bytes)
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, seals)
            self._memory = np.frombuffer(mmap.mmap(self._fd, size_bytes), np.uint8)
        except BaseException:
            os.close(self._fd)
            raise
        self.key = f"/proc/{os.getpid()}/fd/{self._fd}"
        self.address = int(self._memory.__array_interface__["data"][0])
        self._used_bytes = 0
        self._free: dict[int, list[int]] = {}
        self._returned: collections.deque[tuple[int, int]] = collections.deque()

    def take(self, size_bytes: int) -> Area | None:
        """An area; None: there is no room. One thread at a time."""
        while self._returned:
            size, offset = self._returned.popleft()
            self._free.setdefault(size, []).append(offset)
        size = rounded(size_bytes)
        if offsets := self._free.get(size):
            return Area(self, offsets.pop(), size)
        if self._used_bytes + size > self.size_bytes:
            return None
        self._used_bytes += size
        return Area(self, self._used_bytes - size, size)

    def give_back(self, offset_bytes: int, size_bytes: int) -> None:
        """From any thread, also in the midst of a collection of garbage: takes no lock."""
        self._returned.append((size_bytes, offset_bytes))

    def close_fd(self) -> None:
        """The server has it, or never will; the memory lives as long as arrays in it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Area:
    """A place for one tensor. It goes back to its slab with the last array that lies in it."""

    def __init__(self, slab: Slab, offset_bytes: int, size_bytes: int) -> None:
        self.slab = slab
        self.offset_bytes = offset_bytes
        self.size_bytes = size_bytes
        self.forfeit = False
        self.__array_interface__ = {
            "data": (slab.address + offset_bytes, False),
            "shape": (size_bytes,),
            "typestr": "|u1",
            "version": 3,
        }

    def __del__(self) -> None:
        if not self.forfeit:
            self.slab.give_back(self.offset_bytes, self.size_bytes)

    def array(self, dtype: np.dtype[Any], shape: Sequence[int]) -> np.ndarray:
        """Its first bytes as an array, which holds the area.

        Raises:
            ValueError: They are not enough.
        """
        size_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        return np.asarray(self)[:size_bytes].view(dtype).reshape(shape)


def rounded(size_bytes: int) -> int:
    """How much of a slab an area of that size takes."""
    return -(-size_bytes // _STEP_BYTES) * _STEP_BYTES


class Slabs:
    """Those of one client. Threads may share them.

    Args:
        url: The server's.
    """

    def __init__(self, url: str) -> None:
        self._lock = threading.Lock()
        self._slabs: list[Slab] = []
        self._pid = os.getpid()
        self._silent_until_s = 0.0 if is_local(url) else float("inf")

    @property
    def in_use(self) -> bool:
        """Whether the server has taken some of it."""
        return bool(self._slabs)

    @property
    def usable(self) -> bool:
        """Whether to try: the server is here and has not refused just now, and this is no fork."""
        return time.monotonic() >= self._silent_until_s and os.getpid() == self._pid

    def take(self, sizes: Sequence[int]) -> list[Area] | None:
        """Areas of these sizes; None: there is not the room for all of them."""
        with self._lock:
            areas = []
            for size in sizes:
                found = (slab.take(size) for slab in self._slabs)
                area = next((area for area in found if area is not None), None)
                if area is None:
                    return None  # those that were found go back by themselves
                areas.append(area)
            return areas

    def grow(self, sizes: Sequence[int]) -> Slab | None:
        """A slab with room for these; None: that would be too much, or is not to be had.

        The server has to know it before it is `added`. One thread at a time.
        """
        taken = sum(slab.size_bytes for slab in self._slabs)
        needed = sum(rounded(size) for size in sizes)
        size = max(SLAB_BYTES_MIN, needed, min(taken, SLABS_BYTES_MAX - taken))
        if taken + size > SLABS_BYTES_MAX:
            return None
        try:
            return Slab(size)
        except OSError:  # no descriptor, no memory: the network still works
            return None

    def added(self, slab: Slab) -> None:
        """The server knows it."""
        slab.close_fd()
        with self._lock:
            self._slabs.append(slab)

    def refused(self, slab: Slab, error: GsliceError) -> list[Slab]:
        """The server does not take it: it is not asked again soon.

        Returns:
            The slab, if the server may have taken it all the same.
        """
        slab.close_fd()
        passing = isinstance(error, _PASSING)
        self._silent_until_s = time.monotonic() + (_ASK_AGAIN_S if passing else _REFUSED_S)
        return [slab] if passing else []

    def forfeit(self, areas: Sequence[Area]) -> list[Slab]:
        """Never uses these areas again; slabs that are lost for the most part are given up.

        Returns:
            Those slabs, for the server to forget.
        """
        with self._lock:
            for area in areas:
                if not area.forfeit:
                    area.forfeit = True
                    area.slab.lost_bytes += area.size_bytes
            lost = [slab for slab in self._slabs if slab.lost_bytes * 2 > slab.size_bytes]
            self._slabs = [slab for slab in self._slabs if slab not in lost]
        return lost

    def drop(self) -> list[Slab]:
        """Gives all up; they are returned for the server to forget."""
        with self._lock:
            gone, self._slabs = self._slabs, []
        return gone
