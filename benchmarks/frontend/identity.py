"""Identity functions behind a front-end: what is left of a request's time is gslice itself."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import Row
from benchmarks.cores import Cores
from benchmarks.frontend.bare import Bare
from benchmarks.frontend.h2load import Width
from benchmarks.frontend.processes import pids_of
from benchmarks.frontend.turns import H2LOAD, Plan, Subject, ask, compare, head
from benchmarks.http2 import Request
from benchmarks.load import INFER, ONE_CONNECTION
from benchmarks.wire import LARGE_BYTES, SMALL_BYTES, infer_request, raw_outputs
from gslice import _native
from gslice.demo.node import ServedNode

IN_FLIGHT_MAX = {SMALL_BYTES: 1024, LARGE_BYTES: 64}


@dataclass(frozen=True)
class Case:
    """One row.

    Attributes:
        payload_bytes: Of the tensor, in and out.
        width: How much is in flight.
        copies: Whether the function copies its input; else its answer is the input where it lies.
    """

    payload_bytes: int
    width: Width
    copies: bool

    @property
    def function(self) -> str:
        """Served name."""
        return name_of(self.payload_bytes, self.copies)

    @property
    def fits(self) -> bool:
        """Whether the function's queue holds all that is in flight."""
        return self.width.concurrency <= IN_FLIGHT_MAX[self.payload_bytes]

    def head(self, frontend: str, client: str = H2LOAD) -> Row:
        """What its row begins with."""
        begun = head(self.function, frontend, self.payload_bytes, self.width, client)
        return begun | {"identity_copies": self.copies}


def name_of(payload_bytes: int, copies: bool) -> str:
    """Name of the function for a payload."""
    return f"identity_{payload_bytes}" + ("" if copies else "_in_place")


def functions() -> dict[str, Any]:
    """`functions` of the node's node.yaml."""
    return {
        name_of(payload_bytes, copies): {
            "identity": {
                "inputs": [{"name": "x", "dtype": "FP32", "dims": [-1, payload_bytes // 4]}],
                **({} if copies else {"in_place": True}),
            },
            "queue": {"max": IN_FLIGHT_MAX[payload_bytes]},
            # Alone, a request is computed where it lies: only a front-end moves it.
            **({"batch": {"max": 1}} if payload_bytes == LARGE_BYTES else {}),
        }
        for payload_bytes in IN_FLIGHT_MAX
        for copies in (True, False)
    }


def frontend_setting(kind: str) -> dict[str, str]:
    """Under `node`; nothing where there is only one kind."""
    return {"frontend": kind} if kinds() != [kind] else {}


def kinds() -> list[str]:
    """The front-ends that were built."""
    return ["python", "native"] if getattr(_native, "GRPC_SERVER", False) else ["python"]


@contextlib.asynccontextmanager
async def node_of(kind: str, served: Mapping[str, Any], cores: Cores) -> AsyncIterator[ServedNode]:
    """A node with a front-end of one kind, all of it on the server's core."""
    with tempfile.TemporaryDirectory(prefix="gslice-bench-") as directory:
        node = ServedNode(
            Path(directory),
            served,
            devices={"cpu": {"limiter": "none"}},  # the subjects take turns: none needs a share
            cores={cores.server},
            node={
                "spares": 0,
                "client_memory": {"prefix": "/gslice-bench-"},
                **frontend_setting(kind),
                **ONE_CONNECTION,
            },
        )
        async with node:
            yield node


async def row_of(case: Case, node: ServedNode, kind: str, bare: Bare, plan: Plan) -> Row:
    """Measures one case against the echo."""
    payload = payload_of(case)
    served = await served_subject(case, node, payload)
    echo = Subject(Request(bare.address, INFER, payload), len(payload), [bare.pid])
    if await ask(echo.request) != payload:
        raise RuntimeError("the bare echo gave back something else")
    return case.head(kind) | compare(served, echo, case.width, plan)


def tensor_of(case: Case) -> NDArray[np.float32]:
    """What is asked, and answered."""
    return np.random.default_rng(0).random((1, case.payload_bytes // 4), np.float32)


def payload_of(case: Case) -> bytes:
    """The serialised request."""
    return infer_request(case.function, {"x": tensor_of(case)})


async def served_subject(case: Case, node: ServedNode, payload: bytes) -> Subject:
    """The function, after a look at what it answers."""
    request = Request(node.grpc_address, INFER, payload)
    answer = await ask(request)
    if raw_outputs(answer)[0] != payload[-case.payload_bytes :]:
        raise RuntimeError(f"{case.function} did not give back its input")
    return Subject(request, len(answer), pids_of(node.status))
