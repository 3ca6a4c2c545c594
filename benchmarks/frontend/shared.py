"""Requests whose tensors lie in memory that the client shares with the server, not in the request.

Each call in flight has areas of its own, as those of different clients would. The driver is our own
closed loop: h2load sends the same bytes every time, so all its calls would share one area.
"""

from __future__ import annotations

import asyncio
import fcntl
import mmap
import os
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self

import grpc.aio
import numpy as np
from numpy.typing import NDArray

from benchmarks.common import Row, medians
from benchmarks.frontend.identity import Case, tensor_of
from benchmarks.frontend.processes import cpu_ns, pids_of
from benchmarks.frontend.turns import SHARED_MEMORY, SPREAD_OF, Plan, figures
from benchmarks.http2 import Connection, Request
from benchmarks.load import INFER, closed_loop_of
from gslice.demo.node import ServedNode
from gslice.protos import message
from gslice.protos.rpc import Stub

SERVICE = "inference.GRPCInferenceService"
WARM_UP_PART = 5  # of a run


@dataclass(frozen=True)
class Question:
    """What is asked through shared memory, and what must be answered.

    Attributes:
        function: Whom.
        tensor: Of its input `x`.
        output: Name of its output.
        answer: What that must hold.
    """

    function: str
    tensor: NDArray[np.float32]
    output: str
    answer: bytes


class Areas:
    """A sealed memory file with an input and an output for each call in flight.

    Args:
        question: What lies there.
        count: How many calls are in flight.
    """

    def __init__(self, question: Question, count: int) -> None:
        self.count = count
        self._question = question
        self._name = f"gslice-client:{secrets.token_hex(16)}"
        largest_bytes = max(question.tensor.nbytes, len(question.answer))
        self._step = -(-largest_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        self._bytes = 2 * count * self._step
        self._fd = os.memfd_create(self._name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self._fd, self._bytes)
        fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        self._map = mmap.mmap(self._fd, self._bytes)
        for call in range(count):
            start = self._input(call)
            self._map[start : start + question.tensor.nbytes] = question.tensor.tobytes()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._map.close()
        os.close(self._fd)

    async def register(self, address: str) -> None:
        """Tells the server of it."""
        region = message("inference.SystemSharedMemoryRegisterRequest")(
            name=self._name, key=f"/proc/{os.getpid()}/fd/{self._fd}", byte_size=self._bytes
        )
        async with grpc.aio.insecure_channel(address) as channel:
            await Stub(channel, SERVICE).SystemSharedMemoryRegister(region)

    async def unregister(self, address: str) -> None:
        """The server lets it go."""
        region = message("inference.SystemSharedMemoryUnregisterRequest")(name=self._name)
        async with grpc.aio.insecure_channel(address) as channel:
            await Stub(channel, SERVICE).SystemSharedMemoryUnregister(region)

    def request(self, call: int) -> bytes:
        """The serialised request of one call in flight."""
        question = self._question
        request = message("inference.ModelInferRequest")(model_name=question.function)
        given = request.inputs.add(name="x", datatype="FP32", shape=question.tensor.shape)
        self._lie_at(given, self._input(call), question.tensor.nbytes)
        wanted = request.outputs.add(name=question.output)
        self._lie_at(wanted, self._output(call), len(question.answer))
        return bytes(request.SerializeToString())

    def check(self) -> None:
        """Every output is the answer.

        Raises:
            RuntimeError: One is not.
        """
        answer = self._question.answer
        for call in range(self.count):
            start = self._output(call)
            if self._map[start : start + len(answer)] != answer:
                raise RuntimeError("the server wrote something else into the shared memory")

    def _input(self, call: int) -> int:
        return 2 * call * self._step

    def _output(self, call: int) -> int:
        return self._input(call) + self._step

    def _lie_at(self, tensor: Any, offset: int, tensor_bytes: int) -> None:
        tensor.parameters["shared_memory_region"].string_param = self._name
        tensor.parameters["shared_memory_offset"].int64_param = offset
        tensor.parameters["shared_memory_byte_size"].int64_param = tensor_bytes


class Caller:
    """Calls with whichever areas are free."""

    def __init__(self, connection: Connection, requests: Sequence[Request]) -> None:
        self._connection = connection
        self._free = list(requests)

    def __call__(self) -> asyncio.Future[bytes]:
        request = self._free.pop()
        call = self._connection.call(request)
        call.add_done_callback(lambda _: self._free.append(request))
        return call


@dataclass(frozen=True)
class SharedSubject:
    """A server, and what it is asked through shared memory. Made by `shared_subject`.

    Attributes:
        requests: One for each call in flight.
        pids: All processes of the server.
    """

    requests: Sequence[Request]
    pids: Sequence[int]

    async def run(self, seconds: float) -> Row:
        """Figures of one run, over a connection of its own, as each of h2load's has."""
        async with await Connection.connect(self.requests[0].authority) as connection:
            caller = Caller(connection, self.requests)
            before_ns = cpu_ns(self.pids)
            load = await closed_loop_of(caller, len(self.requests), seconds)
            return figures(load, cpu_ns(self.pids) - before_ns)


@asynccontextmanager
async def shared_subject(
    question: Question, node: ServedNode, concurrency: int
) -> AsyncIterator[SharedSubject]:
    """A context: areas for each call in flight. In the end, all of them must hold the answer."""
    address = node.grpc_address
    with Areas(question, concurrency) as areas:
        await areas.register(address)
        payloads = (areas.request(call) for call in range(concurrency))
        requests = [Request(address, INFER, each) for each in payloads]
        yield SharedSubject(requests, pids_of(node.status))
        await areas.unregister(address)
        areas.check()


async def row_of(case: Case, node: ServedNode, kind: str, plan: Plan) -> Row:
    """Measures one case; there is no echo of it, for next to nothing goes through HTTP."""
    tensor = tensor_of(case)
    question = Question(case.function, tensor, "x", tensor.tobytes())
    async with shared_subject(question, node, case.width.concurrency) as subject:
        await subject.run(plan.seconds / WARM_UP_PART)
        runs = [await subject.run(plan.seconds) for _ in range(plan.repeats)]
    return case.head(kind, SHARED_MEMORY) | medians(runs, SPREAD_OF)
