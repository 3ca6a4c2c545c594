"""Small PyTorch models for tests: factories as a user writes them, and exported programs.

Imported by workers too, as the module of `torch: torch_models:...`, so it knows nothing of gslice.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import nn


class Affine(nn.Module):
    """y[N, outputs] = x[N, 8] @ weight + bias."""

    inputs = (("x", "FP32", (-1, 8)),)

    def __init__(self, outputs: int = 3, dtype: str = "FP32") -> None:
        super().__init__()
        torch.manual_seed(7)
        self.linear = nn.Linear(8, outputs)
        self.outputs = [("y", dtype, [-1, outputs])]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


class Wide(nn.Module):
    """y[N, 512] of x[N, 512], large enough for torch to compute on several threads."""

    inputs = outputs = (("x", "FP32", (-1, 512)),)

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(512, 512) for _ in range(8)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class Image(nn.Module):
    """score[N, 4] of image[N, 3, 16, 16]: a convolution, a batch norm, a pool."""

    inputs = (("image", "FP32", (-1, 3, 16, 16)),)
    outputs = (("score", "FP32", (-1, 4)),)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(8)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        )
        self.seen: list[tuple[torch.dtype, bool]] = []

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        is_last = image.is_contiguous(memory_format=torch.channels_last)
        self.seen.append((image.dtype, is_last))
        return self.layers(image).mean((2, 3))


class Pair(nn.Module):
    """total = a + b, above = the indices of row 0 of a that are above 0, by the names of inputs."""

    inputs = (("b", "FP32", (-1, 4)), ("a", "FP32", (-1, 4)))  # not in the order of forward
    outputs = (("total", "FP32", (-1, 4)), ("above", "INT64", (-1, 1)))
    batch_max = 0

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"above": torch.nonzero(a[0] > 0), "total": a - 2 * b, "unused": a}


class Half(nn.Module):
    """y = x + 1, of bfloat16."""

    inputs = outputs = (("x", "BF16", (-1, 2)),)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1


class Overwrites(nn.Module):
    """y = max(x, 0), written into x."""

    inputs = outputs = (("x", "FP32", (-1, 8)),)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.relu_()


class Wrong(nn.Module):
    """Gives what `kind` says is wrong, for any x but 0."""

    inputs = outputs = (("x", "FP32", (-1,)),)

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: torch.Tensor) -> Any:
        if not x.any():
            return x
        match self.kind:
            case "raises":
                raise ValueError("unlucky\nsecond line")
            case "type":
                return x.long()
            case "shape":
                return x[None]
            case "count":
                return x, x
            case "name":
                return {"y": x}
        return [1.0]


class Text(nn.Module):
    inputs = outputs = (("x", "BYTES", (-1,)),)


class Positions(nn.Module):
    """x plus the position of each number; an export writes down the device of `arange`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.arange(x.shape[1], device=x.device)


class Waits(nn.Module):
    """2 x, with a look at a number of the device on the way."""

    inputs = outputs = (("x", "FP32", (-1, 8)),)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.sum().item() != 1e30 else x


class Noise(nn.Module):
    """x plus random numbers."""

    inputs = outputs = (("x", "FP32", (-1, 8)),)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand_like(x)


class Huge(nn.Module):
    """As much memory as it is told, once it is on a device."""

    inputs = outputs = (("x", "FP32", (-1, 8)),)

    def __init__(self, gib: int) -> None:
        super().__init__()
        self.register_buffer("room", torch.zeros(1).expand(gib << 28))


class Mixed(nn.Module):
    """A mapping with a tuple in it, of x, an optional mask and a flag that the export fixes."""

    def forward(self, x: torch.Tensor, mask: torch.Tensor, flag: bool = True) -> dict[str, Any]:
        y = x * mask if flag else x
        return {"product": y, "more": (y.argmax(1), None)}


kept: list[Image] = []


def kept_image() -> Image:
    """One more, for a test to look into afterwards."""
    kept.append(Image())
    return kept[-1]


def not_a_module() -> int:
    return 1


def failing() -> nn.Module:
    raise RuntimeError("no weights\nsecond line")


def export(
    folder: Path,
    model: nn.Module,
    args: tuple[Any, ...],
    rows: torch.export.Dim | None = None,
    **kwargs: Any,
) -> Path:
    """Exports a model; `rows` is the first dimension of every tensor it takes."""
    path = folder / f"{type(model).__name__.lower()}.pt2"

    def dims(value: Any) -> dict[int, Any] | None:
        return {0: rows} if rows is not None and isinstance(value, torch.Tensor) else None

    names = list(kwargs)
    shapes = (*(dims(a) for a in args), *(dims(kwargs[name]) for name in names))
    program = torch.export.export(model.eval(), args, kwargs, dynamic_shapes=_shapes(model, shapes))
    torch.export.save(program, path)
    return path


def _shapes(model: nn.Module, shapes: tuple[Any, ...]) -> dict[str, Any]:
    return dict(zip(inspect.signature(model.forward).parameters, shapes, strict=False))
