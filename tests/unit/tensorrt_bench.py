"""What tests of TensorRT's plans have in common."""

from __future__ import annotations

from typing import Any


def shapes(least: list[int], usual: list[int], most: list[int]) -> dict[str, Any]:
    return {"min": least, "opt": usual, "max": most}
