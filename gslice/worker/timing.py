"""How long batches take: run outside any segment, one after the other in one lane.

A batch is timed from its inputs in host memory until its work has ended: copy in and compute, and
on a GPU the copy of its outputs to the host. What a request pays besides is not in it: waiting,
the pump, and other lanes that compute at the same time. Whoever changes that changes
`gslice.ipc.messages.TIMING_VERSION`: profiles are kept from one gslice to the next.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gslice._native import WarmBatch
from gslice.core.errors import GsliceError, LoadFailed
from gslice.ipc.messages import Measure
from gslice.ipc.native import native_signature
from gslice.worker.engines.base import Captures
from gslice.worker.warmup import warm_bucket

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gslice._native import CudaDevice
    from gslice.core.types import FunctionSpec, Signature
    from gslice.worker.engines.base import Engine
    from gslice.worker.warmup import Inputs

QUICK_US = 300_000
"""How long all batches that are timed at a load may take together."""

_log = logging.getLogger(__name__)
_QUICK_BATCHES_MAX = 20
_LANE = 0
_PERIODS = 4  # of a quota, in which it evens out


@dataclass(frozen=True)
class Times:
    """Of batches of one size, each in us, one right after the other."""

    bucket: int
    each_us: np.ndarray

    def median_us(self, period_us: int = 0) -> float:
        """What half of them took no longer than.

        A quota lets a short batch run at full speed or not at all, so that few tell its share. Then
        each counts as the mean of a stretch in which that evens out.

        Args:
            period_us: Of the quota; 0: there is none.
        """
        if not period_us:
            return float(np.median(self.each_us))
        ends_us = np.cumsum(self.each_us)
        stretches = np.floor((ends_us - self.each_us) / (_PERIODS * period_us))
        _, firsts = np.unique(stretches, return_index=True)
        counts = np.diff([*firsts, len(ends_us)])
        means = np.add.reduceat(self.each_us, firsts) / counts
        return float(np.median(np.repeat(means, counts)))

    @property
    def p99_us(self) -> float:
        """Of 99 % of them none took longer: with fewer than 100, the longest."""
        return float(np.percentile(self.each_us, 99, method="inverted_cdf"))


class Timing:
    """Times batches of a loaded function, each size warm before.

    Args:
        engine: Loaded.
        spec: The function.
        signature: As the engine told.
        cuda: The GPU, whose lanes nobody else uses now; None: the CPU device.
        warm: By bucket, inputs that have run already.
    """

    def __init__(
        self,
        engine: Engine,
        spec: FunctionSpec,
        signature: Signature,
        cuda: CudaDevice | None,
        warm: Mapping[int, Inputs] | None = None,
    ) -> None:
        self._engine = engine
        self._spec = spec
        self._signature = signature
        self._cuda = cuda
        self._warm = dict(warm or {})

    def measure(self, order: Measure) -> Times:
        """Times batches as ordered.

        Raises:
            InvalidArgument: The function has no batches of that size.
            LoadFailed: It fails, or does not run without a sample.
        """
        self._signature.check_batch(self._spec.name, order.bucket)
        inputs = self._inputs(order.bucket)
        try:
            return self._timed(order, inputs)
        except Exception as error:
            text = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            raise LoadFailed(
                f"function {self._spec.name} fails with a batch of {order.bucket}: {text}"
            ) from error

    def measure_quickly(self, buckets: Sequence[int]) -> list[Times]:
        """Times a few batches of each size, as far as `QUICK_US` goes; smaller ones first.

        Sizes that do not run are left out: a load does not fail over its timing.
        """
        measured: list[Times] = []
        end_ns = time.perf_counter_ns() + QUICK_US * 1000
        row_us = 0.0
        for place, bucket in enumerate(sorted(buckets)):
            left_us = (end_ns - time.perf_counter_ns()) / 1000
            runs = 2 if bucket in self._warm else 3  # the last is timed
            if left_us < runs * row_us * bucket:
                break
            part_us = max(0, round(left_us / (len(buckets) - place)))
            try:
                measured.append(self.measure(Measure(bucket, 1, _QUICK_BATCHES_MAX, part_us)))
            except GsliceError as error:
                _log.warning("batches of %d are not timed: %s", bucket, error)
            else:
                row_us = float(np.mean(measured[-1].each_us)) / bucket
        return measured

    def _inputs(self, bucket: int) -> Inputs:
        if bucket not in self._warm:
            engine, spec, signature = self._engine, self._spec, self._signature
            inputs = warm_bucket(engine, spec, signature, bucket, self._cuda, _LANE)
            if inputs is None:
                raise LoadFailed(
                    f"function {spec.name} does not run with zeros, so it cannot be measured",
                    hint="name a sample with `warmup`",
                )
            self._warm[bucket] = inputs
        return self._warm[bucket]

    def _timed(self, order: Measure, inputs: Inputs) -> Times:
        run = self._runner(order.bucket, inputs)
        run()  # threads, or a share, may be new
        each_us: list[float] = []
        end_ns = time.perf_counter_ns() + order.duration_us * 1000
        while len(each_us) < order.batches_min or (
            len(each_us) < order.batches_max and time.perf_counter_ns() < end_ns
        ):
            begun_ns = time.perf_counter_ns()
            run()
            each_us.append((time.perf_counter_ns() - begun_ns) / 1000)
        return Times(order.bucket, np.array(each_us))

    def _runner(self, bucket: int, inputs: Inputs) -> Callable[[], None]:
        engine, cuda = self._engine, self._cuda
        signature, outputs = native_signature(self._signature), len(self._signature.outputs)
        call = (engine.callable if isinstance(engine, Captures) else engine.prepare)(_LANE, bucket)
        assert callable(call), "whoever captures has a callable, too"

        def run() -> None:
            batch = WarmBatch(signature, _LANE, bucket, *inputs, cuda)
            call(batch)
            batch.finish()
            if cuda is not None:
                for index in range(outputs):  # there are no BYTES on a GPU
                    batch.output_host(index)

        return run
