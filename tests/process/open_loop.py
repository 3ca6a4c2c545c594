"""Clients whose requests come at their times, whether or not others were answered."""

from __future__ import annotations

import asyncio
import itertools
import threading
from types import TracebackType
from typing import Any, Self

import numpy as np

from gslice.client import aio
from tests.node import WAIT_S
from tests.process.traffic import Answers


class OpenLoop(Answers):
    """Load on one function until the context ends; every request is a number of its own.

    Args:
        address: Of the front-ends.
        name: A function that answers a number `x` with itself.
        channels: Clients, each with a channel of its own.
        rate_per_s: Requests of all together.
        output: Name of its output.
    """

    def __init__(
        self, address: str, name: str, channels: int, rate_per_s: float, output: str = "x"
    ) -> None:
        super().__init__()
        self._address = address
        self._name = name
        self._channels = channels
        self._period_s = 1 / rate_per_s
        self._output = output
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive(), "a call never ended"

    async def _run(self) -> None:
        clients = [aio.Client(self._address, WAIT_S) for _ in range(self._channels)]
        calls: set[asyncio.Task[Any]] = set()
        for number, client in zip(itertools.count(1), itertools.cycle(clients), strict=False):
            if self._stop.is_set():
                break
            self.sent = number
            call = asyncio.create_task(self._call(client, number))
            calls.add(call)
            call.add_done_callback(calls.discard)
            await asyncio.sleep(self._period_s)
        await asyncio.gather(*calls)
        await asyncio.gather(*(client.close() for client in clients))

    async def _call(self, client: aio.Client, number: int) -> None:
        try:
            outputs = await client.infer(self._name, {"x": np.array([[number]], np.int64)})
        except Exception as error:
            self.errors.append(error)
            return
        with self._progress:
            self.answers[int(outputs[self._output][0, 0])] += 1
            self._progress.notify_all()
