"""Runs every bucket before a function serves, with the user's samples or with zeros."""

from __future__ import annotations

import logging
import math
import threading
from typing import TYPE_CHECKING

import numpy as np

from gslice._native import CudaGraph, WarmBatch
from gslice.core.elements import encode_elements
from gslice.core.errors import LoadFailed
from gslice.core.types import ELEMENT_BYTES
from gslice.ipc.native import native_signature
from gslice.worker.engines.base import Captures
from gslice.worker.gpu import LEGACY_STREAM
from gslice.worker.samples import batches, read_samples
from gslice.worker.shapes import candidates, is_known

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gslice._native import CudaDevice
    from gslice.core.types import FunctionSpec, Signature, TensorSpec
    from gslice.worker.engines.base import Engine
    from gslice.worker.samples import Sample, SampleBatch
    from gslice.worker.shapes import Shape

    Inputs = tuple[list[np.ndarray | bytes], list[Shape]]

_log = logging.getLogger(__name__)


_RUNS_BEFORE_CAPTURE = 2  # libraries choose kernels and allocate in the first

_CAPTURING = threading.Lock()
"""A process has one context of its GPU, and torch waits for all of that before it captures: that
would break the capture of another function of a host, and fail itself."""


def warm_up(
    engine: Engine,
    spec: FunctionSpec,
    signature: Signature,
    cuda: CudaDevice | None = None,
    lanes: Sequence[int] = (),
) -> dict[int, Inputs]:
    """Runs every bucket: once with zeros, or as often as the user's samples fill it.

    Without padding any size runs as it is, so one row is enough.

    On a GPU that is done in every lane, for each has a stream and a buffer of its own, and what can
    be captured is, after a second run.

    Zeros say little where shapes had to be guessed, or where the data means something to the
    user's code, so then a failure is a line in the log. The user's samples must run, and so must
    zeros of the only shape that a model takes.

    Args:
        engine: Loaded.
        spec: The function.
        signature: As the engine told.
        cuda: The GPU; None: the CPU device, where lanes are alike.
        lanes: Of the GPU; empty: all that the function starts with.

    Returns:
        By bucket, inputs that ran in the first lane; not of those that failed with zeros.

    Raises:
        LoadFailed: A sample does not fit the function, or the function fails with it.
    """
    ran: dict[int, Inputs] = {}
    lanes = lanes or range(spec.lanes if cuda is not None else 1)
    samples = read_samples(spec)
    for lane in lanes:
        for bucket in signature.buckets or (1,):
            inputs = warm_bucket(engine, spec, signature, bucket, cuda, lane, samples)
            if inputs is not None and lane == lanes[0]:
                ran[bucket] = inputs
    return ran


def warm_bucket(
    engine: Engine,
    spec: FunctionSpec,
    signature: Signature,
    bucket: int,
    cuda: CudaDevice | None = None,
    lane: int = 0,
    samples: Sequence[Sample] | None = None,
) -> Inputs | None:
    """One bucket in one lane: see `warm_up`.

    Args:
        engine: See there, as of all that follow.
        spec: The function.
        signature: As the engine told.
        bucket: Which.
        cuda: The GPU.
        lane: Which.
        samples: The user's; None: they are read.

    Returns:
        Inputs that ran; None: zeros of no shape did.
    """
    if cuda is not None:  # weights may still be on their way, on the stream that loads them
        cuda.order(LEGACY_STREAM, cuda.lane_stream(lane))
    run = _Run(engine, signature, lane, bucket, cuda)
    samples = read_samples(spec) if samples is None else samples
    if samples:
        return _run_samples(run, spec, signature, samples)
    return _run_zeros(run, spec, signature, bucket, engine.trusts_zeros)


class _Run:
    """Runs one bucket in one lane."""

    def __init__(
        self,
        engine: Engine,
        signature: Signature,
        lane: int,
        bucket: int,
        cuda: CudaDevice | None,
    ) -> None:
        self._engine = engine
        self._signature = native_signature(signature)
        self._lane = lane
        self.bucket = bucket
        self._cuda = cuda
        batched = signature.rows_max > 0
        known = is_known((*signature.inputs, *signature.outputs), batched)
        fixed = known and (bool(signature.buckets) or not batched)
        may_capture = cuda is not None and fixed
        self._captures = engine if may_capture and isinstance(engine, Captures) else None

    def __call__(self, inputs: Inputs) -> None:
        for _ in range(_RUNS_BEFORE_CAPTURE if self._captures else 1):
            batch = self.once(inputs)
        if self._captures is not None:
            with _CAPTURING:
                self._captures.capture(batch)

    def once(self, inputs: Inputs) -> WarmBatch:
        """Runs it without a capture; returns what ran."""
        data, shapes = inputs
        call = self._engine.prepare(self._lane, self.bucket)
        assert not isinstance(call, CudaGraph), "nothing is captured before it has run"
        batch = WarmBatch(self._signature, self._lane, self.bucket, data, shapes, self._cuda)
        call(batch)
        batch.finish()
        return batch


def _run_samples(
    run: _Run, spec: FunctionSpec, signature: Signature, samples: Sequence[Sample]
) -> Inputs:
    """Every sample, in batches; what can be captured is with the last one."""
    every = list(batches(spec, signature, samples, run.bucket))
    for batch in every:
        try:
            if batch is every[-1]:
                run(batch.inputs)
            else:
                run.once(batch.inputs)
        except Exception as error:
            label, reason = _guilty(run, spec, signature, batch) or (batch.label, error)
            raise LoadFailed(f"function {spec.name} fails with {label}: {_line(reason)}") from error
    return every[-1].inputs


def _guilty(
    run: _Run, spec: FunctionSpec, signature: Signature, failed: SampleBatch
) -> tuple[str, Exception] | None:
    """The first sample of a batch that fails by itself, and how; None: they fail together only."""
    for sample in failed.samples if len(failed.samples) > 1 else ():
        for batch in batches(spec, signature, [sample], run.bucket):
            try:
                run.once(batch.inputs)
            except Exception as error:
                return sample.label, error
    return None


def _run_zeros(
    run: Callable[[Inputs], None],
    spec: FunctionSpec,
    signature: Signature,
    bucket: int,
    trusts_zeros: bool,
) -> Inputs | None:
    batched = signature.rows_max > 0
    failure: Exception | None = None
    for shapes in candidates(signature.inputs, bucket, batched):
        data = [_zeros(t, s) for t, s in zip(signature.inputs, shapes, strict=True)]
        try:
            run((data, shapes))
        except Exception as error:
            failure = failure or error
        else:
            return data, shapes
    text = any(tensor.dtype == "BYTES" for tensor in signature.inputs)
    if trusts_zeros and not text and is_known(signature.inputs, batched):
        assert failure is not None
        raise LoadFailed(
            f"function {spec.name} fails with a batch of zeros: {_line(failure)}",
            hint="name a sample with `warmup`, if zeros are no valid input",
        ) from failure
    _log.warning(
        "warm-up with zeros failed, so the first requests may be slow; name a sample with "
        "`warmup`: %s",
        _line(failure),
    )
    return None


def _zeros(tensor: TensorSpec, shape: Shape) -> np.ndarray | bytes:
    count = math.prod(shape)
    if tensor.dtype == "BYTES":
        return encode_elements([b""] * count)
    return np.zeros(count * ELEMENT_BYTES[tensor.dtype], np.uint8)


def _line(error: Exception | None) -> str:
    text = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {text}"
