"""ONNX models and plans by TensorRT, or by TensorRT-RTX, on a GPU.

```yaml
detector: {model: ./detector.onnx, engine: tensorrt}       # its plan is built once, and kept
reader: {model: ./reader.onnx, engine: tensorrt, shapes: {ids: {min: [-1, 16], opt: [-1, 128],
  max: [-1, 512]}}}                                        # lengths that the model leaves open
ranker: {model: ./ranker.plan}                             # or .engine: a plan of trtexec's
```
A plan is built with a profile for each batch size, so that each has kernels of its own. What is
computed in which type is as the model says. Batches of known shapes are captured as graphs in
warm-up, which the pump replays without Python. Each worker has the weights in its own plan.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from gslice._native import CudaGraph
from gslice.core.errors import FailedPrecondition, GsliceError, LoadFailed
from gslice.device.graphs import StreamGraph, capture
from gslice.worker.engines.tensorrt_api import TensorRt
from gslice.worker.engines.tensorrt_build import Target
from gslice.worker.engines.tensorrt_compiled import Compiled
from gslice.worker.engines.tensorrt_plan import Loaded, Plans, failed
from gslice.worker.engines.tensorrt_run import BatchCall, Lane
from gslice.worker.engines.tensorrt_signature import Description, describe
from gslice.worker.gpu import GpuDevice

if TYPE_CHECKING:
    from gslice._native import Batch, CudaDevice, WarmBatch
    from gslice.core.types import FunctionSpec, Signature
    from gslice.worker.engines.base import Call, Device

_log = logging.getLogger(__name__)


class TensorRtEngine:
    """See the module.

    Args:
        name: Of the library, one of `gslice.core.plans.LIBRARIES`.
    """

    native = False
    trusts_zeros = True
    threads = 1  # the lane's; the GPU computes

    def __init__(self, name: str) -> None:
        self._library = TensorRt(name)
        self._loaded: Loaded | None = None
        self._cuda: CudaDevice | None = None
        self._description: Description | None = None
        self._compiled: Compiled | None = None
        self._settings: Any = None
        self._captures = True  # until one fails
        self._lanes: dict[int, Lane] = {}
        self._calls: dict[tuple[int, int], BatchCall] = {}  # by lane and bucket
        self._graphs: dict[tuple[int, int], _Replay] = {}

    def load(self, spec: FunctionSpec, device: Device, known: Signature | None = None) -> Signature:
        """See `Engine.load`."""
        library = self._library
        if not isinstance(device, GpuDevice):
            raise LoadFailed(
                f"function {spec.name}: engine {library.name} runs on GPUs only",
                hint="put it on `device: cuda:0`, or let onnxruntime run it",
            )
        self._cuda = device.cuda
        plans = Plans(library, Target(self._cuda.name, self._cuda.compute_capability))
        self._loaded = loaded = plans.load(spec)
        try:
            self._description = describe(library, spec, loaded.engine)
            self._settings = self._context_settings(plans, loaded)
        except GsliceError as error:
            self.close()  # before the device is
            raise failed(spec, error) from error
        return self._description.signature

    def prepare(self, lane: int, bucket: int) -> Call | CudaGraph:
        """See `Engine.prepare`."""
        replay = self._graphs.get((lane, bucket))
        if replay is not None:
            return CudaGraph(replay.graph.executable, replay.graph)
        return self.callable(lane, bucket)

    def callable(self, lane: int, bucket: int) -> Call:
        """See `Captures.callable`."""
        return self._graphs.get((lane, bucket)) or self._call(lane, bucket)

    def capture(self, batch: WarmBatch) -> None:
        """See `Captures.capture`."""
        if self._compiled is not None:
            self._compiled.keep()
        call = self._call(batch.lane, batch.bucket)
        if not self._captures:
            return
        try:
            if not call.can_be_captured(batch):
                raise FailedPrecondition(f"{self._library.name} says that it cannot be")
            graph = capture(batch.stream, lambda: call(batch))
            self._graphs[batch.lane, batch.bucket] = replay = _Replay(graph, call.outputs)
            replay(batch)  # what only a launch shows is known before it serves
        except GsliceError as error:
            self._captures = False
            self._drop_graph(batch.lane, batch.bucket)
            _log.warning(
                "nothing more is captured, for a batch of %d rows cannot be: %s",
                batch.bucket,
                error.message,
            )

    def forget(self, lanes: Collection[int]) -> None:
        """See `KeepsLanes.forget`."""
        for lane, bucket in list(self._graphs):
            if lane in lanes:
                self._drop_graph(lane, bucket)
        for key in [key for key in self._calls if key[0] in lanes]:
            del self._calls[key]
        for lane in set(lanes) & self._lanes.keys():
            self._lanes.pop(lane).close()

    def close(self) -> None:
        """See `Engine.close`."""
        for lane, bucket in list(self._graphs):
            self._drop_graph(lane, bucket)
        if self._compiled is not None:
            self._compiled.keep()
        self._calls.clear()
        for each in self._lanes.values():
            each.close()
        self._lanes.clear()
        self._settings = self._compiled = self._description = None
        self._loaded = None

    def _context_settings(self, plans: Plans, loaded: Loaded) -> Any:
        """What contexts are made with: in either case their memory comes from us."""
        library = self._library
        if not library.is_rtx:
            return library.api.ExecutionContextAllocationStrategy.USER_MANAGED
        path = plans.compiled(loaded.key)
        self._compiled = Compiled(library, loaded.engine, plans.cache, path)
        return self._compiled.settings

    def _call(self, lane: int, bucket: int) -> BatchCall:
        if self._loaded is None or self._cuda is None or self._description is None:
            raise FailedPrecondition("the engine is not loaded")
        if lane not in self._lanes:
            engine = self._loaded.engine
            self._lanes[lane] = Lane(self._library, self._cuda, lane, engine, self._settings)
        if (lane, bucket) not in self._calls:
            self._calls[lane, bucket] = BatchCall(self._lanes[lane], self._description)
        return self._calls[lane, bucket]

    def _drop_graph(self, lane: int, bucket: int) -> None:
        replay = self._graphs.pop((lane, bucket), None)
        if replay is not None:
            replay.graph.close()


class _Replay:
    """A graph, launched from Python; the pump does so by itself."""

    def __init__(self, graph: StreamGraph, outputs: int) -> None:
        self.graph = graph
        self._outputs = outputs

    def __call__(self, batch: Batch) -> None:
        for index in range(self._outputs):
            batch.output_ptr(index)  # asking says that it will be written
        self.graph.launch(batch.stream)
