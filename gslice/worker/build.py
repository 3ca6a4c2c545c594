"""`python -m gslice.worker.build`: builds a function's plan, and keeps it for later loads.

One order as JSON on standard input, one answer as JSON on standard output: `Order` and `Answer`. In
a process of its own, for a library's fault ends the process that has loaded it.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from dataclasses import dataclass

from gslice import _native
from gslice.core.errors import FailedPrecondition, GsliceError, InvalidArgument
from gslice.core.plans import LIBRARIES, is_plan
from gslice.core.types import FunctionSpec
from gslice.ipc.codec import from_json, to_json
from gslice.worker.engines import needed
from gslice.worker.engines.tensorrt_api import RTX, TensorRt
from gslice.worker.engines.tensorrt_build import Target
from gslice.worker.engines.tensorrt_plan import Plans


@dataclass(frozen=True)
class Order:
    """What to build.

    Attributes:
        spec: The function.
        capability: Compute capability to build for; empty: that of the GPU at hand.
    """

    spec: FunctionSpec
    capability: tuple[int, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What came of it.

    Attributes:
        gpu: What the plan holds for.
        library: With its version.
        built: It was not there before.
        took_s: How long it took to have it.
        size_bytes: Of the plan.
        code: Of the error; 0: there is none.
        message: Of the error.
        hint: Of the error.
    """

    gpu: str = ""
    library: str = ""
    built: bool = False
    took_s: float = 0.0
    size_bytes: int = 0
    code: int = 0
    message: str = ""
    hint: str = ""


def build(order: Order) -> Answer:
    """Has a plan of the function, which is built if it is not there.

    Raises:
        LoadFailed: It cannot be built.
        InvalidArgument: Its engine builds nothing, or not for a GPU that is not there.
        FailedPrecondition: There is no GPU.
    """
    spec = order.spec
    if spec.engine not in LIBRARIES or is_plan(spec.model):
        raise InvalidArgument(f"function {spec.name}: nothing is built of it")
    with needed(spec.engine):
        library = TensorRt(spec.engine)
    target = _target(order)
    began_s = time.monotonic()
    found = Plans(library, target).find(spec)
    took_s = time.monotonic() - began_s
    size_bytes = memoryview(found.plan).nbytes
    return Answer(target.text(library), library.version, found.built, took_s, size_bytes)


def _target(order: Order) -> Target:
    if order.capability:
        if order.spec.engine != RTX:
            raise InvalidArgument(
                f"function {order.spec.name}: {order.spec.engine} builds on the GPU that is to run "
                "it",
                hint=f"build it there, without a compute capability, or use engine: {RTX}",
            )
        major, minor = order.capability
        return Target("", (major, minor))
    try:
        cuda = _native.CudaDevice(0, 1)
    except FailedPrecondition as error:
        hint = f"engine: {RTX} builds without one, with --compute-capability"
        raise FailedPrecondition(error.message, hint=hint) from error
    return Target(cuda.name, cuda.compute_capability)


def main() -> int:
    """Answers one order. Returns the exit code, which says only whether it was answered."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    answer = sys.stdout
    sys.stdout = sys.stderr  # libraries print
    order = from_json(Order, json.load(sys.stdin))
    try:
        told = build(order)
    except GsliceError as error:
        told = Answer(code=error.code, message=error.message, hint=error.hint)
    json.dump(to_json(told), answer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
