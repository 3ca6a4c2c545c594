"""A function of nothing but weights, for GPUs where there is no torch: y = x."""

from __future__ import annotations

from typing import Any

import numpy as np


class Heavy:
    """See the module."""

    inputs = (("x", "FP32", [-1, 8]),)
    outputs = (("y", "FP32", [-1, 8]),)
    batch_max = 1

    def load_weights(self, size_bytes: int) -> dict[str, np.ndarray]:
        """As many as are asked for."""
        return {"w": np.ones(size_bytes // 4, np.float32)}

    def infer(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """One batch."""
        return {"y": inputs["x"]}
