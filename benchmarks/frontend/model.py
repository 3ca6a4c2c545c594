"""A saturated real model with its whole server on one core, against bare onnxruntime there."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from benchmarks.bare import bare_onnxruntime
from benchmarks.common import Row, medians
from benchmarks.cores import Cores
from benchmarks.frontend import squeezenet
from benchmarks.frontend.h2load import Width
from benchmarks.frontend.identity import node_of
from benchmarks.frontend.processes import roles
from benchmarks.frontend.turns import WARM_UP_REQUESTS, Plan, Subject, ask
from benchmarks.http2 import Request
from benchmarks.load import INFER
from benchmarks.wire import infer_request, raw_outputs

NAME = "squeezenet"
WIDTH = Width(connections=1, streams=4)


async def row_of(kind: str, cores: Cores, plan: Plan) -> Row:
    """Both sides take turns on the server's core; the one whose turn it is not sleeps."""
    image = np.ones(squeezenet.SHAPE, np.float32)
    with tempfile.TemporaryDirectory(prefix="gslice-bench-") as directory:
        model = squeezenet.write(Path(directory) / f"{NAME}.onnx")
        served = {NAME: {"model": str(model), "threads": 1, "batch": {"max": 1}}}
        shapes = {"x": squeezenet.SHAPE}
        with bare_onnxruntime(model, shapes, cores.server) as bare:
            async with node_of(kind, served, cores) as node:
                request = Request(node.grpc_address, INFER, infer_request(NAME, {"x": image}))
                answer = await ask(request)
                if len(raw_outputs(answer)[0]) != 4 * squeezenet.CLASSES:
                    raise RuntimeError(f"{NAME} answered with something else")
                pids = [pid for found in roles(node.status).values() for pid in found]
                subject = Subject(request, len(answer), pids)
                warm = subject.run(WARM_UP_REQUESTS * WIDTH.concurrency, WIDTH, plan.core)
                count = plan.requests(warm, WIDTH)
                runs = []
                for _ in range(plan.repeats):
                    bare_rps = bare.run(plan.seconds)
                    run = subject.run(count, WIDTH, plan.core)
                    runs.append(run | {"bare_rps": bare_rps, "bare_ratio": run["rps"] / bare_rps})
    return {
        "name": f"{kind} {NAME}",
        "frontend": kind,
        "payload_bytes": image.nbytes,
        "concurrency": WIDTH.concurrency,
        "connections": WIDTH.connections,
        "client": "h2load",
        **medians(runs, ("rps", "bare_ratio")),
    }
