"""What the clients say to the server of their shared memory: slabs that come and go."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Any

import grpc

from gslice.client import calls
from gslice.client.countdown import Countdown
from gslice.client.places import Places, Wanted
from gslice.client.slabs import Area, Slab, Slabs
from gslice.core.errors import (
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unimplemented,
)

_GROW_TIMEOUT_S = 1.0  # a daemon that is slow, or away, must not keep requests that can travel
_CLOSE_TIMEOUT_S = 1.0  # a server that is gone has forgotten
# Whoever answers so has done with the request; others may come while the server still works on it.
_ANSWERS = (FailedPrecondition, Internal, ResourceExhausted, Unimplemented)


class _Shared(ABC):
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

    @abstractmethod
    def _forget(self, slabs: Iterable[Slab]) -> None:
        """Has the server forget slabs; waits for nothing."""


def _placed(wanted: Wanted, areas: Sequence[Area] | None, time: Countdown) -> Places | None:
    """None: there are no areas, and the request travels.

    Raises:
        DeadlineExceeded: There is no time for it.
    """
    if areas is not None:
        return wanted.placed(areas)
    if time.left_s == 0:
        raise DeadlineExceeded(
            "the deadline passed while the server was asked to share memory",
            hint="give the first request a longer timeout_s",
        )
    return None


class SharedCalls(_Shared):
    """The blocking client's."""

    def __init__(self, stub: Any, url: str) -> None:
        super().__init__(stub, url)
        self._growing = threading.Lock()
        self._forgetting: set[Any] = set()

    def places(self, wanted: Wanted, time: Countdown) -> Places | None:
        """Areas for a request's large tensors; None: it has none, or there is no room.

        Raises:
            DeadlineExceeded: The request's time is up.
        """
        sizes = wanted.sizes
        if not sizes:
            return None
        areas = self.slabs.take(sizes)
        if areas is None:
            with self._alone(time) as alone:
                areas = self.slabs.take(sizes)
                if areas is None and alone and self._grow(sizes, time):
                    areas = self.slabs.take(sizes)
        return _placed(wanted, areas, time)

    def close(self) -> None:
        """Has the server forget all."""
        for slab in self.slabs.drop():
            call = calls.unregister(slab)
            with contextlib.suppress(grpc.RpcError):
                getattr(self._stub, call.method)(call.request, timeout=_CLOSE_TIMEOUT_S)

    def _grow(self, sizes: list[int], time: Countdown) -> bool:
        slab = self.slabs.grow(sizes) if self.slabs.usable else None
        if slab is None:
            return False
        call = calls.register(slab)
        try:
            timeout_s = time.part_s(_GROW_TIMEOUT_S)
            getattr(self._stub, call.method)(call.request, timeout=timeout_s)
        except grpc.RpcError as error:
            self._forget(self.slabs.refused(slab, calls.error_of(error)))
            return False
        self.slabs.added(slab)
        return True

    @contextlib.contextmanager
    def _alone(self, time: Countdown) -> Iterator[bool]:
        """Whether nobody else asks the server; not, where that takes another too long."""
        alone = self._growing.acquire(timeout=time.part_s(_GROW_TIMEOUT_S))
        try:
            yield alone
        finally:
            if alone:
                self._growing.release()

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

    async def places(self, wanted: Wanted, time: Countdown) -> Places | None:
        """As `SharedCalls.places`."""
        sizes = wanted.sizes
        if not sizes:
            return None
        areas = self.slabs.take(sizes)
        if areas is None:
            async with self._alone(time) as alone:
                areas = self.slabs.take(sizes)
                if areas is None and alone and await self._grow(sizes, time):
                    areas = self.slabs.take(sizes)
        return _placed(wanted, areas, time)

    async def close(self) -> None:
        """Has the server forget all."""
        self._forget(self.slabs.drop())
        await asyncio.gather(*self._forgetting)

    async def _grow(self, sizes: list[int], time: Countdown) -> bool:
        slab = self.slabs.grow(sizes) if self.slabs.usable else None
        if slab is None:
            return False
        call = calls.register(slab)
        try:
            timeout_s = time.part_s(_GROW_TIMEOUT_S)
            await getattr(self._stub, call.method)(call.request, timeout=timeout_s)
        except grpc.RpcError as error:
            self._forget(self.slabs.refused(slab, calls.error_of(error)))
            return False
        except BaseException:  # the caller was cancelled
            self._forget(self.slabs.refused(slab, Cancelled("")))
            raise
        self.slabs.added(slab)
        return True

    @contextlib.asynccontextmanager
    async def _alone(self, time: Countdown) -> AsyncIterator[bool]:
        alone = False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(time.part_s(_GROW_TIMEOUT_S)):
                alone = await self._growing.acquire()
        try:
            yield alone
        finally:
            if alone:
                self._growing.release()

    def _forget(self, slabs: Iterable[Slab]) -> None:
        for slab in slabs:
            task = asyncio.get_running_loop().create_task(self._unregister(slab))
            self._forgetting.add(task)
            task.add_done_callback(self._forgetting.discard)

    async def _unregister(self, slab: Slab) -> None:
        call = calls.unregister(slab)
        with contextlib.suppress(grpc.RpcError):
            await getattr(self._stub, call.method)(call.request, timeout=_CLOSE_TIMEOUT_S)
