"""Control messages and descriptors over a SOCK_SEQPACKET Unix socket.

`Channel` blocks (children's poll loops), `AsyncChannel` lives on an asyncio loop (the daemon and
the front-end). One packet is one message of `gslice.ipc.messages`; the kernel keeps the borders.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import json
import os
import socket
import typing
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from gslice.core.errors import (
    ChannelClosed,
    DeadlineExceeded,
    GsliceError,
    Internal,
    InvalidArgument,
    from_code,
)
from gslice.ipc import messages
from gslice.ipc.codec import from_json, to_json
from gslice.ipc.messages import Failed, Message

MAX_PACKET_BYTES = 128 << 10  # below the default send buffer of a Unix socket
MAX_FDS = 8

ANSWERS = (
    messages.Ok,
    messages.Failed,
    messages.Loaded,
    messages.Ready,
    messages.ShareSet,
    messages.Serving,
)
"""What answers a request. All other types are calls, so both sides may number theirs from 1."""

_TYPES: dict[str, type] = {cls.__name__: cls for cls in typing.get_args(Message)}
_A = TypeVar("_A")


@dataclass
class Received:
    """One message that came in. It owns the descriptors that nobody has taken from it.

    Attributes:
        message: A dataclass of `gslice.ipc.messages`.
        seq: 0: expects no answer; else the number that its answer must carry.
        fds: Descriptors that came along.
    """

    message: Message
    seq: int
    fds: list[int] = field(default_factory=list)

    def take_fd(self) -> int:
        """The one descriptor that came along; the caller owns it from now on.

        Raises:
            InvalidArgument: None came, or more than one.
        """
        if len(self.fds) != 1:
            count = len(self.fds)
            self.close()
            name = type(self.message).__name__
            raise InvalidArgument(f"{name} must carry one descriptor, it carried {count}")
        return self.fds.pop()

    def close(self) -> None:
        """Closes the descriptors that nobody took."""
        _close_all(self.fds)
        self.fds.clear()


class Channel:
    """A blocking control channel.

    Args:
        sock: A connected SOCK_SEQPACKET socket; owned by the channel from now on.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def fileno(self) -> int:
        """For select and poll."""
        return self._sock.fileno()

    def send(self, message: Message, fds: Sequence[int] = (), seq: int = 0) -> None:
        """Sends one message; the caller keeps its descriptors.

        Raises:
            ChannelClosed: Nobody is at the other end.
            InvalidArgument: The message is longer than MAX_PACKET_BYTES.
        """
        _send(self._sock, _pack(message, seq), fds)

    def recv(self) -> Received:
        """The next message; waits for it if the socket is blocking.

        Raises:
            ChannelClosed: The other end closed.
            InvalidArgument: The packet is not a message; its descriptors have been closed.
            BlockingIOError: A non-blocking socket has no message.
        """
        return _recv(self._sock)

    def close(self) -> None:
        """Closes the socket; idempotent."""
        self._sock.close()


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
        self._pending: dict[int, asyncio.Future[Message]] = {}
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
        packet = _pack(message, seq)
        if not self._outgoing:
            try:
                return _send(self._sock, packet, fds)
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
        timeout_s: float | None = None,
    ) -> _A:
        """Sends a request and waits for its answer.

        Args:
            message: The request.
            answer: The type of answer expected, such as `messages.Loaded`.
            fds: Descriptors to send along; the caller keeps them.
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
        self._pending[seq] = future
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
            received = _recv(self._sock)
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
        future = self._pending.get(received.seq)  # None: it came after the time-out
        if future is not None and not future.done():
            future.set_result(received.message)

    def _writable(self) -> None:
        while self._outgoing:
            packet, fds = self._outgoing[0]
            try:
                _send(self._sock, packet, fds)
            except BlockingIOError:
                return
            except ChannelClosed as error:
                self._drop(error)
                return
            _close_all(fds)
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
            _close_all(fds)
        self._outgoing.clear()
        for future in self._pending.values():
            if not future.done():
                future.set_exception(ChannelClosed(reason.message))


def _pack(message: Message, seq: int) -> bytes:
    name = type(message).__name__
    packet = json.dumps({"type": name, "seq": seq, "body": to_json(message)}).encode()
    if len(packet) > MAX_PACKET_BYTES:
        raise InvalidArgument(
            f"{name} takes {len(packet)} bytes, a control message at most {MAX_PACKET_BYTES}"
        )
    return packet


def _unpack(packet: bytes) -> tuple[Message, int]:
    try:
        envelope: Any = json.loads(packet)
        name, seq, body = envelope["type"], envelope["seq"], envelope["body"]
        cls = _TYPES[name]
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidArgument(f"not a control message: {error!r}") from error
    if type(seq) is not int or seq < 0:
        raise InvalidArgument(f"{name}: seq must be a natural number, not {seq!r}")
    return from_json(cls, body), seq


def _send(sock: socket.socket, packet: bytes, fds: Sequence[int]) -> None:
    ancillary = []
    if fds:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
    try:
        sock.sendmsg([packet], ancillary, socket.MSG_NOSIGNAL)
    except (BrokenPipeError, ConnectionResetError, ConnectionRefusedError) as error:
        raise ChannelClosed(f"the control channel's peer is gone: {error.strerror}") from error


def _recv(sock: socket.socket) -> Received:
    fds = array.array("i")
    space = socket.CMSG_SPACE(MAX_FDS * fds.itemsize)
    try:
        packet, ancillary, flags, _ = sock.recvmsg(MAX_PACKET_BYTES, space, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError as error:
        raise ChannelClosed("the control channel's peer is gone") from error
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    try:
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise InvalidArgument(
                f"a control message exceeds {MAX_PACKET_BYTES} bytes or {MAX_FDS} descriptors"
            )
        if not packet:
            raise ChannelClosed("the control channel's peer is gone")
        message, seq = _unpack(packet)
    except GsliceError:
        _close_all(fds)
        raise
    return Received(message, seq, fds.tolist())


def _close_all(fds: Iterable[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):  # closing frees the number even when it reports an error
            os.close(fd)
