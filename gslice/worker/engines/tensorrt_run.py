"""Batches through TensorRT: contexts, the memory they work in, and outputs of unknown shape.

A context is bound to a lane, a batch size and a profile: a graph that was captured over a context
is lost when that gets another shape. All contexts of a lane work in one piece of memory, for a
lane runs one batch at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gslice._native import WeightBlock
from gslice.core.errors import GsliceError, Internal, InvalidArgument
from gslice.worker.engines.tensorrt_api import subclass

if TYPE_CHECKING:
    from gslice._native import Batch, CudaDevice
    from gslice.core.types import TensorSpec
    from gslice.worker.engines.tensorrt_api import TensorRt
    from gslice.worker.engines.tensorrt_signature import Description, Ranges
    from gslice.worker.shapes import Shape


class Memory:
    """A piece of device memory that grows when more is asked for.

    Args:
        cuda: The device.
    """

    def __init__(self, cuda: CudaDevice) -> None:
        self._cuda = cuda
        self._block: WeightBlock | None = None

    def of(self, size_bytes: int) -> int:
        """Its address, when it has that much. What was in it is lost if it had less.

        Raises:
            ResourceExhausted: The device has no more.
        """
        if self._block is None or self._block.size_bytes < size_bytes:
            self.close()
            self._block = WeightBlock.create_private(self._cuda, max(1, size_bytes))
        return self._block.pointer

    def close(self) -> None:
        """Gives it back; nothing on the device uses it any more. Idempotent."""
        block, self._block = self._block, None
        if block is not None:
            block.close()


class Lane:
    """Where a lane's batches run, one at a time.

    Args:
        library: TensorRT.
        cuda: The device.
        place: The lane's.
        engine: ICudaEngine.
        settings: What a context is made with.
    """

    def __init__(
        self, library: TensorRt, cuda: CudaDevice, place: int, engine: Any, settings: Any
    ) -> None:
        self.library = library
        self._cuda = cuda
        self._place = place
        self._engine = engine
        self._settings = settings
        self._work = Memory(cuda)
        self._outputs: dict[str, Memory] = {}

    def context(self, profile: Ranges, stream: int) -> Context:
        """A new context that runs a profile.

        Args:
            profile: What it is for.
            stream: CUstream of the lane.

        Raises:
            Internal: The library refuses.
            ResourceExhausted: The device has no memory for it.
        """
        library, engine = self.library, self._engine
        make = engine.create_execution_context
        made = library.check("making a context", make, self._settings)
        choose = made.set_optimization_profile_async
        library.check("choosing a profile", choose, profile.index, stream)
        indices = range(engine.num_optimization_profiles)
        work_bytes = max(engine.get_device_memory_size_for_profile_v2(index) for index in indices)
        memory = self._work.of(work_bytes)  # never grows: contexts have its address
        library.do("giving memory", made.set_device_memory, memory, work_bytes)
        # Where a plan has branches that run side by side; streams that it makes for them itself
        # know no green context.
        if streams := self._cuda.side_streams(self._place, engine.num_aux_streams):
            library.do("giving streams", made.set_aux_streams, streams)
        return Context(self, made)

    def output(self, name: str) -> Memory:
        """Where an output of unknown shape goes; until the lane's next batch."""
        return self._outputs.setdefault(name, Memory(self._cuda))

    def close(self) -> None:
        """Gives its memory back. Idempotent."""
        for memory in (self._work, *self._outputs.values()):
            memory.close()


class Context:
    """An execution context, bound to a profile. What it does, it raises Internal if it cannot.

    Args:
        lane: Where it works.
        context: IExecutionContext.
    """

    def __init__(self, lane: Lane, context: Any) -> None:
        self._lane = lane
        self._library = lane.library
        self._context = context
        self._shapes: dict[str, Shape] = {}
        self._givers: dict[str, _Giver] = {}

    def can_be_captured(self, stream: int) -> bool:
        """Whether the library says so, where it says anything."""
        asked = getattr(self._context, "is_stream_capturable", None)
        return asked is None or bool(asked(stream))

    def take(self, name: str, shape: Shape, pointer: int) -> None:
        """Sets an input."""
        library, context = self._library, self._context
        if self._shapes.get(name) != shape:
            what = f"setting input {name!r} to {list(shape)}"
            library.check(what, context.set_input_shape, name, shape)
            self._shapes[name] = shape
        library.check(f"placing input {name!r}", context.set_tensor_address, name, pointer)

    def give(self, name: str, shape: Shape, pointer: int) -> None:
        """Sets where an output of known shape goes.

        Raises:
            InvalidArgument: The model gives it another shape.
        """
        library, context = self._library, self._context
        got = tuple(context.get_tensor_shape(name))
        if got != shape:
            raise InvalidArgument(
                f"output {name!r} has shape {list(got)}, the signature says {list(shape)}",
                hint="if its first dimension is no rows, give `shapes` in full",
            )
        library.check(f"placing output {name!r}", context.set_tensor_address, name, pointer)

    def give_unknown(self, name: str) -> _Giver:
        """Has the library ask for an output's memory when it knows how much that is."""
        if name not in self._givers:
            giver = _Giver(self._library, self._lane.output(name))
            set_allocator = self._context.set_output_allocator
            self._library.check(f"placing output {name!r}", set_allocator, name, giver.allocator)
            self._givers[name] = giver
        return self._givers[name]

    def run(self, stream: int) -> None:
        """Enqueues the work."""
        self._library.check("running a batch", self._context.execute_async_v3, stream)


class _Giver:
    """Gives an output of unknown shape its memory, and hears of its shape.

    Attributes:
        allocator: IOutputAllocator.
        pointer: Where it was put.
        shape: Its shape; None: not told yet.
    """

    def __init__(self, library: TensorRt, memory: Memory) -> None:
        self._memory = memory
        self.pointer = 0
        self.shape: Shape | None = None
        self.failure: GsliceError | None = None
        kind = subclass(
            library.api.IOutputAllocator,
            reallocate_output=lambda _, *asked: self._reallocate(*asked),
            reallocate_output_async=lambda _, *asked: self._reallocate(*asked),
            notify_shape=lambda _, name, shape: self._notice(shape),
        )
        self.allocator = kind()

    def begin(self) -> None:
        """Before a batch."""
        self.shape, self.failure = None, None

    def _reallocate(
        self, name: str, memory: int, size_bytes: int, alignment: int, stream: int = 0
    ) -> int:
        """The library takes 0 for: there is none."""
        try:
            self.pointer = self._memory.of(size_bytes)
        except GsliceError as error:  # nothing may be raised through the library
            self.failure = error
            self.pointer = 0
        return self.pointer

    def _notice(self, shape: Sequence[int]) -> None:
        self.shape = tuple(shape)


class BatchCall:
    """What runs the batches of one size in one lane.

    Args:
        lane: The lane.
        description: Of the engine.

    Attributes:
        outputs: How many there are.
    """

    def __init__(self, lane: Lane, description: Description) -> None:
        self._lane = lane
        self._inputs = description.signature.inputs
        self._outputs = description.signature.outputs
        self.outputs = len(self._outputs)
        self._profiles = description.profiles
        self._contexts: dict[int, Context] = {}  # by profile

    def __call__(self, batch: Batch) -> None:
        """Enqueues a batch on its stream."""
        shapes = [batch.input_shape(index) for index in range(len(self._inputs))]
        context = self.context(shapes, batch.stream)
        for index, (tensor, shape) in enumerate(zip(self._inputs, shapes, strict=True)):
            context.take(tensor.name, shape, batch.input_ptr(index))
        unknown: list[tuple[int, TensorSpec, _Giver]] = []
        for index, tensor in enumerate(self._outputs):
            declared = batch.output_shape(index)
            if declared is not None:
                context.give(tensor.name, declared, batch.output_ptr(index))
                continue
            giver = context.give_unknown(tensor.name)
            giver.begin()
            unknown.append((index, tensor, giver))
        try:
            context.run(batch.stream)
        except GsliceError as error:
            raise next((giver.failure for *_, giver in unknown if giver.failure), error) from error
        for index, tensor, giver in unknown:
            if giver.shape is None:
                raise Internal(f"TensorRT told no shape of output {tensor.name!r}")
            batch.set_output_ptr(index, giver.pointer, giver.shape, tensor.dtype)

    def can_be_captured(self, batch: Batch) -> bool:
        """Whether the library says so of a batch that has run."""
        shapes = [batch.input_shape(index) for index in range(len(self._inputs))]
        return self.context(shapes, batch.stream).can_be_captured(batch.stream)

    def context(self, shapes: Sequence[Shape], stream: int) -> Context:
        """The context for these shapes.

        Raises:
            InvalidArgument: No profile takes them.
        """
        profile = next((each for each in self._profiles if each.takes(shapes)), None)
        if profile is None:
            told = ", ".join(
                f"{tensor.name!r} of {list(shape)}"
                for tensor, shape in zip(self._inputs, shapes, strict=True)
            )
            raise InvalidArgument(
                f"the model was built for no {told}", hint="widen `shapes` in node.yaml"
            )
        if profile.index not in self._contexts:
            self._contexts[profile.index] = self._lane.context(profile, stream)
        return self._contexts[profile.index]
