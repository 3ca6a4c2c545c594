"""The C++ core as Python sees it: segment, front-end data path, pump.

Errors leave the core as the exceptions of `gslice.core.errors`, by status code. Times are
nanoseconds of `time.monotonic_ns()`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

LAYOUT_VERSION: int
MAX_FRONTENDS: int
MAX_INSTANCES: int

class Signature:
    """C++ twin of `gslice.core.types.Signature` (see `gslice.ipc.native_signature`)."""

    def __init__(
        self,
        inputs: Sequence[tuple[str, str, Sequence[int]]],  # name, dtype, dims
        outputs: Sequence[tuple[str, str, Sequence[int]]],
        rows_max: int,
        buckets: Sequence[int],
    ) -> None: ...

class Segment:
    @staticmethod
    def create(
        name: str,
        classes: Sequence[tuple[int, int]],  # payload_bytes, count; ascending
        block_bytes: int,
        block_count: int,
    ) -> Segment: ...
    @staticmethod
    def open(fd: int) -> Segment: ...
    @property
    def fd(self) -> int: ...  # owned by the Segment; valid while it lives
    @property
    def name(self) -> str: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def generation(self) -> int: ...
    # supervisor side; `wake` lists are the front-end indices whose eventfd the caller must write
    def add_instance(self) -> int: ...
    def remove_instance(self, instance: int) -> None: ...
    def flip(self, old: int | None, next: int | None) -> None: ...
    def may_pull(self, instance: int) -> bool: ...
    def activate_frontend(self, frontend: int) -> None: ...
    def reap_frontend(self, frontend: int) -> int: ...
    def requeue(
        self, instance: int, may_rerun: bool, device_gone: bool = False
    ) -> dict[str, Any]: ...
    # -> {"requeued": int, "poisoned": int, "freed": int, "failed": int, "wake": list[int]}
    def fail_queued(self, code: int, message: str) -> list[int]: ...  # QUEUED -> DONE; -> `wake`
    def release_quarantine(self, instance: int) -> int: ...
    def rebuild_hints(self) -> None: ...
    def set_limits(self, batch_rows_max: int, batch_delay_ns: int) -> None: ...
    def counts(self) -> dict[str, int]: ...
    # -> {"free": .., "leased": .., "queued": .., "claimed": .., "done": .., "quarantined": ..,
    #     "blocks_in_use": ..}
    def instance_stamps(self, instance: int) -> dict[str, Any]: ...
    # -> {"pump_ns": int, "last_claim_ns": int, "lane_started_ns": list[int], "sleeping": bool}
    def stats(self) -> dict[str, Any]: ...
    # -> {"outcome": {"ok": int, "invalid":, "rejected":, "expired":, "cancelled":, "failed":,
    #     "requeued":, "poisoned":}, "rows": int, "executions": int, "copies": int,
    #     "copied_bytes": int, "compute_busy_ns": int, "last_inference_ms": int,
    #     "batch_rows": np.ndarray[uint64, 129],
    #     "stage": {"queue" | "copy_in" | "compute" | "copy_out" | "total":
    #               {"count": int, "sum_ns": int, "bins": np.ndarray[uint64, 512]}}}

def histogram_bounds_us() -> np.ndarray: ...  # float64[513]: bin i covers [b[i], b[i+1])

class Frontend:
    """A front-end's data path: request bytes in, response bytes out. One thread at a time."""

    def __init__(self, index: int) -> None: ...
    def add_function(
        self, name: str, version: str, segment: Segment, signature: Signature, slo_ns: int
    ) -> None: ...  # replaces one of the same name
    def remove_function(self, name: str) -> None: ...  # tickets in flight still finish
    def submit(self, request: bytes, deadline_ns: int | None) -> int:
        """Parses, validates, leases, copies the tensors in and queues.

        Returns:
            A ticket. The answer is ready once `take_done` has returned it.

        Raises:
            NotFound, InvalidArgument, ResourceExhausted, DeadlineExceeded, Unavailable.
        """
    def deadline_ns(self, ticket: int) -> int | None: ...  # with the `timeout` parameter applied
    def request_id(self, ticket: int) -> str: ...
    def take_done(self) -> list[int]: ...  # tickets that are DONE, each once; re-arms the eventfd
    def respond(self, ticket: int, stream: bool = False) -> bytes:
        """The serialised ModelInferResponse (or ModelStreamInferResponse); frees the slot.

        Raises:
            The answer's error, if it is one; the slot is freed all the same.
        """
    def cancel(self, ticket: int) -> None: ...  # idempotent; stale tickets are ignored
    @property
    def in_flight(self) -> int: ...

def parse_infer_request(request: bytes) -> dict[str, Any]:
    """For tests and tools: the parsed request as plain values. Raises InvalidArgument."""

class Batch:
    """What an engine's callable gets: one batch of one shape. Valid only during the call."""

    @property
    def rows(self) -> int: ...  # real rows; requests if the function is not batchable (1)
    @property
    def bucket(self) -> int: ...  # rows presented, with padding
    @property
    def lane(self) -> int: ...
    def input_shape(self, index: int) -> tuple[int, ...]: ...
    def input_array(self, index: int) -> np.ndarray: ...  # a view; read-only; not for BYTES
    def input_bytes(self, index: int) -> memoryview: ...  # serialised BYTES elements of all rows
    def input_ptr(self, index: int) -> int: ...
    def output_shape(self, index: int) -> tuple[int, ...] | None: ...  # None: not known ahead
    def output_ptr(self, index: int) -> int: ...  # where to write it; 0: not known ahead
    def set_output(self, index: int, array: np.ndarray) -> None: ...  # not needed after output_ptr
    def set_output_bytes(self, index: int, data: bytes, shape: Sequence[int]) -> None: ...

class WarmBatch(Batch):
    """A batch outside any segment, for warm-up: its outputs are dropped."""

    def __init__(
        self,
        signature: Signature,
        lane: int,
        bucket: int,
        inputs: Sequence[np.ndarray | bytes],
        shapes: Sequence[Sequence[int]],
    ) -> None: ...

class Instance:
    """The pump of one loaded copy of a function and its lanes (CPU device)."""

    def __init__(
        self,
        segment: Segment,
        index: int,
        signature: Signature,
        lanes: int,
        prepared: Callable[[int, int], Callable[[Batch], None]] | None,
    ) -> None:
        """`prepared(lane, bucket)` gives the callable of a (lane, bucket); asked once for each.

        None: the native identity engine, which copies input i to output i.
        """
    def add_frontend(self, frontend: int, eventfd: int) -> None: ...  # dups the descriptor
    def remove_frontend(self, frontend: int) -> None: ...
    def start(self) -> None: ...
    def lane_tids(self) -> list[int]: ...  # kernel thread ids of the compute threads
    def pump_tid(self) -> int: ...
    def drain(self, timeout_s: float) -> bool: ...  # claim nothing new; True: nothing in flight
    def stop(self) -> None: ...
    def counters(self) -> dict[str, int]: ...
    # -> {"python_calls": .., "batches": .., "zero_copy_batches": .., "lane_buffer_allocations": ..}
