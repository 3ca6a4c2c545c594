"""The asyncio client: the same methods as `gslice.Client`, awaited."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from types import TracebackType
from typing import Any, TypeVar

import grpc

from gslice.client import calls
from gslice.client.calls import Call, FunctionState, Inputs, Outputs
from gslice.client.countdown import Countdown
from gslice.client.places import wanted
from gslice.client.shared import AioSharedCalls
from gslice.client.tls import Tls, channel_credentials
from gslice.core.errors import (
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    GsliceError,
    InvalidArgument,
    Unavailable,
)
from gslice.core.types import Signature
from gslice.protos.rpc import Stub

T = TypeVar("T")


class Client:
    """Calls a gslice server from one event loop; tasks may share one.

    Every method raises an error of `gslice.errors`: the server's answer, or `Unavailable` when
    there is no server.

    Args:
        url: host:port of its gRPC address; None: the variable GSLICE_URL, else 127.0.0.1:8001.
        timeout_s: For calls that are given none; None: no limit.
        tls: Encrypts the connection; True: the server is known by the public authorities.
        shared_memory: Large tensors go through memory that is shared with the server, if it is on
            this host and takes it (`node.client_memory`); else they travel as ever.
        api_key: Says who calls, to a server that asks; None: the variable GSLICE_API_KEY, if any.
    """

    def __init__(
        self,
        url: str | None = None,
        timeout_s: float | None = None,
        *,
        tls: Tls | bool = False,
        shared_memory: bool = False,
        api_key: str | None = None,
    ) -> None:
        self.url = calls.server_url(url)
        self._timeout_s = timeout_s
        self._channel = _connect(self.url, tls)
        self._closed = False
        self._stub = Stub(self._channel, calls.SERVICE, calls.credentials(api_key))
        self._signatures: dict[str, Signature] = {}
        self._shared = AioSharedCalls(self._stub, self.url) if shared_memory else None

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection; idempotent. Outputs that lie in shared memory stay as they are."""
        self._closed = True
        if self._shared is not None:
            await self._shared.close()
        await self._channel.close()

    @property
    def shared_memory_in_use(self) -> bool:
        """Whether the server has taken memory of this client, for tensors of 64 KiB and more."""
        return self._shared is not None and self._shared.slabs.in_use

    async def infer(
        self,
        name: str,
        inputs: Inputs,
        outputs: Sequence[str] | None = None,
        timeout_s: float | None = None,
        request_id: str = "",
    ) -> Outputs:
        """Runs a function on one request, as `gslice.Client.infer`; a cancel ends it there too."""
        time = Countdown(self._limit(timeout_s))
        try:
            if self._shared is not None and self._shared.slabs.usable:
                answer = await self._infer_shared(
                    self._shared, name, inputs, outputs, time, request_id
                )
                if answer is not None:
                    return answer
            call = await self._infer_call(name, inputs, outputs, time, request_id)
            return await self._do(call, time.left_s)
        except InvalidArgument:
            self._signatures.pop(name, None)  # the function may have been replaced
            raise

    async def infer_stream(
        self,
        name: str,
        requests: Iterable[Inputs] | AsyncIterable[Inputs],
        outputs: Sequence[str] | None = None,
        timeout_s: float | None = None,
    ) -> AsyncIterator[Outputs]:
        """Runs a function on many requests over one call; results come in their order.

        Args:
            name: The function.
            requests: Inputs, as for `infer`; read ahead of the results.
            outputs: Names of the outputs wanted; None: all.
            timeout_s: Deadline of the whole call.

        Yields:
            The outputs of each request. The first request that fails raises, and ends the call.
        """
        time = Countdown(self._limit(timeout_s))
        failures: list[Exception] = []

        async def encoded() -> AsyncIterator[Any]:
            try:
                async for inputs in _each(requests):
                    yield (await self._infer_call(name, inputs, outputs, time, "")).request
            except Exception as error:  # raised below: gRPC's task would only log it
                failures.append(error)

        stream = self._stub.ModelStreamInfer(encoded(), timeout=time.left_s)
        try:
            async for answer in stream:
                yield calls.stream_result(answer)
            if failures:
                raise failures[0]
        except grpc.RpcError as error:
            raise calls.error_of(error) from None
        except InvalidArgument:
            self._signatures.pop(name, None)  # the function may have been replaced
            raise
        finally:
            stream.cancel()

    async def live(self, timeout_s: float | None = None) -> bool:
        """Whether a server answers."""
        try:
            return await self._do(calls.live(), timeout_s)
        except Unavailable:
            return False

    async def ready(self, name: str = "", timeout_s: float | None = None) -> bool:
        """Whether the server, or one function of it, takes requests."""
        try:
            return await self._do(calls.ready(name), timeout_s)
        except Unavailable:
            return False

    async def metadata(self, name: str, timeout_s: float | None = None) -> Signature:
        """What a function takes and gives."""
        return await self._do(calls.metadata(name), timeout_s)

    async def config(self, name: str, timeout_s: float | None = None) -> dict[str, Any]:
        """A function's configuration, under the protocol's field names."""
        return await self._do(calls.config(name), timeout_s)

    async def statistics(
        self, name: str = "", timeout_s: float | None = None
    ) -> list[dict[str, Any]]:
        """Counters of one function, or of all, under the protocol's field names."""
        return await self._do(calls.statistics(name), timeout_s)

    async def index(self, timeout_s: float | None = None) -> list[FunctionState]:
        """All functions and their states."""
        return await self._do(calls.index(), timeout_s)

    async def load(self, name: str, config: str = "", timeout_s: float | None = None) -> None:
        """Loads a function, as declared or by `config` in JSON; returns when it serves."""
        self._signatures.pop(name, None)
        await self._do(calls.load(name, config), timeout_s)

    async def unload(self, name: str, timeout_s: float | None = None) -> None:
        """Drains and removes a function; returns when it is gone."""
        self._signatures.pop(name, None)
        await self._do(calls.unload(name), timeout_s)

    async def _infer_shared(
        self,
        shared: AioSharedCalls,
        name: str,
        inputs: Inputs,
        outputs: Sequence[str] | None,
        time: Countdown,
        request_id: str,
    ) -> Outputs | None:
        """None: it has to travel, or the answer to why it cannot is clearer then."""
        try:
            signature = self._signatures.get(name) or await self.metadata(name, time.left_s)
            self._signatures[name] = signature
            places = await shared.places(wanted(inputs, outputs, signature), time)
            if places is None:
                return None
            call = calls.infer(name, inputs, outputs, request_id, signature, places)
        except (Cancelled, DeadlineExceeded):
            raise
        except GsliceError:
            return None
        try:
            return await self._do(call, time.left_s)
        except BaseException as error:
            if not shared.failed(places, error):
                raise
            self._signatures.pop(name, None)
            return None

    async def _infer_call(
        self,
        name: str,
        inputs: Inputs,
        outputs: Sequence[str] | None,
        time: Countdown,
        request_id: str,
    ) -> Call[Outputs]:
        cached = self._signatures.get(name)
        if cached is not None:
            try:
                return calls.infer(name, inputs, outputs, request_id, cached)
            except InvalidArgument:
                self._signatures.pop(name, None)  # the function may have been replaced
        signature = None
        if calls.needs_signature(inputs):
            signature = self._signatures[name] = await self.metadata(name, time.left_s)
        return calls.infer(name, inputs, outputs, request_id, signature)

    async def _do(self, call: Call[T], timeout_s: float | None) -> T:
        try:
            method = getattr(self._stub, call.method)
            answer = await method(call.request, timeout=self._limit(timeout_s))
        except grpc.RpcError as error:
            raise calls.error_of(error) from None
        return call.result(answer)

    def _limit(self, timeout_s: float | None) -> float | None:
        if self._closed:
            raise FailedPrecondition("this client is closed")
        return self._timeout_s if timeout_s is None else timeout_s


async def _each(requests: Iterable[Inputs] | AsyncIterable[Inputs]) -> AsyncIterator[Inputs]:
    if isinstance(requests, AsyncIterable):
        async for inputs in requests:
            yield inputs
    else:
        for inputs in requests:
            yield inputs


def _connect(url: str, tls: Tls | bool) -> grpc.aio.Channel:
    credentials = channel_credentials(tls)
    if credentials is None:
        return grpc.aio.insecure_channel(url, options=calls.OPTIONS)
    return grpc.aio.secure_channel(url, credentials, options=calls.OPTIONS)
