"""One function on the GPU in this process: a real segment, the pump, and the front-end's data path.

Batches are timed on CLOCK_MONOTONIC: from the moment the pump may claim, or from its claim, to the
moment the front-end sees every request DONE.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from benchmarks.wire import infer_request, raw_outputs
from gslice import _native
from gslice.core.types import ELEMENT_BYTES, Signature, TensorSpec
from gslice.ipc.native import native_signature

LONGEST_S = 10.0
STAGING_MAX_BYTES = 16_384
_NAME = "subject"
_DTYPES = {"FP32": np.float32, "UINT8": np.uint8, "INT32": np.int32}
SLOTS = 64
"""Requests that it holds at a time."""


class Captured(Protocol):
    """A graph over the memory of one (lane, bucket)."""

    @property
    def executable(self) -> int:
        """The driver's handle."""

    @property
    def keep(self) -> object:
        """What must live as long as it."""


@dataclass(frozen=True)
class Place:
    """Where a batch of a bucket lies on the GPU, and on which stream it runs.

    Attributes:
        bucket: Rows.
        input: Address.
        output: Address.
        stream: The lane's.
    """

    bucket: int
    input: int
    output: int
    stream: int


Capture = Callable[[Place], Captured]
"""Makes the graph of a batch."""


@dataclass(frozen=True)
class Timing:
    """How long one batch took.

    Attributes:
        total_us: From letting the pump claim, its wake-up included, to DONE as a front-end sees it.
        dispatch_us: From the pump's claim to the same moment.
    """

    total_us: float
    dispatch_us: float


class Served:
    """A function with one input and one output, with the lanes of a device. A context manager.

    Args:
        signature: Of the function.
        device: Stays the caller's.
        lanes: How many of its lanes are used.
        prepared: What runs a batch in a (lane, bucket).
    """

    def __init__(
        self,
        signature: Signature,
        device: _native.CudaDevice,
        lanes: int,
        prepared: Callable[[int, int], Any],
    ) -> None:
        self.signature, self.device = signature, device
        shape = native_signature(signature)
        row_bytes = sum(
            ELEMENT_BYTES[tensor.dtype] * math.prod(tensor.dims[1:])
            for tensor in (*signature.inputs, *signature.outputs)
        )
        payload = -(-(row_bytes + 512) // 4096) * 4096
        self.segment = _native.Segment.create(_NAME, [(payload, SLOTS)], 4096, 1)
        self.segment.activate_frontend(0)
        self._index = self.segment.add_instance()
        self._instance = _native.Instance(
            # Not a method of this object: the instance holds it, and would never be collected.
            *(self.segment, self._index, shape, lanes, prepared, device)
        )
        self._frontend = _native.Frontend(0)
        self._frontend.add_function(_NAME, "1", self.segment, shape, 0)
        self._instance.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._instance.stop()

    def requests(self, rows: NDArray[Any]) -> list[bytes]:
        """A serialised request for each row."""
        return [infer_request(_NAME, {"x": row[np.newaxis]}) for row in rows]

    def run(self, requests: Sequence[bytes]) -> Timing:
        """Runs requests: they are all in their slots before the pump may claim.

        As many as a batch holds are one batch; of more, `dispatch_us` is of the last batch.
        """
        tickets = [self._frontend.submit(request, None) for request in requests]
        waiting = set(tickets)
        begun_ns = time.monotonic_ns()
        self.segment.flip(None, self._index)
        while waiting:
            waiting.difference_update(self._frontend.take_done())
            if time.monotonic_ns() - begun_ns > LONGEST_S * 1e9:
                fault = self._instance.fault() or str(self.segment.counts())
                raise RuntimeError(f"a batch of {len(requests)} does not end: {fault}")
        ended_ns = time.monotonic_ns()
        claimed_ns = self.segment.instance_stamps(self._index)["last_claim_ns"]
        self.segment.flip(self._index, None)
        self.answers = [self._frontend.respond(ticket) for ticket in tickets]
        return Timing((ended_ns - begun_ns) / 1e3, (ended_ns - claimed_ns) / 1e3)

    def outputs(self) -> NDArray[np.float32]:
        """What the last batch gave, a row for each request."""
        return np.stack([np.frombuffer(raw_outputs(a)[0], np.float32) for a in self.answers])

    def counters(self, since: Mapping[str, int] | None = None) -> dict[str, int]:
        """The pump's and the device's; with an earlier reading: what was added."""
        return {
            name: n - (since or {}).get(name, 0) for name, n in self._instance.counters().items()
        }


class Pumped(Served):
    """A function of graphs, on a device of its own.

    Args:
        row: Shape of an input row.
        dtype: Of the input, as KServe says.
        outputs: FP32 numbers in an output row.
        buckets: Batch sizes, ascending.
        capture: Makes the graph of a bucket.
        staging_max_bytes: Batches up to this size are gathered on the host.
        lanes: How many batches may be on the GPU at a time.
    """

    def __init__(
        self,
        row: Sequence[int],
        dtype: str,
        outputs: int,
        buckets: Sequence[int],
        capture: Capture,
        *,
        staging_max_bytes: int = STAGING_MAX_BYTES,
        lanes: int = 1,
    ) -> None:
        signature = Signature(
            (TensorSpec("x", dtype, (-1, *row)),),
            (TensorSpec("y", "FP32", (-1, outputs)),),
            rows_max=max(buckets),
            buckets=tuple(buckets),
        )
        shape = native_signature(signature)
        device = _native.CudaDevice(0, lanes, staging_max_bytes)
        graphs: dict[tuple[int, int], _native.CudaGraph] = {}
        # The largest first: the buffer never moves.
        for lane, bucket in product(range(lanes), sorted(buckets, reverse=True)):
            inputs = np.zeros((bucket, *row), _DTYPES[dtype])
            batch = _native.WarmBatch(shape, lane, bucket, [inputs], [inputs.shape], device)
            addresses = batch.input_ptr(0), batch.output_ptr(0)
            graph = capture(Place(bucket, *addresses, device.lane_stream(lane)))
            batch.finish()
            graphs[lane, bucket] = _native.CudaGraph(graph.executable, graph.keep)
        super().__init__(signature, device, lanes, lambda lane, bucket: graphs[lane, bucket])

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self.device.close()
