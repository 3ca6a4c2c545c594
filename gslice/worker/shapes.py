"""Shapes for runs without data: lengths that only a request knows have to be guessed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gslice.core.types import TensorSpec

Shape = tuple[int, ...]

_GUESSES = (32, 1, 64, 224)  # most models take one of them


def is_known(tensors: Sequence[TensorSpec], batched: bool) -> bool:
    """Whether the number of rows says all of the shapes."""
    first = 1 if batched else 0
    return all(dim >= 0 for tensor in tensors for dim in tensor.dims[first:])


def candidates(tensors: Sequence[TensorSpec], rows: int, batched: bool) -> list[list[Shape]]:
    """Shapes of all tensors, for each guess; one list if nothing has to be guessed.

    Args:
        tensors: Their dims have -1 where any length goes.
        rows: The batch dimension.
        batched: Whether there is one.
    """
    guesses = _GUESSES[:1] if is_known(tensors, batched) else _GUESSES
    return [[_filled(tensor, guess, rows, batched) for tensor in tensors] for guess in guesses]


def _filled(tensor: TensorSpec, guess: int, rows: int, batched: bool) -> Shape:
    dims = [guess if dim == -1 else dim for dim in tensor.dims]
    return (rows, *dims[1:]) if batched else tuple(dims)
