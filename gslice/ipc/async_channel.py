"""A control channel on an asyncio loop: the daemon's and the front-end's end."""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

from gslice.core.errors import (
    ChannelClosed,
    DeadlineExceeded,
    GsliceError,
    Internal,
    from_code,
)
from gslice.ipc.channel import ANSWERS, Received, close_all, pack, receive, send_packet
from gslice.ipc.messages import Failed, Message

_A = TypeVar("_A")


class AsyncChannel:
    """A control channel on the running asyncio loop.

    A peer that breaks the protocol is dropped at once: the channel closes.

    Args:
        sock: A connected SOCK_SEQPACKET socket; owned by the channel from now on.
        on_message: Called on the loop with everything that is no answer. Descriptors that it does
            not take are closed when it returns. A call with `seq` > 0 is answered by
            `send(answer, seq=received.seq)`, at once or later.
        on_close: Called once on the loop, when the peer is gone or has been dropped; not after
            `close()`.
    """

    def __init__(
        self,
        sock: socket.socket,
        on_message: Callable[[Received], None],
        on_close: Callable[[GsliceError], None] = lambda reason: None,
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._fd = sock.fileno()
        self._on_message = on_message
        self._on_close = on_close
        self._loop = asyncio.get_running_loop()
        self._pending: dict[int, tuple[asyncio.Future[Message], list[int] | None]] = {}
        self._outgoing: deque[tuple[bytes, list[int]]] = deque()  # with duplicates of descriptors
        self._last_seq = 0
        self._closed: GsliceError | None = None
        self._loop.add_reader(self._fd, self._readable)

    @property
    def closed(self) -> bool:
        """True: nothing can be sent any more."""
        return self._closed is not None

    def send(self, message: Message, fds: Sequence[int] = (), seq: int = 0) -> None:
        """Sends one message, or queues it while the socket is full; the caller keeps its fds.

        Raises:
            ChannelClosed: The channel is closed.
            InvalidArgument: The message is longer than MAX_PACKET_BYTES.
        """
        if self._closed:
            raise ChannelClosed(self._closed.message)
        packet = pack(message, seq)
        if not self._outgoing:
            try:
                return send_packet(self._sock, packet, fds)
            except BlockingIOError:
                self._loop.add_writer(self._fd, self._writable)
            except ChannelClosed as error:
                self._drop(error)
                raise
        self._outgoing.append((packet, [os.dup(fd) for fd in fds]))
        return None

    async def request(
        self,
        message: Message,
        answer: type[_A],
        *,
        fds: Sequence[int] = (),
        fds_to: list[int] | None = None,
        timeout_s: float | None = None,
    ) -> _A:
        """Sends a request and waits for its answer.

        Args:
            message: The request.
            answer: The type of answer expected, such as `messages.Loaded`.
            fds: Descriptors to send along; the caller keeps them.
            fds_to: Gets those that come with the answer, which are the caller's then; None: they
                are closed.
            timeout_s: How long to wait; None: until the peer is gone.

        Returns:
            The answer.

        Raises:
            GsliceError: The peer answered `Failed`: the error of its code.
            DeadlineExceeded: No answer came in time; a late one will be ignored.
            ChannelClosed: The peer is gone.
            Internal: Another type of answer came.
        """
        self._last_seq += 1
        seq = self._last_seq
        future: asyncio.Future[Message] = self._loop.create_future()
        self._pending[seq] = future, fds_to
        name = type(message).__name__
        try:
            self.send(message, fds, seq)
            async with asyncio.timeout(timeout_s):
                reply = await future
        except TimeoutError:
            raise DeadlineExceeded(f"{name} was not answered within {timeout_s} s") from None
        finally:
            self._pending.pop(seq, None)
            if future.done() and not future.cancelled():
                future.exception()  # a failed send leaves it unread
        if isinstance(reply, Failed):
            raise from_code(reply.code, reply.message)
        if not isinstance(reply, answer):
            raise Internal(f"{name} was answered by {type(reply).__name__}")
        return reply

    def close(self) -> None:
        """Closes the channel; what is pending fails with ChannelClosed. Idempotent."""
        self._shut(ChannelClosed("the control channel was closed"))

    def _readable(self) -> None:
        try:
            received = receive(self._sock)
        except BlockingIOError:
            return
        except GsliceError as error:
            self._drop(error)
            return
        try:
            if received.seq and isinstance(received.message, ANSWERS):
                self._resolve(received)
            else:
                self._on_message(received)
        finally:
            received.close()

    def _resolve(self, received: Received) -> None:
        future, fds_to = self._pending.get(received.seq, (None, None))
        if future is None or future.done():  # it came after the time-out
            return
        if fds_to is not None:
            fds_to += received.fds
            received.fds = []
        future.set_result(received.message)

    def _writable(self) -> None:
        while self._outgoing:
            packet, fds = self._outgoing[0]
            try:
                send_packet(self._sock, packet, fds)
            except BlockingIOError:
                return
            except ChannelClosed as error:
                self._drop(error)
                return
            close_all(fds)
            self._outgoing.popleft()
        self._loop.remove_writer(self._fd)

    def _drop(self, reason: GsliceError) -> None:
        if not self._closed:
            self._shut(reason)
            self._on_close(reason)

    def _shut(self, reason: GsliceError) -> None:
        if self._closed:
            return
        self._closed = reason
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        self._sock.close()
        for _, fds in self._outgoing:
            close_all(fds)
        self._outgoing.clear()
        for future, _ in self._pending.values():
            if not future.done():
                future.set_exception(ChannelClosed(reason.message))
