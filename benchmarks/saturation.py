"""How near does gslice bring an engine to bare onnxruntime? `python -m benchmarks.saturation`

One real model with one thread on a core of its own, kept busy by a few calls in flight; the pump,
front-end, daemon and client share the other core. Bare onnxruntime runs the same model with one
thread on the engine's core. Both take many short turns (A B A B), because a shared machine's speed
wanders within seconds; `ratio` is gslice's rate over bare's of the same turn, `ratio_p25` and
`ratio_p75` are the quartiles over the turns.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import uvloop

from benchmarks.bare import bare_onnxruntime
from benchmarks.common import Report, Row, arguments, finish, medians
from benchmarks.cores import Cores, place, two_cores
from benchmarks.http2 import Connection, Request
from benchmarks.load import INFER, ONE_CONNECTION, closed_loop
from benchmarks.wire import infer_request
from gslice.demo.assets import find
from gslice.demo.node import ServedNode

QUESTION = "How near does a saturated model come to bare onnxruntime at one thread?"
SHAPES = {"detector": {"x": [1, 3, 224, 224]}, "filetype": {"bytes": [1, 2048]}}
CONCURRENCY = 4


async def measure(function: str, cores: Cores, seconds: float, repeats: int) -> Row:
    """Runs bare onnxruntime and gslice in turns; both loaded, one of them idle."""
    os.sched_setaffinity(0, {cores.client})
    model: Path = getattr(find(), function)
    shapes = SHAPES[function]
    dtype = np.int32 if function == "filetype" else np.float32
    payload = infer_request(function, {name: np.ones(s, dtype) for name, s in shapes.items()})
    with (
        tempfile.TemporaryDirectory(prefix="gslice-bench-") as directory,
        bare_onnxruntime(model, shapes, cores.server) as bare,
    ):
        node = ServedNode(
            Path(directory),
            {function: {"model": str(model), "threads": 1, "batch": {"max": 1}}},
            devices={"cpu": {"cpus": [cores.server]}},
            cores={cores.client, cores.server},
            node={"spares": 0, **ONE_CONNECTION},  # nothing else computes meanwhile
        )
        async with node, await Connection.connect(node.grpc_address) as connection:
            place(node.status, cores)
            request = Request(node.grpc_address, INFER, payload)
            await closed_loop(connection, request, CONCURRENCY, seconds)  # warm up
            runs = []
            for _ in range(repeats):
                bare_rps = bare.run(seconds)
                load = await closed_loop(connection, request, CONCURRENCY, seconds)
                runs.append(
                    {"bare_rps": bare_rps, "gslice_rps": load.rps, "ratio": load.rps / bare_rps}
                )
    ratios = [run["ratio"] for run in runs]
    return {
        "name": function,
        "concurrency": CONCURRENCY,
        **medians(runs, ("ratio",)),
        "ratio_p25": round(float(np.percentile(ratios, 25)), 4),
        "ratio_p75": round(float(np.percentile(ratios, 75)), 4),
    }


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--seconds", type=float, default=0.5, help="length of one turn")
    parser.add_argument("--repeats", type=int, default=60, help="turns of both sides")
    options = parser.parse_args()
    seconds, repeats = (0.2, 1) if options.quick else (options.seconds, options.repeats)
    cores = two_cores()
    settings = {"seconds": seconds, "repeats": repeats, "cores": vars(cores)}
    report = Report(QUESTION, settings)
    report.rows = [uvloop.run(measure(name, cores, seconds, repeats)) for name in SHAPES]
    finish(report, options.json)


if __name__ == "__main__":
    main()
