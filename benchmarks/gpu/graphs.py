"""Graphs that torch captures, with the handle that the driver launches them by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu.driver import Gpu
from benchmarks.gpu.step import needed

_WARM_RUNS = 3  # what libraries allocate or choose the first times must not be captured


@dataclass(frozen=True)
class Graph:
    """A captured graph.

    Attributes:
        executable: The driver's handle (CUgraphExec).
        keep: Owns it, and the memory that the graph uses.
        from_torch: torch gave the handle; else it was instantiated here.
    """

    executable: int
    keep: Any
    from_torch: bool

    def replay(self) -> None:
        """Runs it on torch's current stream."""
        self.keep.replay()


def capture(run: Callable[[], object], stream: Any) -> Graph:
    """Captures what a call enqueues on the current stream.

    Args:
        run: The call; it always works on the same memory.
        stream: A torch stream to warm up and capture on.
    """
    torch = needed("torch")
    with torch.inference_mode(), torch.cuda.stream(stream):
        for _ in range(_WARM_RUNS):
            run()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph(keep_graph=True)
    # Of this thread alone: the pump's threads use CUDA as well.
    captured = torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local")
    with torch.inference_mode(), captured:
        run()
    graph.instantiate()
    if hasattr(graph, "raw_cuda_graph_exec"):
        return Graph(int(graph.raw_cuda_graph_exec()), graph, True)
    return Graph(Gpu().instantiate(int(graph.raw_cuda_graph())), graph, False)
