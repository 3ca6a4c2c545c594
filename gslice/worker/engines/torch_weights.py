"""A module's parameters in memory that all workers of the model on a GPU share.

Only parameters: serving never writes to them, and buffers it may (caches, statistics), which in
memory that is read-only would be a fault for everybody on the GPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from gslice.core.types import TensorSpec
from gslice.worker.weights import Piece

if TYPE_CHECKING:
    from gslice.worker.engines.torch_memory import GpuMemory
    from gslice.worker.weights import Placed, WeightStore


def place_parameters(module: torch.nn.Module, memory: GpuMemory, store: WeightStore) -> None:
    """Moves a module's parameters into the store's memory, or takes those that are there.

    What is no plain tensor (quantised kinds, those of subclasses) stays as it is.
    """
    named = [(name, p) for name, p in module.named_parameters() if _is_plain(p)]
    pieces = [_piece(name, parameter) for name, parameter in named]

    def fill(placed: Placed) -> None:
        whole = _bytes_of(placed, memory)
        for (_, parameter), piece, offset in zip(named, pieces, placed.offsets, strict=True):
            _view(whole, piece, offset, parameter.dtype).copy_(parameter.detach())

    placed = store.place(pieces, fill)
    if placed is None:
        return
    whole = _bytes_of(placed, memory)
    for (_, parameter), piece, offset in zip(named, pieces, placed.offsets, strict=True):
        # As `Module.to` does it: whoever else has this parameter, has it moved too.
        parameter.data = _view(whole, piece, offset, parameter.dtype)


def _is_plain(parameter: torch.nn.Parameter) -> bool:
    data = parameter.data
    plain = type(parameter) is torch.nn.Parameter and type(data) is torch.Tensor
    return plain and data.layout is torch.strided and not data.is_quantized and data.numel() > 0


def _piece(name: str, parameter: torch.nn.Parameter) -> Piece:
    # Of a tensor with gaps or overlaps, torch says how it would lie without.
    like = torch.empty_like(parameter.data, device="meta")
    size_bytes = like.numel() * like.element_size()
    return Piece(name, str(like.dtype), tuple(like.shape), tuple(like.stride()), size_bytes)


def _bytes_of(placed: Placed, memory: GpuMemory) -> torch.Tensor:
    shape = (placed.size_bytes,)
    return memory.view(placed.pointer, TensorSpec("weights", "UINT8", shape), shape)


def _view(whole: torch.Tensor, piece: Piece, offset: int, dtype: torch.dtype) -> torch.Tensor:
    flat = whole[offset : offset + piece.size_bytes].view(dtype)
    return flat.as_strided(piece.shape, piece.strides, flat.storage_offset())
