"""Settings about files that may be fetched: from their shape in the file to what is gone by."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from gslice.core.config.ranges import Section
from gslice.core.config.types import ModelCacheConfig
from gslice.core.config.words import PositiveSize, wrong
from gslice.core.errors import InvalidArgument
from gslice.core.plans import default_cache_dir
from gslice.core.sources import Source, is_remote


def _location(value: str) -> str:
    if is_remote(value):
        try:
            Source.parse(value)
        except InvalidArgument as error:
            raise wrong(error.message) from error
    return value


Location = Annotated[str, AfterValidator(_location)]
"""A path, or a URL from which the file can be fetched."""


class ModelCache(Section):
    """`node.model_cache`: where what functions name by a URL is kept."""

    dir: str = Field(default="", description="Default: models in $GSLICE_CACHE_DIR.")
    max: PositiveSize = Field(default=32 << 30, description="Of all of it together.")


class Warmup(Section):
    """`warmup`: requests that must run before the function serves."""

    samples: Location = Field(default="", description="An .npz or a .json. Default: zeros.")
    count: int = Field(default=0, ge=0, description="How many of them are run; 0: all.")


def samples(value: Any) -> Any:
    """The samples alone, as they may be written."""
    return {"samples": value} if isinstance(value, str) else value


def model_cache(cache: ModelCache, base: Path, environ: Mapping[str, str]) -> ModelCacheConfig:
    """Where models are kept, and how many.

    Args:
        cache: As in the file.
        base: Directory that a relative path starts from.
        environ: The environment, for where it is when nobody says.
    """
    directory = default_cache_dir(environ) / "models"
    if cache.dir:
        directory = Path(os.path.normpath(base / Path(cache.dir).expanduser()))
    return ModelCacheConfig(directory, cache.max)
