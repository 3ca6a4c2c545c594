"""One ModelStreamInfer call: requests are admitted as they come, answers leave in their order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from gslice.core.errors import GsliceError, Unavailable
from gslice.protos import message

if TYPE_CHECKING:
    from gslice import _native
    from gslice.frontend.completions import Completions

IN_FLIGHT_MAX = 64  # requests of one stream that wait for their answers; more are not read


@dataclass
class _Taken:
    """A request that was admitted, or why it was not."""

    request_id: str
    ticket: int = -1
    future: asyncio.Future[None] | None = None
    error: GsliceError | None = None


class Stream:
    """The state of one call.

    Args:
        native: The data path.
        completions: Where its answers are waited for.
        admit: Submits a request of this call: (request, context) -> ticket.
        context: The call's.
    """

    def __init__(
        self,
        native: _native.Frontend,
        completions: Completions,
        admit: Callable[[bytes, Any], int],
        context: Any,
    ) -> None:
        self._native = native
        self._completions = completions
        self._admit = admit
        self._context = context
        self._room = asyncio.Semaphore(IN_FLIGHT_MAX)
        self._taken: asyncio.Queue[_Taken | None] = asyncio.Queue()
        self._reader: asyncio.Task[None] | None = None
        self._stopped = False

    async def run(self, requests: Any) -> None:
        """Serves the call to its end.

        Raises:
            Unavailable: The server drains; all requests that were read have been answered.
        """
        self._reader = asyncio.create_task(self._read(requests))
        try:
            while (taken := await self._taken.get()) is not None:
                await self._context.write(await self._answer(taken))
                self._room.release()
            if self._stopped:
                raise Unavailable("the server is draining")
            await self._reader  # it has ended; if by an error, so does the call
        finally:
            self._reader.cancel()
            self._abandon_rest()

    def stop(self) -> None:
        """Reads no more requests."""
        self._stopped = True
        if self._reader is not None:
            self._reader.cancel()

    async def _read(self, requests: Any) -> None:
        try:
            async for request in requests:
                await self._room.acquire()
                self._taken.put_nowait(self._take(request))
        finally:
            self._taken.put_nowait(None)

    def _take(self, request: bytes) -> _Taken:
        try:
            ticket = self._admit(request, self._context)
        except GsliceError as error:
            return _Taken(_request_id(request), error=error)
        future = self._completions.expect(ticket)
        return _Taken(self._native.request_id(ticket), ticket, future)

    async def _answer(self, taken: _Taken) -> bytes:
        if taken.future is None or taken.error is not None:
            return _error_answer(taken)
        try:
            await self._completions.wait(taken.ticket, taken.future)
            return self._native.respond(taken.ticket, stream=True)
        except GsliceError as error:
            taken.error = error
            return _error_answer(taken)

    def _abandon_rest(self) -> None:
        while not self._taken.empty():
            taken = self._taken.get_nowait()
            if taken is not None and taken.future is not None:
                self._completions.abandon(taken.ticket)


def _request_id(request: bytes) -> str:
    """The id of a request that was refused; empty if it cannot be read."""
    try:
        return str(message("inference.ModelInferRequest").FromString(request).id)
    except DecodeError:
        return ""


def _error_answer(taken: _Taken) -> bytes:
    """An error in the stream: the text as the protocol has it, the code for those who look."""
    error = taken.error
    answer = message("inference.ModelStreamInferResponse")(error_message=str(error))
    answer.infer_response.id = taken.request_id
    parameters = answer.infer_response.parameters
    parameters["triton_final_response"].bool_param = True
    parameters["gslice_code"].int64_param = error.code if error is not None else GsliceError.code
    return bytes(answer.SerializeToString())
