"""What is asked of every server: the same tensors, and the answers that are right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.wire import DTYPES
from gslice.demo.assets import find

RELATIVE_TOLERANCE = 1e-3  # of a model's answers: servers may bring other versions of the engine
ABSOLUTE_TOLERANCE = 1e-4


@dataclass(frozen=True, eq=False)
class Stream:
    """One request, sent over and over.

    Attributes:
        name: In the rows.
        function: What servers that have names for models call it.
        input: Name of the only input.
        array: The tensor that is sent.
        output: Name of the only output.
        answer: The tensor that comes back.
        model: The ONNX file; None: the answer is the input.
    """

    name: str
    function: str
    input: str
    array: NDArray[Any]
    output: str
    answer: NDArray[Any]
    model: Path | None = None

    def is_right(self, got: bytes) -> bool:
        """Whether the raw bytes of an answer are the answer."""
        if len(got) != self.answer.nbytes:
            return False
        if self.model is None:
            return got == self.answer.tobytes()
        values = np.frombuffer(got, self.answer.dtype).reshape(self.answer.shape)
        return np.allclose(values, self.answer, RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE)

    def described(self) -> dict[str, Any]:
        """What a program in a peer's environment must know of it; JSON can tell it."""
        return {
            "function": self.function,
            "model": str(self.model) if self.model else "",
            "input": self.input,
            "dtype": self.array.dtype.name,
            "datatype": DTYPES[self.array.dtype.name],
            "shape": list(self.array.shape),
            "output": self.output,
            "output_dtype": self.answer.dtype.name,
            "output_datatype": DTYPES[self.answer.dtype.name],
            "output_shape": list(self.answer.shape),
        }


def streams() -> dict[str, Callable[[], Stream]]:
    """By name, how each is made."""
    return {
        "identity-1k": lambda: _identity("identity-1k", (1, 256)),
        "identity-600k": lambda: _identity("identity-600k", (1, 3, 224, 224)),
        "onnx": _detector,
    }


def _identity(name: str, shape: tuple[int, ...]) -> Stream:
    array = np.random.default_rng(0).random(shape, np.float32)
    return Stream(name, "identity", "x", array, "x", array)


def _detector() -> Stream:
    """PP-OCR's text detector, on one image of the size of the larger identity."""
    import onnxruntime

    model = find().detector
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options)
    (given,), (wanted,) = session.get_inputs(), session.get_outputs()
    array = np.random.default_rng(0).random((1, 3, 224, 224), np.float32)
    (answer,) = session.run(None, {given.name: array})
    return Stream("onnx", "detector", given.name, array, wanted.name, answer, model)
