"""A stream's request in a server's protocol: laid out once, for our client and for h2load."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import ClassVar

from benchmarks import h2load
from benchmarks.http1 import Pool, Post
from benchmarks.http2 import PREFIX_BYTES, Connection, Request
from benchmarks.load import INFER
from benchmarks.peers.loops import Call
from benchmarks.peers.streams import Stream
from benchmarks.wire import infer_request, raw_outputs
from gslice.protos import message

METADATA = "/inference.GRPCInferenceService/ServerMetadata"
OPEN_CONNECTIONS = 64  # of an open loop where a connection carries one request at a time


@dataclass(frozen=True)
class Answer:
    """One answer.

    Attributes:
        tensor: Raw bytes of the output.
        body_bytes: Length of all that came as the answer's body.
    """

    tensor: bytes
    body_bytes: int


class Calls(ABC):
    """A stream's request, ready to be sent to one server.

    Attributes:
        protocol: In the rows.
    """

    protocol: ClassVar[str]

    @abstractmethod
    async def ask(self) -> Answer:
        """Calls once, over a connection of its own.

        Raises:
            OSError: Nobody answers there.
            RuntimeError: An error was answered.
        """

    async def version(self) -> str:
        """What the server says of itself; empty: its protocol has no question for that."""
        return ""

    @abstractmethod
    def connected(self, concurrency: int) -> AbstractAsyncContextManager[Call]:
        """A context: what starts a call, over connections that are there already.

        Args:
            concurrency: Calls in flight; 0: as many as an open loop brings.
        """

    @abstractmethod
    def h2load(self, concurrency: int, requests: int) -> h2load.H2Load:
        """Has h2load send them."""


class GrpcCalls(Calls):
    """KServe v2 `ModelInfer` with raw contents; all calls on one connection.

    Attributes:
        address: host:port of the server.
    """

    protocol = "gRPC"

    def __init__(self, address: str, stream: Stream) -> None:
        self.address = address
        payload = infer_request(stream.function, {stream.input: stream.array})
        self._request = Request(address, INFER, payload)

    async def ask(self) -> Answer:
        async with await Connection.connect(self._request.authority) as connection:
            answer = await connection.call(self._request, keep=True)
        tensors = raw_outputs(answer)
        if len(tensors) != 1:
            raise RuntimeError(f"the answer has {len(tensors)} raw outputs, not one")
        return Answer(tensors[0], PREFIX_BYTES + len(answer))

    async def version(self) -> str:
        request = Request(self.address, METADATA, b"")
        async with await Connection.connect(self.address) as connection:
            answer = await connection.call(request, keep=True)
        return str(message("inference.ServerMetadataResponse").FromString(answer).version)

    @asynccontextmanager
    async def connected(self, concurrency: int) -> AsyncIterator[Call]:
        async with await Connection.connect(self._request.authority) as connection:
            yield lambda: connection.call(self._request)

    def h2load(self, concurrency: int, requests: int) -> h2load.H2Load:
        return h2load.run(
            f"http://{self._request.authority}{INFER}",
            self._request.body,
            h2load.GRPC,
            requests=requests,
            streams=concurrency,
        )


class HttpCalls(Calls):
    """The tensor's bytes as the body of a POST, and of its answer; a call has its connection."""

    protocol = "HTTP/1.1"

    def __init__(self, address: str, path: str, stream: Stream) -> None:
        content_type = "application/octet-stream"
        self._post = Post(address, path, content_type, stream.array.tobytes())

    async def ask(self) -> Answer:
        async with await Pool.connect(self._post.authority, 1) as pool:
            body = await pool.call(self._post, keep=True)
        return Answer(body, len(body))

    @asynccontextmanager
    async def connected(self, concurrency: int) -> AsyncIterator[Call]:
        connections = concurrency or OPEN_CONNECTIONS
        async with await Pool.connect(self._post.authority, connections) as pool:
            yield lambda: pool.call(self._post)

    def h2load(self, concurrency: int, requests: int) -> h2load.H2Load:
        headers: Mapping[str, str] = {"content-type": self._post.content_type}
        return h2load.run(
            f"http://{self._post.authority}{self._post.path}",
            self._post.body,
            headers,
            requests=requests,
            connections=concurrency,
            http1=True,
        )
