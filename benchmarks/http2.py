"""A gRPC client of the barest kind: one HTTP/2 connection, unary calls, bytes in and out.

A client library in Python costs as much processor time as the server that is to be measured. This
one sends requests that were laid out beforehand and looks at frame headers only (RFC 9113; "gRPC
over HTTP/2"), in place. It trusts its server: it is for benchmarks.
"""

from __future__ import annotations

import asyncio
import struct
import urllib.parse
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self, cast

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 0x1, 0x4, 0x1
# Settings:
HEADER_TABLE_SIZE, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 1, 3, 4, 5
WINDOW_MAX = (1 << 31) - 1
WINDOW_DEFAULT = 65_535
FRAME_DEFAULT = 16_384
STREAMS_DEFAULT = WINDOW_MAX  # any number, until the server says how many
HEAD_BYTES = 9
PREFIX_BYTES = 5  # in front of every gRPC message
INBOX_BYTES = 1 << 20


@dataclass
class Request:
    """A unary call, laid out once and sent any number of times.

    Args:
        authority: host:port of the server.
        path: Full path of the method.
        message: The serialised request.
    """

    authority: str
    path: str
    message: bytes
    headers: bytes = field(init=False)
    body: memoryview = field(init=False)

    def __post_init__(self) -> None:
        self.headers = _headers(self.path, self.authority)
        self.body = memoryview(struct.pack(">BI", 0, len(self.message)) + self.message)


@dataclass(slots=True)
class _Stream:
    """A call in flight, or one that waits until the server takes another."""

    answered: asyncio.Future[bytes]
    request: Request
    unsent: memoryview
    kept: bytearray | None
    window: int = 0
    received: int = 0

    def fail(self, error: Exception) -> None:
        """Ends the call, unless its caller has given it up."""
        if not self.answered.done():
            self.answered.set_exception(error)

    def answer(self) -> None:
        """Likewise, with what was received."""
        if not self.answered.done():
            self.answered.set_result(bytes(self.kept or b"")[PREFIX_BYTES:])


class Connection(asyncio.BufferedProtocol):
    """One connection, any number of calls at once. Made by `connect`.

    Attributes:
        stray: Frames of answers that came for calls which had theirs already.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.stray = 0
        self._streams: dict[int, _Stream] = {}
        self._waiting: deque[_Stream] = deque()  # more than the server takes at once
        self._streams_max = STREAMS_DEFAULT
        self._blocked: deque[int] = deque()  # streams with bytes that no window lets out yet
        self._next_stream = 1
        self._window = WINDOW_DEFAULT  # of the connection, for what we send
        self._stream_window = WINDOW_DEFAULT
        self._frame_max = FRAME_DEFAULT
        self._received = 0  # since the connection's window was last opened again
        self._inbox = memoryview(bytearray(INBOX_BYTES))
        self._filled = 0

    @classmethod
    async def connect(cls, address: str) -> Self:
        """Connects to host:port."""
        host, _, port = address.rpartition(":")
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(cls, host, int(port))
        return connection

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._transport.close()

    def call(self, request: Request, *, keep: bool = False) -> asyncio.Future[bytes]:
        """Starts a call, as soon as the server takes so many at once.

        Args:
            request: The call.
            keep: Give the answer's message; without, only receive it and give nothing.
        """
        kept = bytearray() if keep else None
        stream = _Stream(self._loop.create_future(), request, request.body, kept)
        if self._transport.is_closing():
            stream.fail(ConnectionError("the connection is closed"))
        elif len(self._streams) < self._streams_max:
            self._open(stream)
        else:
            self._waiting.append(stream)
        return stream.answered

    # ---- asyncio.BufferedProtocol ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Opens the receiving windows as far as they go, and has each header block stand alone."""
        self._transport = cast(asyncio.Transport, transport)
        settings = struct.pack(">HIHI", HEADER_TABLE_SIZE, 0, INITIAL_WINDOW_SIZE, WINDOW_MAX)
        opened = struct.pack(">I", WINDOW_MAX - WINDOW_DEFAULT)
        self._transport.writelines(
            [PREFACE, _frame(SETTINGS, 0, 0, settings), _frame(WINDOW_UPDATE, 0, 0, opened)]
        )

    def get_buffer(self, sizehint: int) -> memoryview:
        """What is free of the inbox."""
        return self._inbox[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        """Takes whole frames; the beginning of the next one moves to the front."""
        self._filled += nbytes
        inbox, position, filled = self._inbox, 0, self._filled
        while filled - position >= HEAD_BYTES:
            start = position + HEAD_BYTES
            head = int.from_bytes(inbox[position:start], "big")
            end = start + (head >> 48)
            if end > filled:
                break
            self._take(head >> 40 & 0xFF, head >> 32 & 0xFF, head & WINDOW_MAX, inbox[start:end])
            position = end
        rest = filled - position
        inbox[:rest] = inbox[position:filled]
        self._filled = rest

    def connection_lost(self, exc: Exception | None) -> None:
        """Fails what is in flight."""
        for stream in (*self._streams.values(), *self._waiting):
            stream.fail(exc or ConnectionError("the server hung up"))
        self._streams.clear()
        self._waiting.clear()

    # ---- frames ----

    def _take(self, kind: int, flags: int, number: int, payload: memoryview) -> None:
        if kind in (DATA, HEADERS) and number not in self._streams:
            self.stray += 1
            return
        if kind == DATA:
            self._take_data(number, payload)
        elif kind == SETTINGS and not flags & ACK:
            self._take_settings(payload)
        elif kind == WINDOW_UPDATE:
            self._take_window(number, int.from_bytes(payload, "big"))
        elif kind == PING and not flags & ACK:
            self._transport.write(_frame(PING, ACK, 0, bytes(payload)))
        elif kind == RST_STREAM:  # also after an error that came before the whole request was read
            if stream := self._streams.pop(number, None):
                stream.fail(RuntimeError("the server reset the call"))
                self._open_waiting()
        elif kind == GOAWAY:
            self._transport.abort()
        if kind in (DATA, HEADERS) and flags & END_STREAM:
            self._finish(number, payload)

    def _take_data(self, number: int, payload: memoryview) -> None:
        stream = self._streams[number]
        stream.received += len(payload)
        if stream.kept is not None:
            stream.kept += payload
        self._received += len(payload)
        if self._received > WINDOW_MAX // 2:
            opened = struct.pack(">I", self._received)
            self._transport.write(_frame(WINDOW_UPDATE, 0, 0, opened))
            self._received = 0

    def _take_settings(self, payload: memoryview) -> None:
        for key, value in struct.iter_unpack(">HI", payload):
            if key == MAX_FRAME_SIZE:
                self._frame_max = value
            elif key == MAX_CONCURRENT_STREAMS:
                self._streams_max = value
            elif key == INITIAL_WINDOW_SIZE:
                for stream in self._streams.values():
                    stream.window += value - self._stream_window
                self._stream_window = value
        self._transport.write(_frame(SETTINGS, ACK, 0, b""))
        self._send_blocked()
        self._open_waiting()

    def _take_window(self, number: int, opened: int) -> None:
        if number == 0:
            self._window += opened
        elif number in self._streams:
            self._streams[number].window += opened
        self._send_blocked()

    def _finish(self, number: int, trailers: memoryview) -> None:
        stream = self._streams.pop(number)
        if stream.received < PREFIX_BYTES:  # an error has no message: its reason is in trailers
            stream.fail(RuntimeError(f"the call failed: {_reason(bytes(trailers))}"))
        else:
            stream.answer()
        if self._waiting:
            self._open_waiting()

    def _open(self, stream: _Stream) -> None:
        number, self._next_stream = self._next_stream, self._next_stream + 2
        stream.window = self._stream_window
        self._streams[number] = stream
        headers = stream.request.headers
        head = _head(HEADERS, END_HEADERS, number, len(headers))
        self._transport.writelines([head, headers, *self._sendable(number, stream)])

    def _open_waiting(self) -> None:
        while self._waiting and len(self._streams) < self._streams_max:
            self._open(self._waiting.popleft())

    def _send_blocked(self) -> None:
        for _ in range(len(self._blocked)):
            number = self._blocked.popleft()
            if number in self._streams:
                self._transport.writelines([*self._sendable(number, self._streams[number])])

    def _sendable(self, number: int, stream: _Stream) -> Iterator[bytes | memoryview]:
        """DATA frames, as far as the windows let them; the rest waits."""
        while stream.unsent:
            size = min(len(stream.unsent), self._window, stream.window, self._frame_max)
            if size <= 0:
                self._blocked.append(number)
                return
            part, stream.unsent = stream.unsent[:size], stream.unsent[size:]
            self._window -= size
            stream.window -= size
            yield _head(DATA, 0 if stream.unsent else END_STREAM, number, size)
            yield part


def _reason(trailers: bytes) -> str:
    """What the last headers of a call that failed say."""
    import hpack  # seldom wanted, and not everywhere

    try:
        decoded = hpack.Decoder().decode(trailers)
    except hpack.HPACKError as error:
        return f"its trailers cannot be read: {error}"
    fields = {str(name): str(value) for name, value in decoded}
    message = urllib.parse.unquote(fields.get("grpc-message", ""))
    return message or f"status {fields.get('grpc-status', 'unknown')}"


def _head(kind: int, flags: int, number: int, length: int) -> bytes:
    return (length << 48 | kind << 40 | flags << 32 | number).to_bytes(HEAD_BYTES, "big")


def _frame(kind: int, flags: int, number: int, payload: bytes) -> bytes:
    return _head(kind, flags, number, len(payload)) + payload


def _headers(path: str, authority: str) -> bytes:
    """HPACK without a dynamic table and without Huffman coding (RFC 7541)."""
    return b"".join(
        [
            b"\x83\x86",  # :method POST, :scheme http
            b"\x04" + _text(path),  # :path
            b"\x01" + _text(authority),  # :authority
            b"\x0f\x10" + _text("application/grpc"),  # content-type
            b"\x00" + _text("te") + _text("trailers"),
        ]
    )


def _text(value: str) -> bytes:
    encoded = value.encode()
    if len(encoded) >= 127:
        raise ValueError(f"{value!r} is longer than one byte of length can tell")
    return bytes([len(encoded)]) + encoded
