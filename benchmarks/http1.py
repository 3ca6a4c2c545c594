"""An HTTP/1.1 client of the barest kind: kept connections, one POST at a time on each.

The counterpart of benchmarks/http2.py: requests are laid out beforehand, answers are counted, and
nothing is decoded but the status and the length (RFC 9112). It trusts its server: it is for
benchmarks.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Self, cast

INBOX_BYTES = 1 << 20
HEAD_END = b"\r\n\r\n"
OK = 200
ERROR_MAX_BYTES = 200


@dataclass
class Post:
    """A request, laid out once and sent any number of times.

    Args:
        authority: host:port of the server.
        path: What is asked for.
        content_type: Of the body.
        body: The body.
    """

    authority: str
    path: str
    content_type: str
    body: bytes
    head: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.head = (
            f"POST {self.path} HTTP/1.1\r\nhost: {self.authority}\r\n"
            f"content-type: {self.content_type}\r\ncontent-length: {len(self.body)}\r\n\r\n"
        ).encode()


class Pool:
    """So many connections; calls that find none free wait for one, in the order they came.

    Made by `connect`.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._connections: set[_Connection] = set()
        self._free: list[_Connection] = []
        self._waiting: deque[tuple[Post, bool, asyncio.Future[bytes]]] = deque()

    @classmethod
    async def connect(cls, address: str, connections: int) -> Self:
        """Connects to host:port."""
        pool = cls()
        host, _, port = address.rpartition(":")
        for _ in range(connections):
            _, made = await pool._loop.create_connection(lambda: _Connection(pool), host, int(port))
            pool._connections.add(made)
            pool._free.append(made)
        return pool

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in tuple(self._connections):
            connection.close()

    def call(self, post: Post, *, keep: bool = False) -> asyncio.Future[bytes]:
        """Sends a request, now or when a connection is free.

        Args:
            post: The request.
            keep: Give the answer's body; without, only receive it and give nothing.
        """
        answered: asyncio.Future[bytes] = self._loop.create_future()
        if self._free:
            self._free.pop().send(post, keep, answered)
        elif self._connections:
            self._waiting.append((post, keep, answered))
        else:
            answered.set_exception(ConnectionError("all connections are closed"))
        return answered

    def done(self, connection: _Connection) -> None:
        """A connection is free again."""
        if self._waiting:
            connection.send(*self._waiting.popleft())
        else:
            self._free.append(connection)

    def lost(self, connection: _Connection) -> None:
        """A connection is gone; with the last one goes whoever waits."""
        self._connections.discard(connection)
        if connection in self._free:
            self._free.remove(connection)
        while self._waiting and not self._connections:
            _fail(self._waiting.popleft()[2], ConnectionError("all connections are closed"))


class _Connection(asyncio.BufferedProtocol):
    """One connection of a pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._inbox = bytearray(INBOX_BYTES)
        self._view = memoryview(self._inbox)
        self._filled = 0
        self._answered: asyncio.Future[bytes] | None = None
        self._keep = False
        self._status = 0  # 0: the head has not been read
        self._missing = 0
        self._kept = bytearray()

    def send(self, post: Post, keep: bool, answered: asyncio.Future[bytes]) -> None:
        self._answered, self._keep, self._status = answered, keep, 0
        self._kept.clear()
        self._transport.writelines([post.head, post.body])

    def close(self) -> None:
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self._filled += nbytes
        start = 0
        if not self._status:
            end = self._inbox.find(HEAD_END, 0, self._filled)
            if end < 0:
                return
            start = end + len(HEAD_END)
            try:
                self._status, self._missing = _parse(bytes(self._view[:end]))
            except ValueError as error:
                self._give_up(error)
                return
        self._missing -= self._filled - start
        if self._keep or self._status != OK:
            self._kept += self._view[start : self._filled]
        self._filled = 0
        if self._missing <= 0:
            self._finish()

    def connection_lost(self, exc: Exception | None) -> None:
        answered, self._answered = self._answered, None
        if answered is not None:
            _fail(answered, exc or ConnectionError("the server hung up"))
        self._pool.lost(self)

    def _finish(self) -> None:
        answered, self._answered = self._answered, None
        if answered is not None and not answered.done():
            if self._status == OK:
                answered.set_result(bytes(self._kept))
            else:
                said = bytes(self._kept[:ERROR_MAX_BYTES])
                answered.set_exception(RuntimeError(f"status {self._status}: {said!r}"))
        self._pool.done(self)

    def _give_up(self, error: Exception) -> None:
        answered, self._answered = self._answered, None
        if answered is not None:
            _fail(answered, RuntimeError(str(error)))
        self._transport.abort()


def _parse(head: bytes) -> tuple[int, int]:
    """Status and length of the body.

    Raises:
        ValueError: It does not tell its length.
    """
    first, *fields = head.lower().split(b"\r\n")
    for line in fields:
        name, _, value = line.partition(b":")
        if name == b"content-length":
            return int(first.split(b" ", 2)[1]), int(value)
    raise ValueError(f"an answer without content-length: {head[:ERROR_MAX_BYTES]!r}")


def _fail(answered: asyncio.Future[bytes], error: Exception) -> None:
    if not answered.done():
        answered.set_exception(error)
