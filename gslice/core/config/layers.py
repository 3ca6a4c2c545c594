"""A function's settings over the defaults of its file."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel

from gslice.core.config.model import Resident

if TYPE_CHECKING:
    from gslice.core.config.model import Defaults, Function

_Section = TypeVar("_Section", bound=BaseModel)


def over(below: _Section, above: _Section) -> _Section:
    """`above` where it was written, else `below`."""
    return below.model_copy(update={key: getattr(above, key) for key in above.model_fields_set})


def resident_over(below: Defaults, above: Function) -> Resident:
    """Likewise, of the settings of both that say when a function is resident."""
    keys = Resident.model_fields
    given = {key: getattr(above, key) for key in keys if key in above.model_fields_set}
    return Resident.model_construct(**{key: getattr(below, key) for key in keys} | given)
