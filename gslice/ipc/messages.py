"""The control protocol between the daemon and its children, on one page.

The daemon binds a SOCK_SEQPACKET Unix socket for each child, hands the listening descriptor to it
(fd 3), and connects. A daemon that starts later finds the sockets of running children in
`<state_dir>/run` and connects to them again: that is adoption. One packet is one message: JSON
`{"type": ..., "seq": ..., "body": {...}}`, with descriptors as SCM_RIGHTS. A child speaks first,
with Hello; another protocol version is refused. A request carries `seq` > 0, and its answer the
same; a message with `seq` 0 expects none. No tensor ever travels here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gslice.core.access import ANONYMOUS, Access
from gslice.core.types import FunctionSpec, MemoryTaken, Signature
from gslice.core.users import User

PROTOCOL_VERSION = 11
LISTEN_FD = 3  # where a child finds its listening socket
REST = "rest"  # the kind of front-end that speaks HTTP
EXIT_DEVICE_LOST = 75
"""Exit code of a worker whose device has failed for good; what it claimed is as it was."""


# ---- both ways -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ok:
    """The request was done."""


@dataclass(frozen=True)
class Failed:
    """The request was not done.

    Attributes:
        code: google.rpc.Code number.
        message: One line for people.
    """

    code: int
    message: str


@dataclass(frozen=True)
class Weights:
    """A model's weights in a block of a GPU's memory that its workers there share.

    Its descriptor, which keeps the memory, travels along.

    Attributes:
        model: The daemon's word for the model.
        size_bytes: Of the block.
        digest: Of what lies where in it.
        maker: Process id of the worker that made it: one block of a model from another.
    """

    model: str
    size_bytes: int
    digest: str
    maker: int = 0


# ---- child -> daemon ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Hello:
    """First message on every connection, from the child.

    A worker with an attached function sends its segment's descriptor along, that of its device's
    turn board, and that of weights that it shares; a front-end sends its eventfd, so that an
    adopting daemon holds everything it needs.

    Attributes:
        protocol: PROTOCOL_VERSION of the child.
        pid: Its process id.
        started: Its start time in clock ticks since boot, from /proc, against pid reuse.
        worker: Present for workers.
        frontend: Present for front-ends.
        host: Present for hosts, whose workers have sockets of their own.
    """

    protocol: int
    pid: int
    started: int
    worker: WorkerState | None = None
    frontend: FrontendState | None = None
    host: HostState | None = None


@dataclass(frozen=True)
class WorkerState:
    """What a worker holds.

    Attributes:
        spec: The function it loaded, None before Load.
        signature: Of that function, None before it is loaded.
        instance: Its instance index in the segment, -1 before Attach.
        state: `empty`, `loading`, `loaded`, `ready`, `draining` or `failed`.
        share_percent: As ordered last.
        share_effective_percent: As read back from the limiter.
        limiter: `cgroup`, `threads`, `mps`, `green` or `none`.
        limiter_ordered: As in Load.
        cpus: Likewise.
        memory: What it takes by now.
        threads: As in Ready.
        weights: As in Loaded.
        turn: As in Attach.
        seat: As in Load.
        hosted: It is one of several in its process, and ends without the process.
    """

    spec: FunctionSpec | None = None
    signature: Signature | None = None
    instance: int = -1
    state: str = "empty"
    share_percent: float = 0.0
    share_effective_percent: float = 0.0
    limiter: str = "none"
    limiter_ordered: str = ""
    cpus: list[int] = field(default_factory=list)
    memory: MemoryTaken = field(default_factory=MemoryTaken)
    threads: int = 0
    weights: Weights | None = None
    turn: int = -1
    seat: int = 0
    hosted: bool = False


@dataclass(frozen=True)
class HostState:
    """What a host is for: the process in which all functions of a GPU are, under green contexts.

    Attributes:
        device: The GPU's name in node.yaml.
        workers: The sockets of those that have not ended.
    """

    device: str
    workers: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class FrontendState:
    """What a front-end serves.

    Attributes:
        index: Its index in every segment's front-end table.
        address: Where it listens, host:port with the real port.
        functions: Names it knows.
        state: `starting`, `serving`, `retiring` or `draining`.
        in_flight: Requests that hold a slot now.
        kind: What it speaks: gRPC, `python` or `native`, or HTTP, `rest`.
        tls: Digest of the certificates that it was started with; empty: its port is not encrypted.
        client_memory: The prefix of the keys that it takes; empty: it takes no client's memory.
        page: It has the web page.
        asks: Callers are asked who they are, or some may do less than others; None: this build
            cannot.
        telemetry: `telemetry_words` of what it was started with.
    """

    index: int
    address: str = ""
    functions: list[str] = field(default_factory=list)
    state: str = "starting"
    in_flight: int = 0
    kind: str = "python"
    tls: str = ""
    client_memory: str = ""
    page: bool = False
    asks: bool | None = None
    telemetry: str = "text info"


@dataclass(frozen=True)
class RepositoryCall:
    """A front-end passes a client's ModelLoad or ModelUnload on to the daemon (request).

    Attributes:
        call: `load` or `unload`.
        name: The function's.
        config: JSON of a config override, may be empty.
        who: The name of the client's key.
    """

    call: str
    name: str
    config: str = ""
    who: str = ANONYMOUS


@dataclass(frozen=True)
class ClientRegion:
    """Memory of a client, or a part of it, under the name that requests use.

    Attributes:
        name: Of the region.
        key: Of the file: `/name` is in /dev/shm, `/proc/PID/fd/N` a client's own memfd.
        offset_bytes: Where the region begins in the file.
        size_bytes: Of the region.
        pid: Whose memfd it is: the region ends with that process; 0: it is in /dev/shm.
        started: Its start time, as in Hello.
        tenant: Whose callers alone know it, by the key that registered it; empty: no tenant's.
    """

    name: str
    key: str
    offset_bytes: int
    size_bytes: int
    pid: int = 0
    started: int = 0
    tenant: str = ""

    @property
    def id(self) -> tuple[str, str]:
        """No other region has it: its tenant and its name there."""
        return self.tenant, self.name


@dataclass(frozen=True)
class RegisterMemory:
    """A client offers its memory (request; answered by Ok, when all front-ends know, or Failed).

    Attributes:
        region: As the client says it.
    """

    region: ClientRegion


@dataclass(frozen=True)
class UnregisterMemory:
    """A client takes its memory back (request; answered as RegisterMemory).

    Attributes:
        name: Of the region; empty: all that are in /dev/shm.
        tenant: Whose it is.
    """

    name: str
    tenant: str = ""


@dataclass(frozen=True)
class KnownRegion:
    """A region that the front-end has, with its descriptor: right after Hello, for a new daemon.

    Attributes:
        region: As it came with AddRegion.
    """

    region: ClientRegion


@dataclass(frozen=True)
class Wake:
    """A request waits in the segment of a function that is not loaded now, or was refused.

    Attributes:
        name: The function's.
    """

    name: str


@dataclass(frozen=True)
class Left:
    """A worker has given everything back and leaves its host; nothing follows.

    One that has a process to itself just ends. When a host dies its workers say nothing.
    """


@dataclass(frozen=True)
class HoldThreads:
    """Put these threads under the function's share (request; answered by ThreadsHeld or Failed).

    From a worker whose user may not do so itself, while it carries out an order.

    Attributes:
        tids: Kernel ids of all its compute threads.
    """

    tids: list[int]


@dataclass(frozen=True)
class ThreadsHeld:
    """They are under it.

    Attributes:
        share_effective_percent: Read back.
        period_us: How often the share is given anew; 0: the threads always run.
    """

    share_effective_percent: float
    period_us: int


# ---- daemon -> worker ----------------------------------------------------------------------------


@dataclass(frozen=True)
class GpuGrant:
    """The GPU of a worker. The worker's environment makes it the only one, ordinal 0.

    Attributes:
        uuid: `GPU-...`, or a MIG instance's `MIG-...`, for the worker to check that it is the one.
        sms: Streaming multiprocessors of the whole GPU: shares are percent of them.
    """

    uuid: str
    sms: int


@dataclass(frozen=True)
class Prepare:
    """Import an engine's libraries, for a function to come (request; answered by Ok or Failed).

    A worker that has done no more than this is a spare.

    Attributes:
        engine: As functions name it.
    """

    engine: str


@dataclass(frozen=True)
class Assign:
    """Become a function's worker (request, with its log's descriptor; answered by Ok or Failed).

    What a process gets at its start otherwise: from here on it writes to that log.

    Attributes:
        environment: Added to its own. Only what is read later than at its start can be in it, such
            as what binds it to its GPU, which CUDA reads when it starts.
        user: Whom it becomes first; None: it stays who it is.
    """

    environment: dict[str, str]
    user: User | None = None


@dataclass(frozen=True)
class TakeIn:
    """Have another worker in this process (request to a host; answered by Ok or Failed).

    With the socket on which daemons reach it, and with its function's log.

    Attributes:
        name: Of the socket.
    """

    name: str


@dataclass(frozen=True)
class Load:
    """Load the model (request, with the descriptor of `weights`; answered by Loaded or Failed).

    Attributes:
        spec: The function.
        share_percent: The share to hold it to from Attach on. While it loads and warms up, only the
            engine's threads are as many as the share is worth; on a GPU it holds from the start.
        limiter: `auto`, `cgroup`, `threads` or `none`: what to enforce it with. On a GPU `mps`,
            which its environment does and the worker reads back, `green`, or `none`.
        cpus: The cores of its device; of a GPU, those for its own threads.
        gpu: Its GPU; None on a CPU device.
        gently: Until it has warmed up, what serves computes first.
        known: The signature that another worker of the function told; None: there was none. What
            only a run shows need not be tried again.
        model: On a GPU: what weights that it makes are told as; empty: it keeps them to itself.
        weights: Those that another worker of the model has made; None: there are none.
        seat: Under `green`, the instance whose SMs it gets: other editions of a function that have
            the same are on the same ones; -1: it is measured beside what serves.
        brokered: The daemon holds its threads to the share: `HoldThreads`.
    """

    spec: FunctionSpec
    share_percent: float
    limiter: str
    cpus: list[int]
    gpu: GpuGrant | None = None
    gently: bool = False
    known: Signature | None = None
    model: str = ""
    weights: Weights | None = None
    seat: int = 0
    brokered: bool = False


@dataclass(frozen=True)
class Loaded:
    """The model is loaded; its signature is known. With the descriptor of weights that it made.

    Attributes:
        signature: What it takes and gives.
        memory: What it takes by now.
        weights: Those that it shares with others; None: it has a copy of its own, or none.
        own_weights: Why it does not share them; empty: it does, or has none.
    """

    signature: Signature
    memory: MemoryTaken
    weights: Weights | None = None
    own_weights: str = ""


@dataclass(frozen=True)
class Attach:
    """Serve this segment (request, with its descriptor; answered by Ready or Failed).

    The worker warms every bucket, starts its pump, which may not pull yet, and answers. The
    descriptor of its device's turn board comes after the segment's.

    Attributes:
        instance: Index in the segment's instance table.
        context_bytes: What its context takes of its GPU, which only the daemon can measure; the
            worker tells it to daemons to come.
        timed: Batch sizes to time on the way, as far as a fraction of a second goes.
        turn: Its entry on the turn board; -1: no board comes along.
    """

    instance: int
    context_bytes: int = 0
    timed: list[int] = field(default_factory=list)
    turn: int = -1


@dataclass(frozen=True)
class Ready:
    """Warmed and waiting for the flip.

    Attributes:
        share_effective_percent: Read back from the limiter.
        limiter: What enforces it.
        memory: What it takes.
        threads: Most that its engine computes with at once; 0: as many as the user's code makes.
        timed: What was asked for, as far as it got.
    """

    share_effective_percent: float
    limiter: str
    memory: MemoryTaken
    threads: int = 0
    timed: list[Measured] = field(default_factory=list)


TIMING_VERSION = 1
"""Changes with what `gslice.worker.timing` times; figures of two versions do not compare."""


@dataclass(frozen=True)
class Measure:
    """Time batches, at the share that was ordered last (request; answered by Measured or Failed).

    Only of a worker that has loaded and is not attached: it serves nothing, before or after.

    Attributes:
        bucket: Rows of each batch; 1 where the function is not batchable.
        batches_min: Fewest to time, however long they take.
        batches_max: Most.
        duration_us: After that long no more is begun.
    """

    bucket: int
    batches_min: int = 1
    batches_max: int = 10_000
    duration_us: int = 0


@dataclass(frozen=True)
class Record:
    """Copy the inputs of the next requests that run well (request; answered by Ok or Failed).

    Attributes:
        requests: How many.
        size_bytes: Of all copies, at most.
        duration_us: After that long no more is copied, and what nobody has taken is forgotten.
    """

    requests: int
    size_bytes: int
    duration_us: int


@dataclass(frozen=True)
class TakeRecorded:
    """What has been copied (request; answered by Recorded or Failed).

    Attributes:
        end: Copy no more; write what there is into the file whose descriptor comes along, if one
            does.
    """

    end: bool = False


@dataclass(frozen=True)
class Recorded:
    """How far a recording is.

    Attributes:
        requests: Copied.
        left: Still to be copied; 0: no more is.
        full: One more did not fit.
    """

    requests: int
    left: int = 0
    full: bool = False


@dataclass(frozen=True)
class Measured:
    """Batches, one at a time in one lane: copy in, compute, and on a GPU copy out.

    Attributes:
        bucket: Rows of each.
        median_us: Of one.
        p99_us: Likewise.
        batches: How many were timed.
        timed_us: How long they took together.
        share_effective_percent: Read back, as they ran.
        limiter: What enforced it.
        threads: As in Ready.
    """

    bucket: int
    median_us: float
    p99_us: float
    batches: int
    timed_us: float
    share_effective_percent: float
    limiter: str
    threads: int = 0


@dataclass(frozen=True)
class AddFrontend:
    """A front-end will take answers (with its eventfd).

    Attributes:
        index: Its index.
    """

    index: int


@dataclass(frozen=True)
class RemoveFrontend:
    """That front-end is gone."""

    index: int


@dataclass(frozen=True)
class SetShare:
    """Change the share in place (request; answered by ShareSet or Failed)."""

    share_percent: float


@dataclass(frozen=True)
class ShareSet:
    """The share as read back.

    Attributes:
        share_effective_percent: In percent.
        prepared_us: Under `green`: how long lanes were prepared on other SMs, while others served.
    """

    share_effective_percent: float
    prepared_us: float = 0.0


@dataclass(frozen=True)
class Drain:
    """Finish what was claimed, claim nothing new (request; Ok, or Failed on time-out)."""

    timeout_ms: int


@dataclass(frozen=True)
class Exit:
    """End now, in order: stop the pump, close the engine, exit; one of a host leaves it."""


# ---- daemon -> front-end -------------------------------------------------------------------------


@dataclass(frozen=True)
class Serve:
    """Listen (request; answered by Serving or Failed).

    Attributes:
        address: host:port; port 0 takes a free one.
        drain_timeout_ms: How long calls in flight may take at Exit.
    """

    address: str
    drain_timeout_ms: int = 10_000


@dataclass(frozen=True)
class Serving:
    """The address it listens on, with the real port."""

    address: str


@dataclass(frozen=True)
class AddFunction:
    """Serve this function (with its segment's descriptor); replaces one of the same name."""

    spec: FunctionSpec
    signature: Signature


@dataclass(frozen=True)
class SetFunction:
    """A function's state as clients may see it.

    Attributes:
        name: The function's.
        state: `LOADING`, `READY`, `COLD`, `UNLOADING` or `UNAVAILABLE`. What is COLD takes
            requests, and Wake tells of each.
        reason: Why it is not READY; empty if it is.
        spec: So that the repository index can tell of a function that never got a segment.
        load_us: If it is COLD: how long its load takes.
    """

    name: str
    state: str
    reason: str = ""
    spec: FunctionSpec | None = None
    load_us: int = 0


@dataclass(frozen=True)
class RemoveFunction:
    """Forget this function: NOT_FOUND from now on."""

    name: str


@dataclass(frozen=True)
class AddRegion:
    """Requests may name this memory of a client (request, with its descriptor; Ok or Failed).

    Attributes:
        region: What it is; replaces the tenant's of the same name.
    """

    region: ClientRegion


@dataclass(frozen=True)
class RemoveRegion:
    """No request may name that memory any more (request; Ok).

    Attributes:
        name: Of the region.
        tenant: Whose it is.
    """

    name: str
    tenant: str = ""


@dataclass(frozen=True)
class SetAccess:
    """Who may do what from now on (request, with the descriptor of the quota board; Ok or Failed).

    Until the first one, everybody may do everything.
    """

    access: Access


@dataclass(frozen=True)
class DrainFrontend:
    """Report not ready, stop accepting, let calls in flight finish (request; Ok)."""

    timeout_ms: int


@dataclass(frozen=True)
class DirectConnections:
    """Where the clients that connect from now on come to (request; Ok).

    Attributes:
        place: The front-end that gets all of them: its place among those that listen, in the order
            in which they came; -1: they are divided.
    """

    place: int


@dataclass(frozen=True)
class RetireFrontend:
    """Serve those who are connected until they have gone elsewhere (request; Ok then)."""

    timeout_ms: int


Message = (
    Ok
    | Failed
    | Hello
    | RepositoryCall
    | RegisterMemory
    | UnregisterMemory
    | KnownRegion
    | Prepare
    | Assign
    | TakeIn
    | Wake
    | Left
    | HoldThreads
    | ThreadsHeld
    | Load
    | Loaded
    | Attach
    | Ready
    | Record
    | TakeRecorded
    | Recorded
    | Measure
    | Measured
    | AddFrontend
    | RemoveFrontend
    | SetShare
    | ShareSet
    | Drain
    | Exit
    | Serve
    | Serving
    | AddFunction
    | SetFunction
    | RemoveFunction
    | AddRegion
    | RemoveRegion
    | SetAccess
    | DrainFrontend
    | DirectConnections
    | RetireFrontend
)
