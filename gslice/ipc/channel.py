"""Control messages and descriptors over a SOCK_SEQPACKET Unix socket.

One packet is one message of `gslice.ipc.messages`; the kernel keeps the borders. `Channel` blocks,
for poll loops; `gslice.ipc.async_channel` lives on an asyncio loop, which workers do without.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import socket
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gslice.core.errors import ChannelClosed, GsliceError, InvalidArgument
from gslice.ipc import messages
from gslice.ipc.codec import from_json, to_json
from gslice.ipc.messages import Message

MAX_PACKET_BYTES = 128 << 10  # below the default send buffer of a Unix socket
MAX_FDS = 8

ANSWERS = (
    messages.Ok,
    messages.Failed,
    messages.Loaded,
    messages.Ready,
    messages.Measured,
    messages.Recorded,
    messages.ShareSet,
    messages.ThreadsHeld,
    messages.Serving,
)
"""What answers a request. All other types are calls, so both sides may number theirs from 1."""

_TYPES: dict[str, type] = {cls.__name__: cls for cls in typing.get_args(Message)}


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
        return self.take_fds(1)[0]

    def take_fds(self, count: int) -> list[int]:
        """All descriptors that came along, in order; the caller owns them from now on.

        Raises:
            InvalidArgument: Not so many came.
        """
        if (came := len(self.fds)) != count:
            self.close()
            name = type(self.message).__name__
            raise InvalidArgument(f"{name} must carry {count} descriptor(s), it carried {came}")
        taken, self.fds = self.fds, []
        return taken

    def close(self) -> None:
        """Closes the descriptors that nobody took."""
        close_all(self.fds)
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
        send_packet(self._sock, pack(message, seq), fds)

    def recv(self) -> Received:
        """The next message; waits for it if the socket is blocking.

        Raises:
            ChannelClosed: The other end closed.
            InvalidArgument: The packet is not a message; its descriptors have been closed.
            BlockingIOError: A non-blocking socket has no message.
        """
        return receive(self._sock)

    def close(self) -> None:
        """Closes the socket; idempotent."""
        self._sock.close()


def pack(message: Message, seq: int) -> bytes:
    """The packet of a message.

    Raises:
        InvalidArgument: It is longer than MAX_PACKET_BYTES.
    """
    name = type(message).__name__
    packet = json.dumps({"type": name, "seq": seq, "body": to_json(message)}).encode()
    if len(packet) > MAX_PACKET_BYTES:
        raise InvalidArgument(
            f"{name} takes {len(packet)} bytes, a control message at most {MAX_PACKET_BYTES}"
        )
    return packet


def unpack(packet: bytes) -> tuple[Message, int]:
    """The message of a packet, and its number.

    Raises:
        InvalidArgument: It is none.
    """
    try:
        envelope: Any = json.loads(packet)
        name, seq, body = envelope["type"], envelope["seq"], envelope["body"]
        cls = _TYPES[name]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidArgument(f"not a control message: {error!r}") from error
    if type(seq) is not int or seq < 0:
        raise InvalidArgument(f"{name}: seq must be a natural number, not {seq!r}")
    return from_json(cls, body), seq


def send_packet(sock: socket.socket, packet: bytes, fds: Sequence[int]) -> None:
    """Sends a packet with descriptors; BlockingIOError if a non-blocking socket is full.

    Raises:
        ChannelClosed: Nobody is at the other end.
    """
    ancillary = []
    if fds:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
    try:
        sock.sendmsg([packet], ancillary, socket.MSG_NOSIGNAL)
    except (BrokenPipeError, ConnectionResetError, ConnectionRefusedError) as error:
        raise ChannelClosed(f"the control channel's peer is gone: {error.strerror}") from error


def receive(sock: socket.socket) -> Received:
    """The next message; see `Channel.recv`."""
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
        message, seq = unpack(packet)
    except GsliceError:
        close_all(fds)
        raise
    return Received(message, seq, fds.tolist())


def close_all(fds: Iterable[int]) -> None:
    """Closes descriptors, come what may."""
    for fd in fds:
        with contextlib.suppress(OSError):  # closing frees the number even when it reports an error
            os.close(fd)
