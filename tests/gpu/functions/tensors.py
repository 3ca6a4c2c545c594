"""Functions for the torch engine."""

from __future__ import annotations

import torch


class Affine(torch.nn.Module):
    """y = 2 x + 1, exactly."""

    inputs = (("x", "FP32", (-1, 64)),)
    outputs = (("y", "FP32", (-1, 64)),)
    batch_max = 8

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x + 1


class Lookup(torch.nn.Module):
    """y = table[x]; a number outside of the table faults on the GPU."""

    inputs = (("x", "INT64", (-1, 1)),)
    outputs = (("y", "FP32", (-1, 1)),)
    batch_max = 8

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.arange(16, dtype=torch.float32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.table.gather(0, x.flatten()).reshape(x.shape)


def affine() -> torch.nn.Module:
    return Affine()


def lookup() -> torch.nn.Module:
    return Lookup()
