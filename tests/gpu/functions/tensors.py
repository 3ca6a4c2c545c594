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


class Weighted(torch.nn.Module):
    """y = 3 x, by 256 MiB of weights and a buffer."""

    inputs = (("x", "FP32", (-1, 8192)),)
    outputs = (("y", "FP32", (-1, 8192)),)
    batch_max = 4

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(2 * torch.eye(8192))
        self.register_buffer("one", torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight + x * self.one


def weighted() -> torch.nn.Module:
    return Weighted()


def affine() -> torch.nn.Module:
    return Affine()


def lookup() -> torch.nn.Module:
    return Lookup()
