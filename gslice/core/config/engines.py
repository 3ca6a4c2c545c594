"""Which engine runs a model: as the file's name says, or as is written; and what it is told."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from gslice.core.config.ranges import Section
from gslice.core.config.words import wrong
from gslice.core.plans import LIBRARIES, is_plan
from gslice.core.sources import plain_path

Engine = Annotated[
    Literal["auto", "onnxruntime", "torch", "tensorrt", "tensorrt_rtx"],
    Field(description="What runs `model`; auto: .onnx onnxruntime, .pt2 torch, .plan tensorrt."),
]
_SHAPE_EXAMPLE = "{min: [-1, 16], opt: [-1, 128], max: [-1, 512]}"

Lengths = Annotated[list[int], Field(min_length=1, max_length=8)]


class Shapes(Section):
    """`shapes.<input>`: lengths that a model leaves open; -1 first for the rows of a batch."""

    min: Lengths = Field(description="The least.")
    opt: Annotated[Lengths, Field(description="What kernels are chosen for.")]
    max: Lengths = Field(description="The most.")

    @model_validator(mode="after")
    def _ascend(self) -> Shapes:
        ends = (self.min, self.opt, self.max)
        if any(length < 1 for shape in ends for length in shape[1:]) or any(
            shape[0] < 1 and shape[0] != -1 for shape in ends
        ):
            raise wrong(f"lengths are positive, or -1 first for rows, as in {_SHAPE_EXAMPLE}")
        if len({len(shape) for shape in ends}) > 1 or len({shape[0] == -1 for shape in ends}) > 1:
            raise wrong(f"min, opt and max are of one form, as in {_SHAPE_EXAMPLE}")
        if any(not a <= b <= c for a, b, c in zip(*ends, strict=True)):
            raise wrong(f"no length of opt is below min or above max, as in {_SHAPE_EXAMPLE}")
        return self


def is_exported(path: str | None) -> bool:
    """Whether a model is one of torch.export."""
    return path is not None and plain_path(path).endswith(".pt2")


def engine_of(path: str, given: str = "auto") -> str:
    """The engine of a model.

    Args:
        path: Of the model.
        given: As it is written.
    """
    if given != "auto":
        return given
    if is_exported(path):
        return "torch"
    return "tensorrt" if is_plan(path) else "onnxruntime"


def check_engine(model: str | None, engine: str, shapes: object) -> None:
    """Sees that what is written of the engine fits the model.

    Args:
        model: Its path; None: it is no file.
        engine: As it is written.
        shapes: Whether there are any.

    Raises:
        PydanticCustomError: It does not.
    """
    if model is None:
        if engine != "auto" or shapes:
            raise wrong(f"{'shapes' if engine == 'auto' else 'engine'} goes with model only")
        return
    chosen = engine_of(model, engine)
    can: tuple[str, ...] = ("onnxruntime", *LIBRARIES)
    if is_exported(model) or is_plan(model):
        can = ("torch",) if is_exported(model) else LIBRARIES
    if chosen not in can:
        raise wrong(f"engine: {chosen} does not run {model}; use {', '.join(can)}")
    if shapes and chosen not in LIBRARIES:
        raise wrong(f"shapes goes with engine {', '.join(LIBRARIES)} only")
