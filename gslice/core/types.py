"""The nouns that every process shares: tensors, signatures, functions, slot classes.

Plain dataclasses: workers import this file, so it must stay free of pydantic, gRPC and NumPy.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

from gslice.core.errors import InvalidArgument

ELEMENT_BYTES: dict[str, int] = {
    "BOOL": 1,
    "UINT8": 1,
    "UINT16": 2,
    "UINT32": 4,
    "UINT64": 8,
    "INT8": 1,
    "INT16": 2,
    "INT32": 4,
    "INT64": 8,
    "FP16": 2,
    "BF16": 2,
    "FP32": 4,
    "FP64": 8,
    "BYTES": 0,  # variable: each element is a 4-byte little-endian length and its bytes
}
"""KServe v2 data types and the size of one element in bytes."""


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a function.

    Attributes:
        name: The tensor's name on the wire.
        dtype: A key of `ELEMENT_BYTES`.
        dims: Its shape; -1 where any length goes. The batch dimension is included, as -1 first,
            when the function is batchable.
    """

    name: str
    dtype: str
    dims: tuple[int, ...]


@dataclass(frozen=True)
class Signature:
    """What a function takes and gives.

    Attributes:
        inputs: Input tensors, in the model's order.
        outputs: Output tensors, in the model's order.
        rows_max: Largest number of rows (dim 0) in one batch; 0 when dim 0 is not a batch
            dimension, so that every request runs by itself.
        buckets: Batch sizes that an instance prepares, ascending. Empty: any size from 1 to
            `rows_max` runs as it is, without padding.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    rows_max: int = 0
    buckets: tuple[int, ...] = ()

    @property
    def sizes(self) -> tuple[int, ...]:
        """Batch sizes that say how it scales, ascending: its buckets, else powers of two."""
        if self.buckets or not self.rows_max:
            return self.buckets or (1,)
        powers = (1 << power for power in range(self.rows_max.bit_length()))
        return tuple(sorted({*powers, self.rows_max}))

    def check_batch(self, function: str, rows: int) -> None:
        """Checks that a function runs batches of a size.

        Raises:
            InvalidArgument: it does not.
        """
        if self.buckets and rows not in self.buckets:
            sizes = ", ".join(map(str, self.buckets))
            raise InvalidArgument(
                f"function {function} prepares batches of {sizes}, none of {rows}"
            )
        most = max(1, self.rows_max)
        if not 1 <= rows <= most:
            raise InvalidArgument(
                f"function {function} takes 1 to {most} rows in a batch, not {rows}"
            )


@dataclass(frozen=True)
class ShareBounds:
    """A requested share in percent of a device: pinned when min == max."""

    min_percent: float = 1.0
    max_percent: float = 100.0
    auto: bool = True


def device_kind(name: str) -> str:
    """Of a device by its name: `cpu` or `cuda`."""
    return "cpu" if name.partition(":")[0] == "cpu" else "cuda"


INSTANCES_MAX = 8
"""Most instances of a function, on all its devices together: the table of its segment holds these,
their shadows, and dead ones in quarantine."""


QUEUE_MAX = 1024
"""Most requests that a function may have admitted and not answered: slots of its segment."""


@dataclass(frozen=True)
class ReplicaBounds:
    """On how many devices a function is wanted at a time."""

    min_count: int = 1
    max_count: int = 1


@dataclass(frozen=True)
class VersionPolicy:
    """Which versions of a function a node holds.

    Attributes:
        keep: How many stay warm, the one that serves among them.
        serve: The number of the one that is served; `latest`: that of the model as declared.
        number: Of the model as declared, unless another model has it; 0: the daemon gives one.
    """

    keep: int = 1
    serve: str = "latest"
    number: int = 0


@dataclass(frozen=True)
class ProgramSpec:
    """A program that is run, and not fed: what a function has in place of a model.

    Attributes:
        command: The program and its arguments.
        directory: Where it starts; absolute.
        memory_bytes: Most memory of its device that it may take; 0: no limit.
        health_url: Answers 2xx while it serves; empty: nobody can ask it.
        health_period_us: How often it is asked.
        health_timeout_us: How long it may take to answer.
        stop_signal: What asks it to end, such as `SIGTERM`.
        stop_timeout_us: How long it may take to; then it is killed.
    """

    command: tuple[str, ...]
    directory: str = "/"
    memory_bytes: int = 0
    health_url: str = ""
    health_period_us: int = 1_000_000
    health_timeout_us: int = 2_000_000
    stop_signal: str = "SIGTERM"
    stop_timeout_us: int = 30_000_000


@dataclass(frozen=True)
class FunctionSpec:
    """A function as desired: everything a worker needs to load it. Times in us, sizes in bytes.

    Attributes:
        name: KServe's model name.
        version: The number of its model, as text (perf_analyzer reads it as a number). The daemon
            gives it when it loads; before, it says nothing.
        versions: Which versions are kept warm, and which is served.
        engine: `onnxruntime`, `torch`, `tensorrt`, `tensorrt_rtx`, `python`, `identity`, or
            `command`: no engine of ours.
        model: Absolute path of the model file, or its URL until it is fetched; empty where code
            makes the model.
        python: `module:Class` for the `python` engine, `module:factory` for `torch`, with
            `python_path` put on sys.path.
        args: Keyword arguments of the user's `setup` or factory; for `identity`: its tensors; with
            `model`: what it must take and give (`batched`, `inputs`, `outputs`), and for TensorRT
            `shapes`, the lengths that the model leaves open, by input.
        device: Device name, such as `cpu`; of one that may run on several, where it runs, or the
            first of them as long as it runs nowhere.
        devices: Those that it may run on, the best first; empty: on `device` alone.
        replicas: On how many of them it is wanted at a time.
        also_on: Where its other replicas run, beside the one on `device`.
        isolation: `shared`, or `exclusive`: no other function is on its devices.
        share: Requested share, the same on each of its devices.
        instances: Loaded copies on each of its devices.
        priority: `low`, `normal` or `high`: who computes first where cores are contended.
        slo_p99_us: Latency promise at the 99th percentile; 0 when none is made.
        batch_max: Largest batch asked for; 0: let the signature decide.
        delay_us: How long a batch may wait for more rows; -1: auto.
        queue_max: Most requests admitted and not yet answered.
        request_max_bytes: Largest request, inputs and declared outputs together.
        warmup: Path, or URL, of requests that must run before it serves: .npz or .json; empty:
            zeros.
        warmup_count: How many of them are run; 0: all.
        side_effects: True: a request is never run twice; a worker's death fails it instead.
        threads: Intra-op threads of the engine; 0: as many as the share allows.
        lanes: Batches in flight in an instance.
        precision: What `torch` computes with: `fp32`, `fp16`, `bf16`, or `auto`: as the model is.
        channels_last: Whether `torch` gets images, and keeps weights, with channels last.
        environment: Extra environment variables of the worker, or of the program.
        residency: `pinned`: always loaded; `warm`: so unless its memory is needed for another;
            `cold`: loaded when a request comes, unloaded when none came for `idle_after_us`.
        idle_after_us: See there.
        program: What runs, if it is a command; None: its requests go through gslice.
        sources: The URLs in whose place `model` and `warmup` are files now, by setting.
    """

    name: str
    version: str = "1"
    versions: VersionPolicy = VersionPolicy()
    engine: str = "onnxruntime"
    model: str = ""
    python: str = ""
    python_path: str = ""
    args: dict[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    devices: tuple[str, ...] = ()
    replicas: ReplicaBounds = ReplicaBounds()
    also_on: tuple[str, ...] = ()
    isolation: str = "shared"
    share: ShareBounds = ShareBounds()
    instances: int = 1
    priority: str = "normal"
    slo_p99_us: int = 0
    batch_max: int = 0
    delay_us: int = -1
    queue_max: int = 256
    request_max_bytes: int = 32 << 20
    warmup: str = ""
    warmup_count: int = 0
    side_effects: bool = False
    threads: int = 0
    lanes: int = 2
    precision: str = "auto"
    channels_last: bool = False
    environment: dict[str, str] = field(default_factory=dict)
    residency: str = "warm"
    idle_after_us: int = 600_000_000
    program: ProgramSpec | None = None
    sources: dict[str, str] = field(default_factory=dict)

    @property
    def as_declared(self) -> FunctionSpec:
        """With its URLs where they were declared."""
        urls: dict[str, Any] = dict(self.sources)
        return replace(self, sources={}, **urls) if urls else self

    @property
    def placed(self) -> tuple[str, ...]:
        """The devices of all its replicas."""
        return (self.device, *self.also_on)

    @property
    def exclusive(self) -> bool:
        """Whether it has its devices to itself."""
        return self.isolation == "exclusive"

    @property
    def replicas_max(self) -> int:
        """On how many devices it can be."""
        fit = max(1, INSTANCES_MAX // self.instances)
        return min(self.replicas.max_count, max(1, len(self.devices)), fit)

    @property
    def replicas_min(self) -> int:
        """On how many devices it should be."""
        return min(self.replicas.min_count, self.replicas_max)

    def placed_on(self, devices: Sequence[str]) -> FunctionSpec:
        """The same function with replicas on these devices."""
        return replace(self, device=devices[0], also_on=tuple(devices[1:]))


@dataclass(frozen=True)
class MemoryTaken:
    """What one instance takes, by the step that took it; of several, their sum.

    Host memory is what is resident without what is shared with others: a segment counts for itself.

    Attributes:
        process_bytes: Host: the process and its libraries.
        model_bytes: Host: what loading the model added.
        warm_bytes: Host: what warming up added: workspace and lanes.
        context_bytes: GPU: what is neither of the next two.
        weights_bytes: GPU: what loading the model took, beside the next.
        shared_bytes: GPU: weights that it shares with others of the model; of several, they count
            once.
        workspace_bytes: GPU: what warming up took: workspace, lanes, graphs.
    """

    process_bytes: int = 0
    model_bytes: int = 0
    warm_bytes: int = 0
    context_bytes: int = 0
    weights_bytes: int = 0
    workspace_bytes: int = 0
    shared_bytes: int = 0

    def __add__(self, other: MemoryTaken) -> MemoryTaken:
        """Of both together; if both have shared weights, they are taken to be the same."""
        mine, theirs = vars(self), vars(other)
        both = {part: mine[part] + theirs[part] for part in mine}
        return MemoryTaken(**both | {"shared_bytes": max(self.shared_bytes, other.shared_bytes)})

    @property
    def host_parts(self) -> dict[str, int]:
        """Of the host, by the names that people read."""
        return {
            "process": self.process_bytes,
            "model": self.model_bytes,
            "workspace": self.warm_bytes,
        }

    @property
    def device_parts(self) -> dict[str, int]:
        """Of the GPU, likewise."""
        return {
            "context": self.context_bytes,
            "weights": self.weights_bytes,
            "shared_weights": self.shared_bytes,
            "workspace": self.workspace_bytes,
        }

    @property
    def host_bytes(self) -> int:
        """Of the host."""
        return sum(self.host_parts.values())

    @property
    def device_bytes(self) -> int:
        """Of the GPU."""
        return sum(self.device_parts.values())


@dataclass(frozen=True)
class SlotClass:
    """Slots of one size in a function's segment.

    Attributes:
        payload_bytes: Room for one request's inputs and declared outputs; a multiple of 4096.
        count: How many there are.
    """

    payload_bytes: int
    count: int
