"""The models of the suite, with random weights: figures need no download. Imports torch lazily.

Each takes rows as a client sends them and gives FP32: images as FP32 or UINT8 planes, text as
INT32 token numbers. Weights and arithmetic are FP16, images channels-last.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu.graphs import Graph, capture
from benchmarks.gpu.pumped import Place
from benchmarks.gpu.step import needed
from benchmarks.gpu.tensors import tensor_at
from gslice.core.types import ELEMENT_BYTES

IMAGE = (3, 224, 224)
TOKENS = 128
VOCABULARY = 30_522


@dataclass(frozen=True)
class Model:
    """A model of the suite.

    Attributes:
        name: As papers call it.
        row: Shape of one row of its input.
        dtype: KServe type of the input.
        outputs: Numbers that it gives for a row.
        factory: Makes it; in `benchmarks.gpu.models`.
    """

    name: str
    row: tuple[int, ...]
    dtype: str
    outputs: int
    factory: str

    @property
    def row_bytes(self) -> int:
        """Of one row of its input."""
        return math.prod(self.row) * ELEMENT_BYTES[self.dtype]

    def load(self) -> Any:
        """The module, on the current GPU, ready to run."""
        factory: Callable[[], Any] = globals()[self.factory]
        return factory().eval().cuda()

    def ones(self, rows: int) -> Any:
        """An input on the GPU."""
        torch = needed("torch")
        dtypes = {"FP32": torch.float32, "UINT8": torch.uint8, "INT32": torch.int32}
        return torch.ones(rows, *self.row, dtype=dtypes[self.dtype], device="cuda")


def captured(model: Model, module: Any) -> Callable[[Place], Graph]:
    """What makes the graph of a model over a batch's memory, on the batch's stream."""

    def capture_at(place: Place) -> Graph:
        torch = needed("torch")
        inputs = tensor_at(place.input, (place.bucket, *model.row), model.dtype)
        outputs = tensor_at(place.output, (place.bucket, model.outputs), "FP32")
        stream = torch.cuda.ExternalStream(place.stream)
        return capture(lambda: outputs.copy_(module(inputs)), stream)

    return capture_at


MODELS = {
    model.name: model
    for model in (
        Model("resnet50", IMAGE, "FP32", 1000, "resnet50"),
        Model("vgg19", IMAGE, "FP32", 1000, "vgg19"),
        Model("mobilenet_v2", IMAGE, "FP32", 1000, "mobilenet_v2"),
        Model("densenet121", IMAGE, "FP32", 1000, "densenet121"),
        Model("bert_base", (TOKENS,), "INT32", 768, "bert_base"),
    )
}


def resnet50() -> Any:
    """25.6 million weights."""
    return _vision("resnet50")


def vgg19() -> Any:
    """143.7 million weights."""
    return _vision("vgg19")


def mobilenet_v2() -> Any:
    """3.5 million weights."""
    return _vision("mobilenet_v2")


def densenet121() -> Any:
    """8 million weights."""
    return _vision("densenet121")


def bert_base() -> Any:
    """110 million weights; gives the pooled state."""
    torch, transformers = needed("torch"), needed("transformers")

    class Pooled(torch.nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            config = transformers.BertConfig(vocab_size=VOCABULARY, attn_implementation="sdpa")
            self.bert = transformers.BertModel(config).half()

        def forward(self, tokens: Any) -> Any:
            # A mask would be made on the host, which no graph can capture.
            mask = torch.ones_like(tokens)
            return self.bert(tokens.long(), attention_mask=mask).pooler_output.float()

    return Pooled()


def _vision(name: str) -> Any:
    torch, torchvision = needed("torch"), needed("torchvision")

    class Half(torch.nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            model = torchvision.models.get_model(name, weights=None)
            self.model = model.half().to(memory_format=torch.channels_last)

        def forward(self, images: Any) -> Any:
            halves = images.half()
            if images.dtype == torch.uint8:
                halves = halves * (1 / 255)
            return self.model(halves.to(memory_format=torch.channels_last)).float()

    return Half()
