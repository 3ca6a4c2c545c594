"""Tensors that node.yaml names: all that an `identity` function has, or what a model must have."""

from __future__ import annotations

import math
from typing import Any

from pydantic import Field, model_validator

from gslice.core.config.ranges import Section
from gslice.core.config.words import wrong
from gslice.core.types import ELEMENT_BYTES


class Tensor(Section):
    """A tensor as clients see it."""

    name: str = Field(min_length=1, description="As clients say it.")
    dtype: str = Field(description="KServe's: BOOL, INT8 ... FP32, BF16, BYTES.")
    dims: list[int] = Field(description="-1 where any length goes.")

    @model_validator(mode="after")
    def _known(self) -> Tensor:
        if self.dtype not in ELEMENT_BYTES:
            raise wrong(f"{self.dtype!r} is not a data type; use {', '.join(ELEMENT_BYTES)}")
        _check_dims(self.dims)
        return self


class Identity(Section):
    """`identity`: output i is input i."""

    inputs: list[Tensor] = Field(min_length=1, description="What it takes.")
    outputs: list[Tensor] | None = Field(
        default=None, description="What it gives. Default: its inputs."
    )
    in_place: bool = Field(
        default=False, description="Answer with the input where it lies, not with a copy."
    )

    def arguments(self) -> dict[str, object]:
        """What its engine gets."""
        outputs = self.inputs if self.outputs is None else self.outputs
        tensors: dict[str, object] = {
            "inputs": [tensor.model_dump() for tensor in self.inputs],
            "outputs": [tensor.model_dump() for tensor in outputs],
        }
        return tensors | ({"in_place": True} if self.in_place else {})


class ModelTensor(Tensor):
    """A tensor that a model must have."""

    model_dims: list[int] | None = Field(
        default=None, description="What the model takes or gives, if clients see another shape."
    )

    @model_validator(mode="after")
    def _reshapes(self) -> ModelTensor:
        if self.model_dims is None:
            return self
        _check_dims(self.model_dims)
        seen, taken = self.dims, self.model_dims
        if seen[:1] == taken[:1] == [-1]:  # rows stay rows
            seen, taken = seen[1:], taken[1:]
        free = seen.count(-1)
        if free != taken.count(-1) or free > 1:
            raise wrong(
                "dims and model_dims may each have one -1 beside a first that is rows, or none"
            )
        if not free and math.prod(seen) != math.prod(taken):
            raise wrong(f"dims {self.dims} do not hold as much as model_dims {self.model_dims}")
        return self


class ModelTensors(Section):
    """`tensors`: what a model must take and give, and how clients see it."""

    batched: bool | None = Field(
        default=None, description="Whether first dimensions are rows. Default: the model shows it."
    )
    inputs: list[ModelTensor] = Field(
        default_factory=list, description="What it must take. Default: what it takes."
    )
    outputs: list[ModelTensor] = Field(
        default_factory=list, description="Those that are served. Default: all that there are."
    )

    @property
    def reshaped(self) -> bool:
        """Whether clients see a tensor in another shape than the model."""
        return any(tensor.model_dims is not None for tensor in (*self.inputs, *self.outputs))

    def arguments(self) -> dict[str, Any]:
        """What the model's engine gets: only what is written."""
        return {
            key: value for key, value in self.model_dump(exclude_none=True).items() if value != []
        }


def _check_dims(dims: list[int]) -> None:
    if any(dim < -1 or dim == 0 for dim in dims):
        raise wrong("dims are positive, or -1 where any length goes")
