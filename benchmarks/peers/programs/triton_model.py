"""Triton: models for the Python backend, as the module `model` of a model repository."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as triton
from engine import STREAM, Model
from numpy.typing import NDArray


class TritonPythonModel:
    """Identity, or the model."""

    def initialize(self, arguments: dict[str, str]) -> None:
        self._run = Model() if STREAM["model"] else _same

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        return [triton.InferenceResponse([self._answer(request)]) for request in requests]

    def _answer(self, request: Any) -> Any:
        given = triton.get_input_tensor_by_name(request, STREAM["input"])
        return triton.Tensor(STREAM["output"], self._run(given.as_numpy()))


def _same(array: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(array)
