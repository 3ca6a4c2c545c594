"""What the programs share: what they serve, and onnxruntime as all of them use it."""

from __future__ import annotations

import json
import os
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

STREAM: dict[str, Any] = json.loads(os.environ["RACE_STREAM"])


class Model:
    """An ONNX model with one input and one output, on one thread."""

    def __init__(self) -> None:
        import onnxruntime  # not in processes that serve no model

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            STREAM["model"], options, providers=["CPUExecutionProvider"]
        )
        self._run = partial(session.run, [STREAM["output"]])

    def __call__(self, array: NDArray[Any]) -> NDArray[Any]:
        """Runs it on an array of its input's shape."""
        output: NDArray[Any] = self._run({STREAM["input"]: array})[0]
        return output

    def of_bytes(self, tensor: bytes) -> bytes:
        """Runs it on the raw bytes of an array of its input's shape."""
        array = np.frombuffer(tensor, STREAM["dtype"]).reshape(STREAM["shape"])
        return self(array).tobytes()
