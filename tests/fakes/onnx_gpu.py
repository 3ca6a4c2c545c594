"""ONNX Runtime's CUDA provider where there is neither: its CPU provider, over the fake libcuda.

Device memory of the fake is memory of the process, so what is bound to addresses of a lane's buffer
lies there. What only a GPU shows stays open: that the CUDA provider runs on the stream that it was
given, does not wait at a run's end, and tells where its nodes are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import onnxruntime as ort

from gslice import _native
from gslice.core.types import ELEMENT_BYTES, FunctionSpec
from gslice.worker.engines.onnx_cuda import CudaProvider
from tests.fakes.driver import Driver


class FakeCudaProvider(CudaProvider):
    """See the module.

    Attributes:
        settings_seen: What each session was to be opened with.
        ran: Lane, bucket, stream and session (its id) of each batch.
    """

    name = "CPUExecutionProvider"
    place = "cpu"

    def __init__(self, cuda: _native.CudaDevice) -> None:
        super().__init__(cuda)
        self._driver = Driver()
        self.settings_seen: list[dict[str, str]] = []
        self.ran: list[tuple[int, int, int, int]] = []

    def open(
        self, spec: FunctionSpec, options: ort.SessionOptions, settings: dict[str, str]
    ) -> ort.InferenceSession:
        self.settings_seen.append(settings)
        return ort.InferenceSession(spec.model, options, [self.name])

    def check(self, spec: FunctionSpec, session: ort.InferenceSession) -> None:
        """Here all inputs are the host's, and all nodes the CPU's."""

    def run(self, session: ort.InferenceSession, binding: ort.IOBinding, batch: Any) -> None:
        """What a stream would run is run at once, so what is before it must be over."""
        self._driver.wait(batch.stream)
        self.ran.append((batch.lane, batch.bucket, batch.stream, id(session)))
        super().run(session, binding, batch)

    def give(self, batch: Any, binding: ort.IOBinding, unknown: Sequence[tuple[int, str]]) -> None:
        values = binding.get_outputs()
        for index, dtype in unknown:
            shape = tuple(values[index].shape())
            size = values[index].tensor_size_in_bytes()
            assert size == ELEMENT_BYTES[dtype] * math.prod(shape)
            pointer = self._driver.copied(values[index].data_ptr(), size)
            batch.set_output_ptr(index, pointer, shape, dtype)
