"""Serialised KServe v2 requests, made once, and what a run needs to know from the server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gslice.client.aio import Client
from gslice.protos import message

DTYPES = {"float32": "FP32", "int32": "INT32", "uint8": "UINT8"}


@dataclass(frozen=True)
class Stage:
    """A stage's time as ModelStatistics counts it, since the function was loaded.

    Attributes:
        count: Requests.
        total_ns: Their time in the stage together.
    """

    count: int
    total_ns: int

    def mean_us_since(self, earlier: Stage) -> float:
        """Mean time of the requests since an earlier reading."""
        count = self.count - earlier.count
        return (self.total_ns - earlier.total_ns) / 1e3 / count if count else 0.0


def infer_request(function: str, inputs: Mapping[str, NDArray[Any]]) -> bytes:
    """A ModelInferRequest with raw contents."""
    request = message("inference.ModelInferRequest")(model_name=function)
    for name, array in inputs.items():
        request.inputs.add(name=name, datatype=DTYPES[array.dtype.name], shape=array.shape)
        request.raw_input_contents.append(np.ascontiguousarray(array).tobytes())
    return bytes(request.SerializeToString())


def raw_outputs(answer: bytes) -> list[bytes]:
    """The raw contents of a serialised ModelInferResponse."""
    response = message("inference.ModelInferResponse").FromString(answer)
    return list(response.raw_output_contents)


async def compute_stage(client: Client, function: str) -> Stage:
    """Reads how long a function's engine has run; nothing for the empty name."""
    if not function:
        return Stage(0, 0)
    (entry,) = await client.statistics(function)
    compute = entry["inference_stats"].get("compute_infer", {})
    return Stage(count=int(compute.get("count", 0)), total_ns=int(compute.get("ns", 0)))
