"""Serialised KServe v2 requests, made once, and the counters that a function keeps of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gslice._native import Segment
from gslice.core.errors import NotFound
from gslice.protos import message

SMALL_BYTES = 1024
LARGE_BYTES = 602_112  # one image of 3 x 224 x 224 FP32
DTYPES = {"float32": "FP32", "int32": "INT32", "uint8": "UINT8"}


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


@dataclass(frozen=True)
class Counters:
    """A function's counters at some moment, from its segment.

    Attributes:
        ok: Requests answered.
        copies: Copies of tensors in front-end and worker.
        batches: Batches computed.
        compute_ns: Time that the engine spent in them together.
    """

    ok: int
    copies: int
    batches: int
    compute_ns: int

    @classmethod
    def read(cls, segment: Segment) -> Counters:
        """Reads them."""
        stats = segment.stats()
        compute = stats["stage"]["compute"]
        return cls(stats["outcome"]["ok"], stats["copies"], compute["count"], compute["sum_ns"])

    def compute_mean_us_since(self, earlier: Counters) -> float:
        """Mean time that the engine took for a batch, since an earlier reading."""
        batches = self.batches - earlier.batches
        return (self.compute_ns - earlier.compute_ns) / 1e3 / batches if batches else 0.0

    def copies_per_request_since(self, earlier: Counters) -> float:
        """Copies of a request's tensors, since an earlier reading."""
        requests = self.ok - earlier.ok
        return (self.copies - earlier.copies) / requests if requests else 0.0


def open_segment(pid: int, function: str) -> Segment:
    """Maps a function's segment, which a process of this user holds.

    Raises:
        NotFound: It holds none of that function.
    """
    for link in Path(f"/proc/{pid}/fd").iterdir():
        if not str(link.readlink()).startswith("/memfd:gslice:"):
            continue
        descriptor = os.open(link, os.O_RDWR)
        try:
            segment = Segment.open(descriptor)
        finally:
            os.close(descriptor)
        if segment.name == function:
            return segment
    raise NotFound(f"process {pid} holds no segment of {function}")
