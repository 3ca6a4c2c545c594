"""Between KServe's words and torch's: data types and precisions."""

from __future__ import annotations

import torch

TORCH_TYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool,
    "UINT8": torch.uint8,
    "UINT16": torch.uint16,
    "UINT32": torch.uint32,
    "UINT64": torch.uint64,
    "INT8": torch.int8,
    "INT16": torch.int16,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "FP16": torch.float16,
    "BF16": torch.bfloat16,
    "FP32": torch.float32,
    "FP64": torch.float64,
}
"""KServe data type -> torch's."""

KSERVE_TYPES = {kind: name for name, kind in TORCH_TYPES.items()}

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""A function's `precision` -> what the floating numbers of its model become."""
