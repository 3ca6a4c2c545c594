"""SqueezeNet 1.1 (Iandola et al., 2016) with random weights: the shape of a small real model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SHAPE = [1, 3, 224, 224]
CLASSES = 1000
_FIRES = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))
_POOLED_BEFORE = (0, 2, 4)  # fires


class _Builder:
    """Appends layers; each returns the name of what it gives."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(0)

    def conv(self, x: str, channels: int, filters: int, size: int, stride: int = 1) -> str:
        """A convolution and its ReLU; 3 x 3 ones of stride 1 keep the image's size."""
        scale = (2 / (channels * size * size)) ** 0.5  # keeps the activations' variance
        shape = (filters, channels, size, size)
        weight = self._weight(scale * self._random.standard_normal(shape, np.float32))
        bias = self._weight(np.zeros(filters, np.float32))
        pad = (size - 1) // 2 if stride == 1 else 0
        y = self._add("Conv", [x, weight, bias], strides=[stride] * 2, pads=[pad] * 4)
        return self._add("Relu", [y])

    def pool(self, x: str) -> str:
        """The largest of 3 x 3, of stride 2."""
        return self._add("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2])

    def fire(self, x: str, channels: int, squeezed: int, expanded: int) -> str:
        """Squeezes to few channels, expands them by 1 x 1 and 3 x 3."""
        narrow = self.conv(x, channels, squeezed, 1)
        sides = [self.conv(narrow, squeezed, expanded, size) for size in (1, 3)]
        return self._add("Concat", sides, axis=1)

    def mean(self, x: str) -> str:
        """Over the image."""
        return self._add("GlobalAveragePool", [x])

    def _add(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        output = f"y{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def _weight(self, value: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(value.astype(np.float32), name))
        return name


def write(path: Path) -> Path:
    """Writes the model; its input is `x` of SHAPE, FP32.

    Returns:
        The path.
    """
    net = _Builder()
    x, channels = net.conv("x", 3, 64, 3, stride=2), 64
    for number, (squeezed, expanded) in enumerate(_FIRES):
        x = net.pool(x) if number in _POOLED_BEFORE else x
        x, channels = net.fire(x, channels, squeezed, expanded), 2 * expanded
    y = net.mean(net.conv(x, channels, CLASSES, 1))
    graph = helper.make_graph(
        net.nodes,
        "squeezenet",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info(y, TensorProto.FLOAT, [1, CLASSES, 1, 1])],
        net.weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path
