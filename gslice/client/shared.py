"""What the clients say to the server of their shared memory: slabs that come and go."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterable
from typing import Any

import grpc

from gslice.client import calls
from gslice.client.places import Places, Wanted
from gslice.client.slabs import Slab, Slabs
from gslice.core.errors import (
    Cancelled,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unimplemented,
)

_CLOSE_TIMEOUT_S = 1.0  # a server that is gone has forgotten
# Whoever answers so has done with the request; others may come while the server still works on it.
_ANSWERS = (FailedPrecondition, Internal, ResourceExhausted, Unimplemented)


class _Shared:
    """What both have.

    Args:
        stub: The service's.
        url: The server's.

    Attributes:
        slabs: Of this client.
    """

    def __init__(self, stub: Any, url: str) -> None:
        self._stub = stub
        self.slabs = Slabs(url)

    def failed(self, places: Places, error: BaseException) -> bool:
        """A request failed.

        Args:
            places: Its areas.
            error: Why.

        Returns:
            Whether that may be for its areas, and it may do better without: nothing has run.
        """
        if isinstance(error, NotFound):  # another server, which knows no slab of ours
            self._forget(self.slabs.drop())
            return True
        if isinstance(error, InvalidArgument):  # another function, with larger outputs
            return True
        if not isinstance(error, _ANSWERS):
            self._forget(self.slabs.forfeit(places.areas))
        return False

    def _forget(self, slabs: Iterable[Slab]) -> None:
        raise NotImplementedError


class SharedCalls(_Shared):
    """The blocking client's."""

    def __init__(self, stub: Any, url: str) -> None:
        super().__init__(stub, url)
        self._growing = threading.Lock()
        self._forgetting: set[Any] = set()

    def places(self, wanted: Wanted, timeout_s: float | None) -> Places | None:
        """Areas for a request's large tensors; None: it has none, or there is no room."""
        sizes = wanted.sizes
        if not sizes:
            return None
        areas = self.slabs.take(sizes)
        if areas is None:
            with self._growing:
                areas = self.slabs.take(sizes)
                if areas is None and self._grow(sizes, timeout_s):
                    areas = self.slabs.take(sizes)
        return None if areas is None else wanted.placed(areas)

    def close(self) -> None:
        """Has the server forget all."""
        for slab in self.slabs.drop():
            call = calls.unregister(slab)
            with contextlib.suppress(grpc.RpcError):
                getattr(self._stub, call.method)(call.request, timeout=_CLOSE_TIMEOUT_S)

    def _grow(self, sizes: list[int], timeout_s: float | None) -> bool:
        slab = self.slabs.grow(sizes) if self.slabs.usable else None
        if slab is None:
            return False
        call = calls.register(slab)
        try:
            getattr(self._stub, call.method)(call.request, timeout=timeout_s)
        except grpc.RpcError as error:
            self._forget(self.slabs.refused(slab, calls.error_of(error)))
            return False
        self.slabs.added(slab)
        return True

    def _forget(self, slabs: Iterable[Slab]) -> None:
        for slab in slabs:
            call = calls.unregister(slab)
            future = getattr(self._stub, call.method).future(call.request, timeout=_CLOSE_TIMEOUT_S)
            self._forgetting.add(future)  # gRPC cancels the call of a future that nobody holds
            future.add_done_callback(self._forgetting.discard)


class AioSharedCalls(_Shared):
    """The asyncio client's."""

    def __init__(self, stub: Any, url: str) -> None:
        super().__init__(stub, url)
        self._growing = asyncio.Lock()
        self._forgetting: set[asyncio.Task[None]] = set()

    async def places(self, wanted: Wanted, timeout_s: float | None) -> Places | None:
        """As `SharedCalls.places`."""
        sizes = wanted.sizes
        if not sizes:
            return None
        areas = self.slabs.take(sizes)
        if areas is None:
            async with self._growing:
                areas = self.slabs.take(sizes)
                if areas is None and await self._grow(sizes, timeout_s):
                    areas = self.slabs.take(sizes)
        return None if areas is None else wanted.placed(areas)

    async def close(self) -> None:
        """Has the server forget all."""
        self._forget(self.slabs.drop())
        await asyncio.gather(*self._forgetting)

    async def _grow(self, sizes: list[int], timeout_s: float | None) -> bool:
        slab = self.slabs.grow(sizes) if self.slabs.usable else None
        if slab is None:
            return False
        call = calls.register(slab)
        try:
            await getattr(self._stub, call.method)(call.request, timeout=timeout_s)
        except BaseException as error:
            reason = calls.error_of(error) if isinstance(error, grpc.RpcError) else Cancelled("")
            self._forget(self.slabs.refused(slab, reason))
            if not isinstance(error, grpc.RpcError):
                raise
            return False
        self.slabs.added(slab)
        return True

    def _forget(self, slabs: Iterable[Slab]) -> None:
        for slab in slabs:
            task = asyncio.get_running_loop().create_task(self._unregister(slab))
            self._forgetting.add(task)
            task.add_done_callback(self._forgetting.discard)

    async def _unregister(self, slab: Slab) -> None:
        call = calls.unregister(slab)
        with contextlib.suppress(grpc.RpcError):
            await getattr(self._stub, call.method)(call.request, timeout=_CLOSE_TIMEOUT_S)
