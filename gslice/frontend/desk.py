"""What the native server hands over: methods off the hot path, and requests it does not take.

A call is served by the same servicers' methods as on grpc.aio: `Call` is what they see of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import time
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from google.protobuf.message import DecodeError

from gslice.core.errors import GsliceError, Internal, NotFound, ResourceExhausted, Unimplemented
from gslice.frontend.packing import PACKINGS, unpacked
from gslice.ipc.native import native_signature

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    import grpc

    from gslice import _native
    from gslice.frontend.catalogue import Function
    from gslice.protos.rpc import Method

log = logging.getLogger("gslice.frontend")

_OK = 0
_FAILED = (Internal.code, "the front-end failed; its log says why")


class NoteKind(enum.IntEnum):
    """Of native/grpc/desk.hpp."""

    OPENED = 0
    MESSAGE = 1
    HALF_CLOSED = 2
    CLOSED = 3
    UNKNOWN = 4
    COMPRESSED = 5
    IDLE = 6


class Note(NamedTuple):
    """As `GrpcServer.take_notes` has it."""

    kind: int
    call: int
    number: int
    deadline_ns: int | None
    text: str
    authorization: str
    api_key: str
    data: bytes
    compressed: bool

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        """The headers that say who calls, where that is asked."""
        headers = (("authorization", self.authorization), ("x-api-key", self.api_key))
        return tuple((name, value) for name, value in headers if value)


class _Ended(Exception):
    """The call has its status: nothing is left to do for it."""


class Call:
    """One call, as a servicer's method sees it: the part of a grpc.aio context that these use.

    Args:
        native: Sends what is written.
        opened: What came first of it.
    """

    def __init__(self, native: _native.GrpcServer, opened: Note) -> None:
        self._native = native
        self._number = opened.call
        self._deadline_ns = opened.deadline_ns
        self.invocation_metadata = opened.invocation_metadata
        self._messages: asyncio.Queue[Note | None] = asyncio.Queue()

    def receive(self, message: Note | None) -> None:
        """Takes a message of the client as it came, or the end of them."""
        self._messages.put_nowait(message)

    async def requests(
        self, plain: Callable[[Note], bytes], parse: Callable[[bytes], Any]
    ) -> AsyncIterator[Any]:
        """The client's messages, unpacked one at a time: they may be a thousand times as large.

        Raises:
            Internal: one is none of the method's.
            GsliceError: as of `plain`.
        """
        while (message := await self._messages.get()) is not None:
            try:
                yield parse(plain(message))
            except DecodeError as error:
                raise Internal(f"the request cannot be read: {error}") from error

    def time_remaining(self) -> float | None:
        """Seconds until the deadline."""
        return self._deadline_ns and max(0.0, (self._deadline_ns - time.monotonic_ns()) / 1e9)

    async def write(self, answer: Any) -> None:
        """Sends one more answer."""
        self._native.send(self._number, answer.SerializeToString())

    async def abort(
        self, code: grpc.StatusCode, text: str, trailing: tuple[tuple[str, str], ...] = ()
    ) -> NoReturn:
        """Ends the call with a status."""
        pushback = [int(value) for _, value in trailing]
        self._native.finish(self._number, code.value[0], text, *pushback)
        raise _Ended


class Desk:
    """Answers notes on one event loop, until it is closed.

    Args:
        native: Where notes come from, and answers go.
        methods: By path.
        submit_unknown: What becomes of a request to a function that the data path does not know:
            (handed_over, request, note), see `HandedOver`.
        message_max_bytes: Of a message that was compressed.
    """

    def __init__(
        self,
        native: _native.GrpcServer,
        methods: Mapping[str, Method],
        submit_unknown: Callable[[HandedOver, bytes, Note], None],
        message_max_bytes: int,
    ) -> None:
        self._native = native
        self._methods = methods
        self._submit_unknown = submit_unknown
        self._message_max_bytes = message_max_bytes
        self._calls: dict[int, tuple[Call, asyncio.Task[None]]] = {}
        self._loop = asyncio.get_running_loop()
        self.idle = asyncio.Event()  # set when the server drains and no request is left
        self._loop.add_reader(native.desk_fd, self._take)

    def close(self) -> None:
        """Takes no more notes; calls that are being served are given up."""
        self._loop.remove_reader(self._native.desk_fd)
        for _, task in self._calls.values():
            task.cancel()

    def _take(self) -> None:
        for note in map(Note._make, self._native.take_notes()):
            try:
                self._answer(note)
            except Exception:  # of one call: the others must not wait for ever
                log.exception("a note of kind %s failed", note.kind)
                self._native.finish(note.call, *_FAILED)

    def _answer(self, note: Note) -> None:
        match note.kind:
            case NoteKind.OPENED:
                self._open(note)
            case NoteKind.MESSAGE if note.call in self._calls:
                self._calls[note.call][0].receive(note)
            case NoteKind.HALF_CLOSED if note.call in self._calls:
                self._calls[note.call][0].receive(None)
            case NoteKind.CLOSED if note.call in self._calls:
                self._calls.pop(note.call)[1].cancel()
            case NoteKind.UNKNOWN | NoteKind.COMPRESSED:
                self._submit(note)
            case NoteKind.IDLE:
                self.idle.set()

    # ---- calls -----------------------------------------------------------------------------

    def _open(self, note: Note) -> None:
        method = self._methods.get(note.text)
        if method is None:
            error = Unimplemented(f"there is no method {note.text}")
            self._native.finish(note.call, error.code, str(error))
            return
        call = Call(self._native, note)
        task = self._loop.create_task(self._serve(call, note.call, method))
        self._calls[note.call] = call, task

    async def _serve(self, call: Call, number: int, method: Method) -> None:
        try:
            with contextlib.suppress(_Ended):
                await self._run(call, method)
                self._native.finish(number, _OK, "")
        except GsliceError as error:
            self._native.finish(number, error.code, str(error))
        except Exception:
            log.exception("a call of %s failed", method.path)
            self._native.finish(number, *_FAILED)

    async def _run(self, call: Call, method: Method) -> None:
        requests = call.requests(self._plain, method.parse)
        if method.client_streaming:
            await method.serve(requests, call)
            return
        async for request in requests:
            answer = await method.serve(request, call)
            if answer is not None:
                await call.write(answer)
            return
        raise Internal("the call has no request")

    # ---- requests --------------------------------------------------------------------------

    def _submit(self, note: Note) -> None:
        handed_over = HandedOver(self._native, note.call, note.number)
        try:
            request = self._plain(note)
            try:
                handed_over.submit(request)
            except NotFound:
                self._submit_unknown(handed_over, request, note)
        except GsliceError as error:
            handed_over.refuse(error)

    def _plain(self, note: Note) -> bytes:
        """A note's message as it was before it was compressed.

        Raises:
            Unimplemented: by an unknown encoding.
            Internal: it cannot be read.
            ResourceExhausted: it is too large.
        """
        if not note.compressed:
            return note.data
        if note.text not in PACKINGS:
            raise Unimplemented(f"messages compressed by {note.text!r} are not read; use gzip")
        pieces, size = [], 0
        try:
            for piece in unpacked(note.data, note.text):
                pieces.append(piece)
                size += len(piece)
                if size > self._message_max_bytes:
                    most = self._message_max_bytes
                    raise ResourceExhausted(
                        f"the message has more than {most} bytes without compression"
                    )
        except ValueError as error:
            raise Internal(f"the message cannot be read as {note.text}: {error}") from error
        return b"".join(pieces)


class HandedOver:
    """One request that the data path did not take; a `ColdPath` for it alone.

    Args:
        native: Where it waits.
        call: Its call.
        number: Its number there.
    """

    def __init__(self, native: _native.GrpcServer, call: int, number: int) -> None:
        self._native = native
        self._place = call, number
        self._deadline_ns: int | None = None

    def submit(self, request: bytes) -> None:
        """Queues it after all, by the call's own deadline.

        Raises:
            GsliceError: as of `Frontend.submit`.
        """
        self._native.admit(*self._place, request)

    def queue(self, function: Function, request: bytes, deadline_ns: int | None) -> int:
        """As `ColdPath` has it, by the call's own deadline: in one task of the loop."""
        spec, segment, signature = function.spec, function.segment, function.signature
        assert segment is not None
        assert signature is not None
        self._deadline_ns = self._native.admit_cold(
            *self._place,
            request,
            spec.name,
            spec.version,
            segment,
            native_signature(signature),
            spec.slo_p99_us * 1000,
        )
        return 0

    def deadline_ns(self, ticket: int) -> int | None:
        """When it ends, with the `timeout` parameter applied."""
        return self._deadline_ns

    def cancel(self, ticket: int) -> None:
        """Takes it back, to be refused."""
        self._native.withdraw(*self._place)

    def refuse(self, error: GsliceError) -> None:
        """Answers it with an error."""
        pushback = () if error.retry_after_ms is None else (error.retry_after_ms,)
        self._native.refuse(*self._place, error.code, str(error), *pushback)
