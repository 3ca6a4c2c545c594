"""What computes in ONNX Runtime: its execution provider, and the CPU's."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from onnxruntime import InferenceSession  # the name is lost where two packages were mixed

if TYPE_CHECKING:
    from onnxruntime import IOBinding, OrtValue, SessionOptions

    from gslice._native import Batch
    from gslice.core.types import FunctionSpec


class Provider(Protocol):
    """What computes: where sessions come from, and how a bound batch runs.

    Attributes:
        place: Where batches lie for it, as bindings call it.
        threads: Of a session, where the function says nothing.
    """

    place: str
    threads: int

    def session(self, spec: FunctionSpec, options: SessionOptions, lane: int) -> InferenceSession:
        """The session that a lane's batches run in.

        Raises:
            LoadFailed: This ONNX Runtime cannot compute there.
        """

    def check(self, spec: FunctionSpec, session: InferenceSession) -> None:
        """Looks at what the provider makes of the model.

        Raises:
            LoadFailed: It must not be served so; the message says why.
        """

    def run(self, session: InferenceSession, binding: IOBinding, batch: Batch) -> None:
        """Runs a batch that is bound; on a GPU it is only enqueued."""

    def give(self, batch: Batch, binding: IOBinding, unknown: Sequence[tuple[int, str]]) -> None:
        """Hands over outputs whose shapes the run has shown: their indices and data types."""


class CpuProvider:
    """The CPU device: one session for all lanes.

    Args:
        threads: See `Provider`.
    """

    place = "cpu"

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._session: InferenceSession | None = None

    def session(self, spec: FunctionSpec, options: SessionOptions, lane: int) -> InferenceSession:
        """See `Provider.session`."""
        if self._session is None:
            self._session = InferenceSession(spec.model, options, ["CPUExecutionProvider"])
        return self._session

    def check(self, spec: FunctionSpec, session: InferenceSession) -> None:
        """It takes every model."""

    def run(self, session: InferenceSession, binding: IOBinding, batch: Batch) -> None:
        """See `Provider.run`."""
        session.run_with_iobinding(binding)

    def give(self, batch: Batch, binding: IOBinding, unknown: Sequence[tuple[int, str]]) -> None:
        """See `Provider.give`."""
        values = binding.get_outputs()
        for index, dtype in unknown:
            batch.set_output(index, _array(values[index], dtype))
        binding.clear_binding_outputs()  # the session's own memory goes back at once


def _array(value: OrtValue, dtype: str) -> np.ndarray:
    if dtype != "BF16":
        array: np.ndarray = value.numpy()
        return array
    shape = tuple(value.shape())
    data = (ctypes.c_uint16 * math.prod(shape)).from_address(value.data_ptr())
    return np.ctypeslib.as_array(data).reshape(shape)
