"""The models of the suite, with random weights: no figure needs a download. torch comes lazily.

Each takes rows `x` as a client sends them and gives FP32 rows `y`: images as planes of FP32 or
UINT8, text as INT32 token numbers. Weights and arithmetic are FP16, images channels-last.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.gpu.graphs import Graph, capture
from benchmarks.gpu.pumped import Place
from benchmarks.gpu.step import needed
from benchmarks.gpu.tensors import tensor_at
from gslice.core.types import ELEMENT_BYTES

IMAGE = (3, 224, 224)
TOKENS = 128
VOCABULARY = 30_522
# Untrained, its residual branches would add up beyond what FP16 holds.
_OPTIONS = {"resnet50": {"zero_init_residual": True}}


@dataclass(frozen=True)
class Model:
    """A model of the suite.

    Attributes:
        name: As torchvision calls it.
        row: Shape of one row of its input.
        dtype: KServe type of the input.
        outputs: Numbers that it gives for a row.
    """

    name: str
    row: tuple[int, ...]
    dtype: str
    outputs: int

    @property
    def row_bytes(self) -> int:
        """Of one row of its input."""
        return math.prod(self.row) * ELEMENT_BYTES[self.dtype]

    def make(self) -> Any:
        """The module, with its signature as gslice's torch engine reads it; on the GPU if any."""
        torch = needed("torch")
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            module = _bert() if self.name == "bert_base" else _vision(self.name)
        module.inputs = [("x", self.dtype, [-1, *self.row])]
        module.outputs = [("y", "FP32", [-1, self.outputs])]
        return module.eval()

    def ones(self, rows: int) -> Any:
        """An input on the GPU."""
        torch = needed("torch")
        dtypes = {"FP32": torch.float32, "UINT8": torch.uint8, "INT32": torch.int32}
        return torch.ones(rows, *self.row, dtype=dtypes[self.dtype], device="cuda")


MODELS = {
    model.name: model
    for model in (
        *(Model(name, IMAGE, "FP32", 1000) for name in ("resnet50", "vgg19")),
        *(Model(name, IMAGE, "FP32", 1000) for name in ("mobilenet_v2", "densenet121")),
        Model("bert_base", (TOKENS,), "INT32", 768),
    )
}


def served(model: str) -> Any:
    """A factory for gslice's torch engine: images as UINT8, as clients would send them."""
    chosen = MODELS[model]
    return (replace(chosen, dtype="UINT8") if chosen.row == IMAGE else chosen).make()


def captured(model: Model, module: Any) -> Callable[[Place], Graph]:
    """What makes the graph of a model over a batch's memory, on the batch's stream."""

    def capture_at(place: Place) -> Graph:
        torch = needed("torch")
        inputs = tensor_at(place.input, (place.bucket, *model.row), model.dtype)
        outputs = tensor_at(place.output, (place.bucket, model.outputs), "FP32")
        stream = torch.cuda.ExternalStream(place.stream)
        return capture(lambda: outputs.copy_(module(inputs)), stream)

    return capture_at


def _bert() -> Any:
    torch, transformers = needed("torch"), needed("transformers")

    class Pooled(torch.nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            config = transformers.BertConfig(vocab_size=VOCABULARY)
            self.bert = transformers.BertModel(config).half()

        def forward(self, x: Any) -> Any:
            return self.bert(x.long()).pooler_output.float()

    return Pooled()


def _vision(name: str) -> Any:
    torch, torchvision = needed("torch"), needed("torchvision")

    class Half(torch.nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            model = torchvision.models.get_model(name, weights=None, **_OPTIONS.get(name, {}))
            self.model = model.half().to(memory_format=torch.channels_last)

        def forward(self, x: Any) -> Any:
            images = x.half() / 255 if x.dtype == torch.uint8 else x.half()
            return self.model(images.to(memory_format=torch.channels_last)).float()

    return Half()
