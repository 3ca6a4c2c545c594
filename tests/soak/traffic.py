"""Open traffic of many kinds: requests come at their times, whether or not others were answered."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import numpy as np
import onnx
from onnx import numpy_helper

from gslice.client import aio
from gslice.core.errors import GsliceError
from tests.node import WAIT_S
from tests.soak.ledger import Ledger, Request

ECHOES = ("same", "echo", "picky")  # functions that answer with what they are sent
OUTPUT = {"same": "x", "extra": "x", "echo": "y", "picky": "y"}
CLIENTS = 3
STREAM_LENGTH = 20

Kind = Callable[[aio.Client], Awaitable[None]]


class OpenTraffic:
    """Clients that send until the context ends, in a thread of their own.

    Args:
        address: Of the front-end.
        ledger: Where every request is entered.
        seed: Of all that is left to chance.
        affine: The model of the function `affine`.
    """

    def __init__(self, address: str, ledger: Ledger, seed: int, affine: Path) -> None:
        self._address = address
        self._ledger = ledger
        self._chance = random.Random(seed)
        self._numbers = itertools.count(1)
        self._weight, self._bias = map(
            numpy_helper.to_array, onnx.load(str(affine)).graph.initializer
        )
        self._rates_per_s: dict[Kind, float] = {
            self._echo: 25,
            self._affine: 8,
            self._stream: 0.5,
            self._cancel: 8,
            self._hurry: 8,
            self._bad: 3,
            self._extra: 2,
            self._leave: 0.3,
        }
        self._calls: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._flowing = asyncio.Event()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))

    def __enter__(self) -> Self:
        self._thread.start()
        self.resume()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive(), "a call never ended"
        self._loop.close()

    def pause(self) -> None:
        """Sends nothing more, and waits until every call has ended."""
        asyncio.run_coroutine_threadsafe(self._pause(), self._loop).result(2 * WAIT_S)

    def resume(self) -> None:
        """Sends again."""
        self._loop.call_soon_threadsafe(self._flowing.set)

    # ---- the flow ------------------------------------------------------------------------------

    async def _run(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            sources = []
            for _ in range(CLIENTS):
                client = await stack.enter_async_context(aio.Client(self._address, WAIT_S))
                for kind, rate_per_s in self._rates_per_s.items():
                    source = self._source(client, kind, rate_per_s / CLIENTS)
                    sources.append(asyncio.create_task(source))
            await self._stop.wait()
            for task in sources:
                task.cancel()
            ended = await asyncio.gather(*sources, return_exceptions=True)
            await self._pause()
        broken = [error for error in ended if not isinstance(error, asyncio.CancelledError)]
        assert not broken, broken

    async def _source(self, client: aio.Client, kind: Kind, rate_per_s: float) -> None:
        while True:
            await asyncio.sleep(self._chance.expovariate(rate_per_s))
            await self._flowing.wait()
            call = asyncio.ensure_future(kind(client))
            self._calls.add(call)
            call.add_done_callback(self._ended)

    def _ended(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        if not call.cancelled() and (error := call.exception()) is not None:
            self._ledger.wrong.append(f"a client met {error!r}")

    async def _pause(self) -> None:
        self._flowing.clear()
        while self._calls:
            await asyncio.wait(set(self._calls))

    # ---- kinds of requests ---------------------------------------------------------------------

    async def _echo(self, client: aio.Client) -> None:
        name = self._chance.choice(ECHOES)
        await self._infer(client, "usual", name, self._numbers_of(name))

    async def _affine(self, client: aio.Client) -> None:
        request = self._ledger.begin("usual", "affine")
        rows = self._chance.randint(1, 4)
        x = np.array([[self._chance.random() for _ in range(8)] for _ in range(rows)], np.float32)

        async def call() -> bool:
            answer = await client.infer("affine", {"x": x})
            return np.allclose(answer["y"], x @ self._weight + self._bias, atol=1e-5)

        await self._enter(request, call())

    async def _stream(self, client: aio.Client) -> None:
        name = self._chance.choice(ECHOES)
        sent = [self._numbers_of(name) for _ in range(STREAM_LENGTH)]
        request = self._ledger.begin("stream", name)

        async def call() -> bool:
            stream = client.infer_stream(name, [{"x": x} for x in sent])
            answers = [outputs[OUTPUT[name]] async for outputs in stream]
            same = [np.array_equal(x, y) for x, y in zip(sent, answers, strict=True)]
            return all(same)

        await self._enter(request, call())

    async def _cancel(self, client: aio.Client) -> None:
        name = self._chance.choice(ECHOES)
        call = asyncio.ensure_future(self._infer(client, "given up", name, self._numbers_of(name)))
        asyncio.get_running_loop().call_later(self._chance.uniform(0.001, 0.03), call.cancel)
        await call

    async def _hurry(self, client: aio.Client) -> None:
        name = self._chance.choice(ECHOES)
        timeout_s = self._chance.uniform(0.0005, 0.02)
        await self._infer(client, "hurried", name, self._numbers_of(name), timeout_s)

    async def _bad(self, client: aio.Client) -> None:
        kind, name, x = self._chance.choice(
            [
                ("bad", "same", np.zeros((1, 1), np.float32)),
                ("bad", "affine", np.zeros((1, 9), np.float32)),
                ("bad", "echo", np.zeros((1, 1, 1), np.int64)),
                ("raising", "picky", np.array([[-1]], np.int64)),
                ("unknown", "nobody", np.zeros((1, 1), np.int64)),
            ]
        )
        await self._infer(client, kind, name, x)

    async def _extra(self, client: aio.Client) -> None:
        await self._infer(client, "extra", "extra", self._numbers_of("extra"))

    async def _leave(self, client: aio.Client) -> None:
        """A client of its own hangs up over its calls."""
        async with aio.Client(client.url, WAIT_S) as leaver:
            calls = [
                asyncio.ensure_future(self._infer(leaver, "left", n, self._numbers_of(n)))
                for n in ECHOES
            ]
            await asyncio.wait(calls, timeout=self._chance.uniform(0.001, 0.02))
        await asyncio.gather(*calls)

    # ---- one request ---------------------------------------------------------------------------

    def _numbers_of(self, name: str) -> np.ndarray:
        """Rows that nobody else sends."""
        rows = 1 if name == "picky" else self._chance.randint(1, 4)
        return np.array([[next(self._numbers)] for _ in range(rows)], np.int64)

    async def _infer(
        self,
        client: aio.Client,
        kind: str,
        name: str,
        x: np.ndarray,
        timeout_s: float | None = None,
    ) -> None:
        request = self._ledger.begin(kind, name)

        async def call() -> bool:
            answer = await client.infer(name, {"x": x}, timeout_s=timeout_s)
            return np.array_equal(answer[OUTPUT[name]], x)

        await self._enter(request, call())

    async def _enter(self, request: Request, call: Any) -> None:
        try:
            right = await call
        except GsliceError as error:
            self._ledger.failed(request, error)
        except (asyncio.CancelledError, grpc.aio.UsageError):  # UsageError: its channel is closed
            if request.kind not in ("given up", "left"):
                raise
            self._ledger.cancelled(request)
        else:
            self._ledger.answered(request, right)
