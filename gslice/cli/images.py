"""Image files as the tensors that vision models take."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gslice.client.tensors import as_array
from gslice.core.errors import FailedPrecondition, InvalidArgument, NotFound
from gslice.core.types import TensorSpec

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"})
SCALES = ("auto", "unit", "symmetric", "imagenet", "none")

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)


def read_image(path: Path, spec: TensorSpec, scale: str) -> np.ndarray:
    """An image, in the layout, size and type of an input.

    Args:
        path: The file.
        spec: The input: rank 3 or 4, with 1, 3 or 4 channels first or last. Where height and width
            are fixed, the image is resized to them.
        scale: `unit` 0..1, `symmetric` -1..1, `imagenet` by its mean and deviation, `none` 0..255,
            `auto`: unit for floats, none for integers.

    Returns:
        An array of the input's type, with a batch dimension only if the input's rank is 4.

    Raises:
        FailedPrecondition: Pillow is not installed.
        InvalidArgument: it is no image, or the input has no place for one.
        NotFound: no such file.
    """
    channels_first, channels, height, width = _layout(spec)
    picture = _open(path).convert(_MODES[channels])
    if (height > 0 and width > 0) and picture.size != (width, height):
        picture = picture.resize((width, height))
    pixels = np.asarray(picture).reshape(picture.height, picture.width, channels)
    values = _scaled(pixels, scale, spec)
    if channels_first:
        values = values.transpose(2, 0, 1)
    if len(spec.dims) == 4:
        values = values[np.newaxis]
    return as_array(np.ascontiguousarray(values), spec)


def _layout(spec: TensorSpec) -> tuple[bool, int, int, int]:
    """(channels first?, channels, height, width) of an input."""
    dims = spec.dims[1:] if len(spec.dims) == 4 else spec.dims
    if len(dims) == 3 and dims[0] in _MODES:
        return True, dims[0], dims[1], dims[2]
    if len(dims) == 3 and dims[2] in _MODES:
        return False, dims[2], dims[0], dims[1]
    raise InvalidArgument(
        f"input {spec.name!r} has shape {list(spec.dims)}, which no image fits",
        hint="an image goes where there are 1, 3 or 4 channels; give a .npy file instead",
    )


def _open(path: Path) -> Image:
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise FailedPrecondition(
            f"reading {path} needs Pillow", hint="pip install pillow"
        ) from error
    try:
        picture = Image.open(path)
        picture.load()
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {path}") from error
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise InvalidArgument(f"{path} is not an image that Pillow can read") from error
    return picture


def _scaled(pixels: np.ndarray, scale: str, spec: TensorSpec) -> np.ndarray:
    is_float = spec.dtype in ("FP16", "BF16", "FP32", "FP64")
    if scale == "auto":
        scale = "unit" if is_float else "none"
    if scale == "none":
        return pixels
    if not is_float:
        raise InvalidArgument(f"--scale {scale} gives floats, but {spec.name!r} is {spec.dtype}")
    unit = pixels.astype(np.float32) / 255
    if scale == "unit":
        return unit
    if scale == "symmetric":
        return unit * 2 - 1
    if pixels.shape[-1] != 3:
        raise InvalidArgument("--scale imagenet is for images of 3 channels")
    return (unit - _IMAGENET_MEAN) / _IMAGENET_STD
