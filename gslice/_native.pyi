"""The C++ core as Python sees it: segment, front-end data path, pump.

Errors leave the core as the exceptions of `gslice.core.errors`, by status code. Times are
nanoseconds of `time.monotonic_ns()`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

LAYOUT_VERSION: int
GRPC_SERVER: bool  # built with the native front-end
GRPC_SERVER_TLS: bool
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
    def flip(self, old: int | None, next: int | None) -> int: ...  # ns, without waking the next
    def may_pull(self, instance: int) -> bool: ...
    def activate_frontend(self, frontend: int) -> None: ...
    def reap_frontend(self, frontend: int) -> int: ...
    def requeue(
        self, instance: int, may_rerun: bool, device_gone: bool = False, blamed: bool = True
    ) -> dict[str, Any]: ...
    # -> {"requeued": int, "poisoned": int, "freed": int, "failed": int, "wake": list[int]}
    def fail_queued(self, code: int, message: str) -> list[int]: ...  # QUEUED -> DONE; -> `wake`
    def release_quarantine(self, instance: int) -> int: ...
    def rebuild_hints(self) -> None: ...
    def set_limits(
        self, batch_rows_max: int, batch_delay_ns: int, admit_within_ns: int = 0
    ) -> None: ...  # the last: who would not be answered within it is shed; 0: nobody is
    def counts(self) -> dict[str, int]: ...
    # -> {"free": .., "leased": .., "queued": .., "claimed": .., "done": .., "quarantined": ..,
    #     "blocks_in_use": ..}
    def instance_stamps(self, instance: int) -> dict[str, Any]: ...
    # -> {"pump_ns": int, "last_claim_ns": int, "lane_started_ns": list[int], "sleeping": bool,
    #     "ready_since_ns": int (0: it can not claim now),
    #     "first_wait_ns": int (dispatch wait of its first claim after a flip; -1: none)}
    def demand(self) -> dict[str, Any]: ...
    # -> {"arrived": int (well-formed requests so far, those in slots included), "answered": int,
    #     "rows": int, "executions": int, "compute_busy_ns": int, "turns": int (batches that
    #     needed one), "turn_wait_ns": int (of all of them), "batch_rows": as in `stats`};
    #     cheaper than `stats`
    def stats(self) -> dict[str, Any]: ...
    # -> {"outcome": {"ok": int, "invalid":, "rejected":, "expired":, "cancelled":, "failed":,
    #     "requeued":, "poisoned":}, "rows": int, "executions": int, "copies": int,
    #     "copied_bytes": int, "compute_busy_ns": int, "last_inference_ms": int,
    #     "batch_rows": np.ndarray[uint64, 129],
    #     "stage": {"queue" | "copy_in" | "compute" | "copy_out" | "total" | "dispatch" | "turn":
    #               {"count": int, "sum_ns": int, "bins": np.ndarray[uint64, 512]}}}

class TurnBoard:
    """Who may run a batch on a device now, where its shares add up to more than it has."""

    @staticmethod
    def create(device: str) -> TurnBoard: ...  # with turns off
    @staticmethod
    def open(fd: int) -> TurnBoard: ...
    @property
    def fd(self) -> int: ...  # owned by the TurnBoard; valid while it lives
    @property
    def generation(self) -> int: ...
    @property
    def limit_percent(self) -> float | None: ...  # None: turns are off
    # the daemon's side
    def set_limit(self, limit_percent: float | None) -> None: ...
    def add(self, segment: int, instance: int, pid: int, share_percent: float) -> int: ...
    # -> its entry; the segment is a generation
    def remove(self, entry: int) -> None: ...  # what its instance had is free
    def set_share(self, entry: int, share_percent: float) -> None: ...
    def waits(self, entry: int) -> bool: ...  # it has a batch, and not yet the turn
    def entries(self) -> dict[int, dict[str, Any]]: ...
    # -> by entry {"segment": int, "instance": int, "pid": int, "share_percent": float,
    #     "state": "idle" | "waiting" | "running", "due_ns": int}

def histogram_bounds_us() -> np.ndarray: ...  # float64[513]: bin i covers [b[i], b[i+1])

class QuotaBoard:
    """What tenants take of a node, counted over its front-ends, which have its descriptor."""

    @staticmethod
    def create() -> QuotaBoard: ...
    @property
    def fd(self) -> int: ...
    def under_way(self, tenant: int) -> int: ...  # requests, by the tenant's place
    def clear(self, frontend: int) -> None: ...  # it has died: nothing is under way there

class Frontend:
    """A front-end's data path: request bytes in, response bytes out. One thread at a time."""

    def __init__(self, index: int) -> None: ...
    def add_function(
        self, name: str, version: str, segment: Segment, signature: Signature, slo_ns: int
    ) -> None: ...  # replaces one of the same name
    def remove_function(self, name: str) -> None: ...  # tickets in flight still finish
    def offer_client_memory(self) -> None: ...  # requests may name regions from now on
    def add_region(
        self, name: str, fd: int, offset_bytes: int, size_bytes: int, tenant: str = ""
    ) -> bool:
        """Lets requests name a part of a client's file; replaces the tenant's of the same name.

        Args:
            name: Of the region.
            fd: Of the file; stays the caller's.
            offset_bytes: Where the region begins in the file.
            size_bytes: Of the region.
            tenant: Whose requests may name it; empty: those of callers without a tenant.

        Returns:
            Whether it is mapped: only a file that is sealed against shrinking is.

        Raises:
            InvalidArgument, ResourceExhausted, Unimplemented (clients' memory is not offered).
        """
    def remove_region(self, name: str, tenant: str = "") -> None: ...  # not from under requests
    def set_tenants(
        self, tenants: list[tuple[str, list[str], int, int, int]], board_fd: int
    ) -> None:
        """Holds requests of tenants to their quotas; replaces those that were told before.

        Args:
            tenants: Each (name, functions, ns between requests or 0, burst, requests under way).
            board_fd: Of the QuotaBoard; stays the caller's, and says nothing without tenants.
        """
    def keep_journal(self, sample: float, failures: bool) -> None:
        """Has single requests recorded from now on, for `take_records`.

        Args:
            sample: Part of the requests without a traceparent that is traced, 0 to 1.
            failures: Those that fail are recorded, too.
        """
    def take_records(self) -> tuple[list[tuple[Any, ...]], int]:
        """The records since the last call, and how many were lost because there were too many.

        Each is (traced, trace id, parent id, function, version, request id, rows, code, message,
        stamps): see native/frontend/journal.hpp. The ids are bytes, zeros where a trace begins.
        """
    def submit(
        self,
        request: bytes,
        deadline_ns: int | None,
        tenant: int = -1,
        traceparent: str = "",
        received_ns: int = 0,
    ) -> int:
        """Parses, validates, leases, copies the tensors in and queues.

        Args:
            request: Serialised.
            deadline_ns: The caller's; None: none.
            tenant: The caller's place among the tenants; -1: it is none's.
            traceparent: The header of that name, for the journal.
            received_ns: When the first of it came; 0: now.

        Returns:
            A ticket. The answer is ready once `take_done` has returned it.

        Raises:
            NotFound, InvalidArgument, PermissionDenied, ResourceExhausted, DeadlineExceeded,
            Unavailable.
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

class GrpcServer:
    """The native front-end: a thread that speaks KServe v2 over gRPC. Only where `GRPC_SERVER`.

    Inference is answered there. What is not comes as notes, to be answered by `send`, `finish`,
    `admit` and `refuse`; these ignore calls that have ended meanwhile.

    Args:
        index: The front-end's place in every segment's table.
        message_max_bytes: A larger message is answered RESOURCE_EXHAUSTED.
        memory_max_bytes: Of messages outside slots, in all.
        connection_age_ns: After about that long clients are told to connect anew.
        certificate: PEM, with its chain, for TLS; empty: none.
        key: Likewise.
        client_authority: Likewise; clients must show a certificate that it signed.

    Raises:
        InvalidArgument: these cannot be used.
        Unimplemented: TLS was not built in.
        ResourceExhausted: the process may open no more descriptors.
    """

    def __init__(
        self,
        index: int,
        message_max_bytes: int,
        memory_max_bytes: int,
        connection_age_ns: int,
        certificate: bytes = b"",
        key: bytes = b"",
        client_authority: bytes = b"",
    ) -> None: ...
    @property
    def doorbell(self) -> int: ...  # an eventfd, which workers ring
    @property
    def desk_fd(self) -> int: ...  # an eventfd, which rings when there are notes
    @property
    def in_flight(self) -> int: ...
    def add_function(
        self, name: str, version: str, segment: Segment, signature: Signature, slo_ns: int
    ) -> None: ...  # as of Frontend
    def remove_function(self, name: str) -> None: ...
    def offer_client_memory(self) -> None: ...
    def add_region(
        self, name: str, fd: int, offset_bytes: int, size_bytes: int, tenant: str = ""
    ) -> bool: ...
    def remove_region(self, name: str, tenant: str = "") -> None: ...
    def set_access(
        self,
        keys: list[tuple[str, bytes, bool, int]],
        anonymous_infers: bool,
        tenants: list[tuple[str, list[str], int, int, int]],
        board_fd: int,
    ) -> None:
        """Takes requests only from callers that may send them, and holds tenants to their quotas.

        Replaces what was told before, all of it between two requests.

        Args:
            keys: Each (name, SHA-256, whether its holder may, its tenant's place or -1).
            anonymous_infers: Whoever shows no key may; without keys, nobody is asked for one.
            tenants: As of `Frontend.set_tenants`, and so is `board_fd`.
            board_fd: Stays the caller's.

        Raises:
            Unimplemented: the build has no OpenSSL.
        """
    def keep_journal(self, sample: float, failures: bool) -> None: ...  # as of Frontend
    def take_records(self) -> tuple[list[tuple[Any, ...]], int]: ...  # as of Frontend
    def listen(self, fd: int) -> None:
        """Takes a listening socket, and the descriptor with it.

        Raises:
            ResourceExhausted: the kernel does not tell of its connections.
        """

    def leave(self) -> None: ...  # clients are told to connect anew; calls they began go on
    def drain(self) -> None: ...  # requests are refused; a note tells when none is left
    def close(self, timeout_ns: int) -> None: ...  # connections end when all is sent, or then
    def take_notes(
        self,
    ) -> list[tuple[int, int, int, int | None, str, str, str, bytes, bool]]:
        """(kind, call, number, deadline_ns, text, authorization, api_key, bytes, compressed).

        See native/grpc/desk.hpp.
        """
    def send(self, call: int, message: bytes) -> None: ...
    def finish(self, call: int, code: int, text: str, retry_after_ms: int = -1) -> None: ...
    def admit(self, call: int, number: int, message: bytes) -> int | None:
        """Submits a request that a note brought. Its deadline.

        Raises:
            As of `Frontend.submit`; FailedPrecondition: the call has ended.
        """
    def admit_cold(
        self,
        call: int,
        number: int,
        message: bytes,
        name: str,
        version: str,
        segment: Segment,
        signature: Signature,
        slo_ns: int,
    ) -> int | None: ...  # the same to a function that is known for this request alone
    def withdraw(self, call: int, number: int) -> None: ...  # is as before `admit`
    def refuse(
        self, call: int, number: int, code: int, text: str, retry_after_ms: int = -1
    ) -> None: ...  # or gives one up that was admitted

def parse_infer_request(request: bytes) -> dict[str, Any]:
    """For tests and tools: the parsed request as plain values. Raises InvalidArgument."""

class SmGroups:
    """A CUDA device's SMs, split into the smallest equal groups that it allows.

    Args:
        ordinal: Of the devices that this process sees. Only groups of one split go together.

    Raises:
        FailedPrecondition: No driver, one without green contexts, or no such device.
        Unavailable: MPS refuses.
    """

    def __init__(self, ordinal: int) -> None: ...
    @property
    def count(self) -> int: ...
    @property
    def group_sms(self) -> int: ...  # of one group
    @property
    def sms(self) -> int: ...  # of the device, those in no group included
    def close(self) -> None: ...  # idempotent; devices on its groups keep them

class CudaDevice:
    """A CUDA device as a worker uses it: its primary context, and lanes with a stream each.

    A device on groups of SMs can move to others while an instance serves on it: `prepare_move`
    makes spare lanes, which an engine prepares, and `Instance.move` has them take over.

    Args:
        ordinal: Of the devices that this process sees.
        lanes: How many.
        staging_max_bytes: Tensors of a batch that take no more together are copied in one piece.
        groups: Of the same device; None: the lanes run on all SMs.
        chosen: Which of the groups the lanes run on.

    Raises:
        FailedPrecondition: No driver, too old a driver, or no such device.
        InvalidArgument: No such group, none, or one twice.
        Unavailable: MPS refuses.
        ResourceExhausted: No memory.
    """

    def __init__(
        self,
        ordinal: int,
        lanes: int,
        staging_max_bytes: int = 16384,
        groups: SmGroups | None = None,
        chosen: Sequence[int] = (),
    ) -> None: ...
    @property
    def ordinal(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def uuid(self) -> str: ...  # "GPU-..."
    @property
    def driver_version(self) -> int: ...  # 13000: CUDA 13.0
    @property
    def sm_count(self) -> int: ...  # that this process may use: under MPS those of its share
    @property
    def lanes(self) -> int: ...
    @property
    def lane_sms(self) -> int: ...  # that the lanes may use, read back
    @property
    def first_lane(self) -> int: ...  # of those that serve, as engines count
    @property
    def spare_lane(self) -> int: ...  # of the spare ones, likewise
    def prepare_move(self, groups: SmGroups, chosen: Sequence[int]) -> None: ...
    def drop_spare(self) -> None: ...
    # ^ lanes that do not serve: prepared for a move that will not be, or left by one; graphs of
    #   their streams must have gone
    @property
    def compute_capability(self) -> tuple[int, int]: ...
    @property
    def memory_bytes(self) -> int: ...
    def memory_free_bytes(self) -> int: ...
    def lane_stream(self, lane: int) -> int: ...  # CUstream
    def side_streams(self, lane: int, count: int) -> list[int]: ...
    # ^ CUstreams on the SMs of a lane on a part of the device, which go with it; else none
    def order(self, before: int, after: int) -> None: ...
    # ^ what the CUstream `after` gets from now on waits for what `before` has got
    def counters(self) -> dict[str, int]: ...
    # -> {"synchronise_calls": .., "allocations": .., "copies": .., "batched_copies": ..,
    #     "staged_copies": .., "graph_launches": ..}
    def close(self) -> None: ...  # after the instance has stopped; idempotent

class WeightBlock:
    """A model's weights in a device's memory: filled once, then read-only.

    A shared one is mapped by other processes through its descriptor, and is there as long as
    anybody maps it or holds the descriptor.
    """

    @staticmethod
    def create(device: CudaDevice, size_bytes: int) -> WeightBlock:
        """One that others can map, once it is sealed.

        Raises:
            FailedPrecondition: The device exports no memory.
            ResourceExhausted: No memory.
        """
    @staticmethod
    def create_private(device: CudaDevice, size_bytes: int) -> WeightBlock:
        """One for this process alone."""
    @staticmethod
    def map(device: CudaDevice, fd: int, size_bytes: int) -> WeightBlock:
        """What another process has filled: `size_bytes` as that one says. Dups the descriptor."""
    @property
    def pointer(self) -> int: ...  # on the device
    @property
    def size_bytes(self) -> int: ...  # whole pages of the device, if it is shared
    @property
    def fd(self) -> int: ...  # stays the block's; -1: it is private
    @property
    def sealed(self) -> bool: ...
    def write(self, offset: int, data: np.ndarray) -> None: ...  # UINT8 of the host; waits
    def seal(self) -> None: ...  # waits for what fills it; nobody writes to a shared one after
    def close(self) -> None: ...  # nothing on the device uses it any more; idempotent

class CudaGraph:
    """An instantiated graph that the pump replays on the lane's stream instead of calling.

    Captured over a `WarmBatch` of the same lane and bucket, whose addresses a served batch has too.
    Only for functions whose shapes all follow from the bucket.

    Args:
        executable: `CUgraphExec`.
        keep: What it needs to live.
    """

    def __init__(self, executable: int, keep: object) -> None: ...

def dlpack_capsule(pointer: int, shape: Sequence[int], dtype: str, ordinal: int) -> Any:
    """A contiguous tensor in a CUDA device's memory, as DLPack hands it over.

    It keeps nothing alive and waits for nothing: both are the caller's to see to.

    Args:
        pointer: Its address on the device.
        shape: Its shape.
        dtype: A KServe data type, not BYTES.
        ordinal: Of the devices that this process sees.
    """

class Batch:
    """What an engine's callable gets: one batch of one shape. Valid only during the call.

    On a device the addresses are those of device memory. What the callable enqueues on `stream`
    runs after the inputs have come and before the outputs leave; it need not wait for anything.
    """

    @property
    def rows(self) -> int: ...  # real rows; requests if the function is not batchable (1)
    @property
    def bucket(self) -> int: ...  # rows presented, with padding
    @property
    def lane(self) -> int: ...
    @property
    def stream(self) -> int: ...  # CUstream; 0 on the CPU
    @property
    def on_device(self) -> bool: ...
    def input_shape(self, index: int) -> tuple[int, ...]: ...
    # Views, read-only; FailedPrecondition on a device. The array is not for BYTES.
    def input_array(self, index: int) -> np.ndarray: ...
    def input_bytes(self, index: int) -> memoryview: ...  # serialised BYTES elements of all rows
    def input_ptr(self, index: int) -> int: ...
    def output_shape(self, index: int) -> tuple[int, ...] | None: ...  # None: not known ahead
    def output_ptr(self, index: int) -> int: ...  # where to write it; 0: not known ahead
    def set_output(self, index: int, array: np.ndarray) -> None: ...  # not needed after output_ptr
    def set_output_ptr(self, index: int, ptr: int, shape: Sequence[int], dtype: str) -> None: ...
    # ^ contiguous device memory, valid until the callable has returned and the stream got there
    def set_output_bytes(self, index: int, data: bytes, shape: Sequence[int]) -> None: ...

class WarmBatch(Batch):
    """A batch outside any segment, for warm-up.

    With a device it lies in the lane's buffer, where a served batch of that bucket lies.
    """

    def __init__(
        self,
        signature: Signature,
        lane: int,
        bucket: int,
        inputs: Sequence[np.ndarray | bytes],
        shapes: Sequence[Sequence[int]],
        device: CudaDevice | None = None,
    ) -> None: ...
    def finish(self) -> None: ...  # waits for the lane's stream; nothing on the CPU
    def output_host(self, index: int) -> np.ndarray: ...  # a copy, for tests and proofs

class Instance:
    """The pump of one loaded copy of a function, and its lanes on a device; None: the CPU."""

    def __init__(
        self,
        segment: Segment,
        index: int,
        signature: Signature,
        lanes: int,
        prepared: Callable[[int, int], Callable[[Batch], None] | CudaGraph] | None,
        device: CudaDevice | None = None,
        in_place: bool = False,
    ) -> None:
        """`prepared(lane, bucket)` gives the callable of a (lane, bucket); asked once for each.

        On a device everything with a bucket is asked for here, and graphs are replayed without
        Python; if there are no callables, the lanes have no threads.
        None: the native identity engine, which copies input i to output i, or with `in_place`
        answers with input i where it lies.
        """
    def add_frontend(self, frontend: int, eventfd: int) -> None: ...  # dups the descriptor
    def remove_frontend(self, frontend: int) -> None: ...
    def take_turns(self, board: TurnBoard, entry: int) -> None: ...  # before start
    def start(self) -> None: ...
    def lane_tids(self) -> list[int]: ...  # kernel thread ids of the compute threads
    def pump_tid(self) -> int: ...
    def turn_tid(self) -> int: ...  # of the thread that hears of turns; 0: there is none
    def drain(self, timeout_s: float) -> bool: ...  # claim nothing new; True: nothing in flight
    def move(self) -> None: ...
    # ^ every lane goes on in a spare one of the device from its next batch; returns when all do and
    #   what they left is gone. `prepared` is asked for the spare lanes first. Unavailable: the
    #   device is lost
    def stop(self) -> None: ...
    @property
    def fault_fd(self) -> int: ...  # becomes readable when the device is lost; the Instance's own
    def fault(self) -> str: ...  # what happened then: nothing more is claimed or answered
    def record(self, requests: int, size_bytes: int, duration_s: float) -> None: ...
    # ^ copies the inputs of the next requests, as many as fit; ResourceExhausted: no such memory
    def recorded(self) -> tuple[int, int]: ...  # how many there are, and how many are to come
    def take_recorded(self) -> tuple[int, bool, bytes]: ...
    # ^ how many, whether one more did not fit, and what was copied: of each request, of each input,
    #   its rank, its dims and its length in bytes (64 bits each), and these. Ends it
    def counters(self) -> dict[str, int]: ...
    # -> {"python_calls": .., "batches": .., "zero_copy_batches": .., "lane_buffer_allocations": ..}
    #    and those of the device
