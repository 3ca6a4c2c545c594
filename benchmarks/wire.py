"""Serialised KServe v2 requests, made once, and the counters that a function keeps of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gslice._native import Segment, histogram_bounds_us
from gslice.core.errors import NotFound
from gslice.protos import message
from gslice.telemetry.window import percentile_us

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
        compute_bins: How many computations took how long, by bin.
    """

    ok: int
    copies: int
    compute_bins: NDArray[np.uint64]

    @classmethod
    def read(cls, segment: Segment) -> Counters:
        """Reads them."""
        stats = segment.stats()
        bins = np.array(stats["stage"]["compute"]["bins"], copy=True)
        return cls(stats["outcome"]["ok"], stats["copies"], bins)

    def compute_median_us_since(self, earlier: Counters) -> float:
        """Median time that the engine took for a batch, since an earlier reading."""
        bins = (self.compute_bins - earlier.compute_bins).astype(np.int64)
        return percentile_us(bins, histogram_bounds_us(), 0.5)

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
        if not str(link.readlink()).startswith("/memfd:gslice"):
            continue
        descriptor = os.open(link, os.O_RDWR)
        try:
            segment = Segment.open(descriptor)
        finally:
            os.close(descriptor)
        if segment.name == function:
            return segment
    raise NotFound(f"process {pid} holds no segment of {function}")
