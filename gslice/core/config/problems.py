"""What pydantic found, in words that tell what to write instead."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from gslice.core.config.document import KeyPath, Problem

_KINDS = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list, as in [a, b]",
    "dict_type": "a mapping, as in {key: value}",
    "model_type": "a mapping, as in {key: value}",
}


def problems_of(error: ValidationError, model: type[BaseModel], data: object) -> list[Problem]:
    """Every error of a validation.

    Args:
        error: What pydantic raised.
        model: The model that was validated.
        data: What was given to it; tells parts of its path from names of union members.
    """
    return [_problem(details, model, data) for details in error.errors(include_url=False)]


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'share'?`, or a list of what there is when nothing is near."""
    names = list(known)
    near = difflib.get_close_matches(word.lower(), names, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; there is {', '.join(names)}" if names else ""


def _problem(details: ErrorDetails, model: type[BaseModel], data: object) -> Problem:
    path = _given_path(details["loc"], data)
    kind, value, context = details["type"], details["input"], details.get("ctx", {})
    if kind == "extra_forbidden":
        return Problem(path, "unknown key" + nearest(str(path[-1]), _keys_at(model, path[:-1])))
    if kind == "missing":
        example = "; write `version: 1`" if path == ("version",) else ""
        return Problem(path, f"required, but not given{example}")
    if kind == "literal_error":
        return Problem(path, f"{_shown(value)} is not one of {context['expected']}")
    if kind in _KINDS:
        return Problem(path, f"must be {_KINDS[kind]}, not {_shown(value)}")
    if kind in ("greater_than_equal", "less_than_equal"):
        bound = context.get("ge", context.get("le"))
        return Problem(
            path, f"must be at {'least' if 'ge' in context else 'most'} {bound}, not {value}"
        )
    if kind in ("too_short", "string_too_short"):
        return Problem(path, "must not be empty")
    text = details["msg"]
    return Problem(path, text if kind == "gslice" else text[:1].lower() + text[1:])


def _given_path(location: tuple[int | str, ...], data: object) -> KeyPath:
    """Location without pydantic's own parts: union members and `[key]` marks."""
    path: list[int | str] = []
    here: Any = data
    for index, part in enumerate(location):
        if part == "[key]":
            continue
        if isinstance(here, dict) and (part in here or index == len(location) - 1):
            here = here.get(part)
        elif isinstance(here, list) and isinstance(part, int) and part < len(here):
            here = here[part]
        else:
            continue
        path.append(part)
    return tuple(path)


def _keys_at(model: type[BaseModel], path: KeyPath) -> list[str]:
    """The keys that the mapping at `path` may have."""
    here: Any = model
    for part in path:
        here = _inside(here, str(part))
    here = _model_in(here)
    return list(here.model_fields) if here is not None else []


def _inside(annotation: Any, key: str) -> Any:
    model = _model_in(annotation)
    if model is not None and key in model.model_fields:
        return model.model_fields[key].annotation
    for candidate in (annotation, *typing.get_args(annotation)):
        if typing.get_origin(candidate) in (dict, list):
            return typing.get_args(candidate)[-1]
    return None


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in typing.get_args(annotation):
        found = None if typing.get_origin(argument) in (dict, list) else _model_in(argument)
        if found is not None:
            return found
    return None


def _shown(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
