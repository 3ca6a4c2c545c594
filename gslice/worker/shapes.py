"""Shapes for runs without data, some of them guessed, and the batch sizes that are worth a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gslice.core.types import Signature, TensorSpec

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


def buckets(rows_max: int, lowest: int = 1) -> tuple[int, ...]:
    """Batch sizes worth preparing: powers of two from `lowest` on, and the largest."""
    powers = (1 << power for power in range(rows_max.bit_length()))
    return tuple(sorted({lowest, rows_max, *(p for p in powers if lowest < p < rows_max)}))


def with_buckets(signature: Signature) -> Signature:
    """Where the number of rows says all shapes: batches are padded to sizes that are prepared."""
    tensors = (*signature.inputs, *signature.outputs)
    if not signature.rows_max or signature.buckets or not is_known(tensors, True):
        return signature
    return replace(signature, buckets=buckets(signature.rows_max))
