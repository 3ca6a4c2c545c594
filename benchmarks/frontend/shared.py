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
from typing import Any, Self

import grpc.aio
import numpy as np

from benchmarks.common import Row, medians
from benchmarks.frontend.identity import Case
from benchmarks.frontend.processes import cpu_ns, roles
from benchmarks.frontend.turns import SPREAD_OF, Plan, figures
from benchmarks.http2 import Connection, Request
from benchmarks.load import INFER, closed_loop_of
from gslice.demo.node import ServedNode
from gslice.protos import message
from gslice.protos.rpc import Stub

SERVICE = "inference.GRPCInferenceService"


class Areas:
    """A sealed memory file with an input and an output for each call in flight.

    Args:
        tensor_bytes: Size of a tensor.
        count: How many calls are in flight.
    """

    def __init__(self, tensor_bytes: int, count: int) -> None:
        self.tensor_bytes = tensor_bytes
        self.count = count
        self._name = f"gslice-client:{secrets.token_hex(16)}"
        self._step = -(-tensor_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        self._bytes = 2 * count * self._step
        self._fd = os.memfd_create(self._name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self._fd, self._bytes)
        fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        self._map = mmap.mmap(self._fd, self._bytes)
        noise = np.random.default_rng(0).bytes(tensor_bytes)
        for call in range(count):
            self._map[self._input(call) : self._input(call) + tensor_bytes] = noise
        self._noise = noise

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

    def request(self, function: str, call: int) -> bytes:
        """The serialised request of one call in flight."""
        request = message("inference.ModelInferRequest")(model_name=function)
        shape = [1, self.tensor_bytes // 4]
        self._lie_at(request.inputs.add(name="x", datatype="FP32", shape=shape), self._input(call))
        self._lie_at(request.outputs.add(name="x"), self._output(call))
        return bytes(request.SerializeToString())

    def check(self) -> None:
        """Every output is the input.

        Raises:
            RuntimeError: One is not.
        """
        for call in range(self.count):
            start = self._output(call)
            if self._map[start : start + self.tensor_bytes] != self._noise:
                raise RuntimeError("the server wrote something else into the shared memory")

    def _input(self, call: int) -> int:
        return 2 * call * self._step

    def _output(self, call: int) -> int:
        return self._input(call) + self._step

    def _lie_at(self, tensor: Any, offset: int) -> None:
        tensor.parameters["shared_memory_region"].string_param = self._name
        tensor.parameters["shared_memory_offset"].int64_param = offset
        tensor.parameters["shared_memory_byte_size"].int64_param = self.tensor_bytes


class Caller:
    """Calls with whichever areas are free."""

    def __init__(self, connection: Connection, requests: list[Request]) -> None:
        self._connection = connection
        self._free = requests

    def __call__(self) -> asyncio.Future[bytes]:
        request = self._free.pop()
        call = self._connection.call(request)
        call.add_done_callback(lambda _: self._free.append(request))
        return call


async def row_of(case: Case, node: ServedNode, kind: str, plan: Plan) -> Row:
    """Measures one case; there is no echo of it, for next to nothing goes through HTTP."""
    address, concurrency = node.grpc_address, case.width.concurrency
    pids = [pid for found in roles(node.status).values() for pid in found]
    runs = []
    with Areas(case.payload_bytes, concurrency) as areas:
        await areas.register(address)
        payloads = (areas.request(case.function, call) for call in range(concurrency))
        async with await Connection.connect(address) as connection:
            caller = Caller(connection, [Request(address, INFER, each) for each in payloads])
            await closed_loop_of(caller, concurrency, plan.seconds / 5)  # warm up
            for _ in range(plan.repeats):
                before_ns = cpu_ns(pids)
                load = await closed_loop_of(caller, concurrency, plan.seconds)
                runs.append(figures(load, cpu_ns(pids) - before_ns))
        await areas.unregister(address)
        areas.check()
    return {
        "name": f"{kind} {case.function} through shared memory",
        "frontend": kind,
        "payload_bytes": case.payload_bytes,
        "concurrency": concurrency,
        "connections": 1,
        "client": "gslice shared memory",
        "identity_copies": case.copies,
        **medians(runs, SPREAD_OF),
    }
