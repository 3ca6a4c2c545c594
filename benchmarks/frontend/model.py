"""A saturated real model with its whole server on one core, against bare onnxruntime there."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from benchmarks.bare import Bare, bare_onnxruntime
from benchmarks.common import Row, medians
from benchmarks.cores import Cores, out_of_the_way
from benchmarks.frontend import squeezenet
from benchmarks.frontend.h2load import Width
from benchmarks.frontend.identity import node_of
from benchmarks.frontend.processes import pids_of
from benchmarks.frontend.shared import WARM_UP_PART, Question, SharedSubject, shared_subject
from benchmarks.frontend.turns import (
    H2LOAD,
    SHARED_MEMORY,
    SPREAD_OF,
    WARM_UP_REQUESTS,
    Plan,
    Subject,
    ask,
    head,
)
from benchmarks.http2 import Request
from benchmarks.load import INFER
from benchmarks.wire import infer_request
from gslice.demo.node import ServedNode
from gslice.protos import message

NAME = "squeezenet"
WIDTH = Width(connections=1, streams=4)


async def rows_of(kind: str, cores: Cores, plan: Plan) -> list[Row]:
    """A row of each way in: over the wire, and through shared memory."""
    with tempfile.TemporaryDirectory(prefix="gslice-bench-") as directory:
        model = squeezenet.write(Path(directory) / f"{NAME}.onnx")
        served = {NAME: {"model": str(model), "threads": 1, "batch": {"max": 1}}}
        with bare_onnxruntime(model, {"x": squeezenet.SHAPE}, cores.server) as bare:
            async with node_of(kind, served, cores) as node:
                wire, question = await _asked(node)
                async with shared_subject(question, node, WIDTH.concurrency) as shared:
                    runs = await _take_turns(bare, wire, shared, cores, plan)
    return [
        head(NAME, kind, question.tensor.nbytes, WIDTH, client) | medians(of_client, SPREAD_OF)
        for client, of_client in runs.items()
    ]


async def _asked(node: ServedNode) -> tuple[Subject, Question]:
    """The same question for both ways in; what the wire answered must lie in the shared memory."""
    image = np.ones(squeezenet.SHAPE, np.float32)
    request = Request(node.grpc_address, INFER, infer_request(NAME, {"x": image}))
    answer = await ask(request)
    response = message("inference.ModelInferResponse").FromString(answer)
    (output,), (scores,) = response.outputs, response.raw_output_contents
    if len(scores) != 4 * squeezenet.CLASSES:
        raise RuntimeError(f"{NAME} answered with something else")
    wire = Subject(request, len(answer), pids_of(node.status))
    return wire, Question(NAME, image, output.name, scores)


async def _take_turns(
    bare: Bare, wire: Subject, shared: SharedSubject, cores: Cores, plan: Plan
) -> dict[str, list[Row]]:
    """All three take turns on the server's core, and bare onnxruntime is alone there at its own.

    Returns:
        Runs by client.
    """
    warm = wire.run(WARM_UP_REQUESTS * WIDTH.concurrency, WIDTH, plan.core)
    count = plan.requests(warm, WIDTH)
    await shared.run(plan.seconds / WARM_UP_PART)
    runs: dict[str, list[Row]] = {H2LOAD: [], SHARED_MEMORY: []}
    for _ in range(plan.repeats):
        with out_of_the_way(wire.pids, cores):
            bare_rps = bare.run(plan.seconds)
        served = {
            H2LOAD: wire.run(count, WIDTH, plan.core),
            SHARED_MEMORY: await shared.run(plan.seconds),
        }
        for client, run in served.items():
            ratio = run["rps"] / bare_rps
            runs[client].append(run | {"bare_rps": bare_rps, "bare_ratio": ratio})
    return runs
