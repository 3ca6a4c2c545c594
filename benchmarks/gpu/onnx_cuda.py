"""An ONNX model on ONNX Runtime's CUDA provider: behind gslice, and by itself.

    gslice   segment, pump, DMA from the slots and back, the run enqueued on the lane's stream;
             from letting the pump claim to DONE, wake-up included
    plain    `session.run` from arrays to arrays, as most programs do it: pageable copies, a wait

The arms take turns. `call_us` is how long the engine's call takes to return, `batch_us` until its
batch has ended: near each other, the provider waits for its stream at the end of a run, although it
is told not to (`waits`).
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu.pumped import Served
from benchmarks.gpu.report import GpuReport
from benchmarks.gpu.step import Clock, Skipped, main, needed
from benchmarks.gpu.turns import Run, below_percent, spread_percent, take_turns
from gslice import _native
from gslice.core.types import FunctionSpec, Signature
from gslice.ipc.native import native_signature
from gslice.worker.gpu import GpuDevice
from gslice.worker.warmup import warm_up
from gslice.worker.weights import WeightStore

if TYPE_CHECKING:
    from gslice.worker.engines.onnx_runtime import OnnxRuntimeEngine

PROVIDER = "CUDAExecutionProvider"
BATCHES = (1, 4, 8)
IMAGE = (3, 224, 224)
CHANNELS = (64, 128, 256, 512)
CLASSES = 1000
TOLERANCE = 0.02  # of the largest output: TF32, and algorithms of each session's own
WAITS = 0.8  # of a batch's time that its call takes, from which on the call is said to wait
_CALLS = 50


def measure(report: GpuReport, clock: Clock) -> None:
    """A row for each batch size."""
    onnxruntime = needed("onnxruntime")
    onnxruntime.preload_dlls()
    if PROVIDER not in onnxruntime.get_available_providers():
        raise Skipped("this step needs an onnxruntime with CUDA: pip install 'gslice[cuda]'")
    from gslice.worker.engines.onnx_runtime import OnnxRuntimeEngine

    with tempfile.TemporaryDirectory() as folder:
        path = write_model(Path(folder) / "convolutions.onnx")
        plain = onnxruntime.InferenceSession(
            str(path), providers=[(PROVIDER, {"cudnn_conv_algo_search": "HEURISTIC"})]
        )
        device, engine = _native.CudaDevice(0, 1), OnnxRuntimeEngine()
        store = WeightStore(device)
        spec = FunctionSpec("subject", model=str(path), lanes=1, batch_max=max(BATCHES))
        cpus = tuple(os.sched_getaffinity(0))
        signature = engine.load(spec, GpuDevice(device, cpus, store))
        warm_up(engine, spec, signature, device)
        with Served(signature, device, 1, engine.prepare) as served:
            for done, rows in enumerate(BATCHES):
                row = _compared(served, plain, rows, clock.share_s(len(BATCHES) - done))
                report.add(f"convolutions, batch {rows}", **row)
        for row in report.rows:  # the lane was the pump's until now
            row.update(timed_calls(engine, signature, device, int(row["rows"])))
        engine.close()
        device.close()
    report.headline(headline(report.rows))


def write_model(path: Path) -> Path:
    """Convolutions with stride 2, a pool, a classifier; random weights in FP32."""
    onnx = needed("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    random = np.random.default_rng(3)
    nodes, weights, last = [], {}, "x"
    for layer, (inner, outer) in enumerate(zip((IMAGE[0], *CHANNELS), CHANNELS, strict=False)):
        scale = np.sqrt(2 / (9 * inner))
        weights[f"w{layer}"] = scale * random.standard_normal((outer, inner, 3, 3))
        nodes.append(
            helper.make_node(
                "Conv", [last, f"w{layer}"], [f"c{layer}"], strides=[2, 2], pads=[1, 1, 1, 1]
            )
        )
        nodes.append(helper.make_node("Relu", [f"c{layer}"], [last := f"r{layer}"]))
    weights["classes"] = random.standard_normal((CHANNELS[-1], CLASSES)) / 16
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
        helper.make_node("MatMul", ["features", "classes"], ["y"]),
    ]
    fp32 = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "convolutions",
        [helper.make_tensor_value_info("x", fp32, ["rows", *IMAGE])],
        [helper.make_tensor_value_info("y", fp32, ["rows", CLASSES])],
        [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), str(path))
    return path


def timed_calls(
    engine: OnnxRuntimeEngine, signature: Signature, device: _native.CudaDevice, rows: int
) -> dict[str, Any]:
    """How long a call takes to return, and its batch to end: medians, in us."""
    shape, call = native_signature(signature), engine.prepare(0, rows)
    inputs = np.zeros((rows, *signature.inputs[0].dims[1:]), np.float32)
    returned_us, ended_us = [], []
    for _ in range(_CALLS):
        batch = _native.WarmBatch(shape, 0, rows, [inputs], [inputs.shape], device)
        begun = time.perf_counter()
        call(batch)
        returned_us.append((time.perf_counter() - begun) * 1e6)
        batch.finish()
        ended_us.append((time.perf_counter() - begun) * 1e6)
    call_us, batch_us = statistics.median(returned_us), statistics.median(ended_us)
    waits = call_us > WAITS * batch_us
    return {"call_us": round(call_us, 1), "batch_us": round(batch_us, 1), "waits": waits}


def headline(rows: list[dict[str, Any]]) -> str:
    """How far below a plain run, and whether calls wait."""
    below = [row["gslice_below_plain_percent"] for row in rows]
    waiting = [str(row["rows"]) for row in rows if row["waits"]]
    calls = f"calls wait for the GPU at batch {', '.join(waiting)}" if waiting else "no call waits"
    return f"{min(below):g} to {max(below):g} % below a plain run; {calls}"


def _compared(served: Served, plain: Any, rows: int, seconds: float) -> dict[str, Any]:
    tensors = np.random.default_rng(rows).random((rows, *IMAGE), np.float32)
    requests = served.requests(tensors)
    expected: NDArray[np.float32] = plain.run(None, {"x": tensors})[0]
    served.run(requests)
    if np.abs(served.outputs() - expected).max() > TOLERANCE * np.abs(expected).max():
        raise RuntimeError(f"batch {rows}: gslice and a plain run give different answers")

    def run_plain() -> None:
        plain.run(None, {"x": tensors})

    arms: dict[str, Run] = {
        "gslice": lambda: served.run(requests).total_us,
        "plain": run_plain,
    }
    turns = take_turns(arms, seconds * 0.8)
    return {
        "rows": rows,
        "gslice_us": round(statistics.median(turns["gslice"]), 1),
        "plain_us": round(statistics.median(turns["plain"]), 1),
        "gslice_below_plain_percent": below_percent(turns, "gslice", "plain"),
        "gslice_us_spread_percent": spread_percent(turns["gslice"]),
        "turns": len(turns["gslice"]),
    }


if __name__ == "__main__":
    main("onnx_cuda", measure)
