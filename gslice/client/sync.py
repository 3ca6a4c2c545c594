"""The blocking client."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, TypeVar

import grpc

from gslice.client import calls
from gslice.client.calls import Call, FunctionState, Inputs, Outputs
from gslice.client.countdown import Countdown
from gslice.client.places import wanted
from gslice.client.shared import SharedCalls
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
    """Calls a gslice server; threads may share one.

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
        self._shared = SharedCalls(self._stub, self.url) if shared_memory else None

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; idempotent. Outputs that lie in shared memory stay as they are."""
        self._closed = True
        if self._shared is not None:
            self._shared.close()
        self._channel.close()

    @property
    def shared_memory_in_use(self) -> bool:
        """Whether the server has taken memory of this client, for tensors of 64 KiB and more."""
        return self._shared is not None and self._shared.slabs.in_use

    def infer(
        self,
        name: str,
        inputs: Inputs,
        outputs: Sequence[str] | None = None,
        timeout_s: float | None = None,
        request_id: str = "",
    ) -> Outputs:
        """Runs a function on one request.

        Args:
            name: The function.
            inputs: By input name; arrays travel as they are, lists, scalars, `str` and `bytes`
                are fitted to the function's signature, which is asked for once.
            outputs: Names of the outputs wanted; None: all.
            timeout_s: For all that the request takes; the server keeps to it, too.
            request_id: Echoed by the server.

        Returns:
            Read-only arrays by output name; BYTES as object arrays of `bytes`.
        """
        time = Countdown(self._limit(timeout_s))
        try:
            if self._shared is not None and self._shared.slabs.usable:
                answer = self._infer_shared(self._shared, name, inputs, outputs, time, request_id)
                if answer is not None:
                    return answer
            call = self._infer_call(name, inputs, outputs, time, request_id)
            return self._do(call, time.left_s)
        except InvalidArgument:
            self._signatures.pop(name, None)  # the function may have been replaced
            raise

    def infer_stream(
        self,
        name: str,
        requests: Iterable[Inputs],
        outputs: Sequence[str] | None = None,
        timeout_s: float | None = None,
    ) -> Iterator[Outputs]:
        """Runs a function on many requests over one call; results come in their order.

        Args:
            name: The function.
            requests: Inputs, as for `infer`; read from another thread, ahead of the results.
            outputs: Names of the outputs wanted; None: all.
            timeout_s: Deadline of the whole call.

        Yields:
            The outputs of each request. The first request that fails raises, and ends the call.
        """
        time = Countdown(self._limit(timeout_s))
        failures: list[Exception] = []

        def encoded() -> Iterator[Any]:
            try:
                for inputs in requests:
                    yield self._infer_call(name, inputs, outputs, time, "").request
            except Exception as error:  # raised below: gRPC's thread would only log it
                failures.append(error)

        stream = self._stub.ModelStreamInfer(encoded(), timeout=time.left_s)
        try:
            for answer in stream:
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

    def live(self, timeout_s: float | None = None) -> bool:
        """Whether a server answers."""
        try:
            return self._do(calls.live(), timeout_s)
        except Unavailable:
            return False

    def ready(self, name: str = "", timeout_s: float | None = None) -> bool:
        """Whether the server, or one function of it, takes requests."""
        try:
            return self._do(calls.ready(name), timeout_s)
        except Unavailable:
            return False

    def metadata(self, name: str, timeout_s: float | None = None) -> Signature:
        """What a function takes and gives."""
        return self._do(calls.metadata(name), timeout_s)

    def config(self, name: str, timeout_s: float | None = None) -> dict[str, Any]:
        """A function's configuration, under the protocol's field names."""
        return self._do(calls.config(name), timeout_s)

    def statistics(self, name: str = "", timeout_s: float | None = None) -> list[dict[str, Any]]:
        """Counters of one function, or of all, under the protocol's field names."""
        return self._do(calls.statistics(name), timeout_s)

    def index(self, timeout_s: float | None = None) -> list[FunctionState]:
        """All functions and their states."""
        return self._do(calls.index(), timeout_s)

    def load(self, name: str, config: str = "", timeout_s: float | None = None) -> None:
        """Loads a function; returns when it serves.

        Args:
            name: The function.
            config: Its configuration as JSON; empty: as declared.
            timeout_s: How long to wait.
        """
        self._signatures.pop(name, None)
        self._do(calls.load(name, config), timeout_s)

    def unload(self, name: str, timeout_s: float | None = None) -> None:
        """Drains and removes a function; returns when it is gone."""
        self._signatures.pop(name, None)
        self._do(calls.unload(name), timeout_s)

    def _infer_shared(
        self,
        shared: SharedCalls,
        name: str,
        inputs: Inputs,
        outputs: Sequence[str] | None,
        time: Countdown,
        request_id: str,
    ) -> Outputs | None:
        """None: it has to travel, or the answer to why it cannot is clearer then."""
        try:
            signature = self._signatures.get(name) or self.metadata(name, time.left_s)
            self._signatures[name] = signature
            places = shared.places(wanted(inputs, outputs, signature), time)
            if places is None:
                return None
            call = calls.infer(name, inputs, outputs, request_id, signature, places)
        except (Cancelled, DeadlineExceeded):
            raise
        except GsliceError:
            return None
        try:
            return self._do(call, time.left_s)
        except BaseException as error:
            if not shared.failed(places, error):
                raise
            self._signatures.pop(name, None)
            return None

    def _infer_call(
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
            signature = self._signatures[name] = self.metadata(name, time.left_s)
        return calls.infer(name, inputs, outputs, request_id, signature)

    def _do(self, call: Call[T], timeout_s: float | None) -> T:
        try:
            answer = getattr(self._stub, call.method)(call.request, timeout=self._limit(timeout_s))
        except grpc.RpcError as error:
            raise calls.error_of(error) from None
        return call.result(answer)

    def _limit(self, timeout_s: float | None) -> float | None:
        if self._closed:
            raise FailedPrecondition("this client is closed")
        return self._timeout_s if timeout_s is None else timeout_s


def _connect(url: str, tls: Tls | bool) -> grpc.Channel:
    credentials = channel_credentials(tls)
    if credentials is None:
        return grpc.insecure_channel(url, options=calls.OPTIONS)
    return grpc.secure_channel(url, credentials, options=calls.OPTIONS)
