"""`GSLICE_NODE__GRPC=...`: every setting of node.yaml from the environment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from gslice.core.config.document import parse_value
from gslice.core.config.problems import nearest
from gslice.core.config.types import Override
from gslice.core.errors import ConfigError

_PREFIX = "GSLICE_"
_SECTIONS = ("node", "devices", "defaults", "functions")


def environment_overrides(environ: Mapping[str, str], data: Mapping[str, Any]) -> list[Override]:
    """The settings that the environment gives.

    Args:
        environ: The environment; only names with `GSLICE_` and a double underscore are read.
        data: The file as read: functions, devices and arguments are matched by their names there,
            with every character but letters and digits as an underscore.

    Raises:
        ConfigError: names of sections or functions that there are not, all in one.
    """
    overrides, problems = [], []
    for variable in sorted(environ):
        if not variable.startswith(_PREFIX) or "__" not in variable:
            continue
        try:
            overrides.append(_override(variable, environ[variable], data))
        except ConfigError as error:
            problems.append(f"{variable}: {error.message}")
    if problems:
        raise ConfigError("\n".join(problems))
    return overrides


def without_functions(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment less its settings of functions."""
    about = f"{_PREFIX}FUNCTIONS__"
    return {name: text for name, text in environ.items() if not name.startswith(about)}


def _override(variable: str, text: str, data: Mapping[str, Any]) -> Override:
    words = variable.removeprefix(_PREFIX).split("__")
    section = words[0].lower()
    if section not in _SECTIONS:
        raise ConfigError("no such setting" + nearest(section, _SECTIONS))
    if not all(words) or len(words) < 2:
        raise ConfigError("not a setting; write it as GSLICE_NODE__GRPC")
    path: list[str] = [section]
    here: Any = data.get(section)
    for depth, word in enumerate(words[1:]):
        key = _matching(word, here)
        if section == "functions" and depth == 0 and key is None:
            raise ConfigError(
                f"no function {word.lower()!r} in the file" + nearest(word, here or {})
            )
        if key is None:
            # Variables of the environment keep their case; keys of the file are lower case.
            key = word if path[-1] == "environment" else word.lower()
        path.append(key)
        here = here.get(key) if isinstance(here, Mapping) else None
    return Override(tuple(path), _value(text), variable)


def _matching(word: str, here: Any) -> str | None:
    if not isinstance(here, Mapping):
        return None
    matches = [key for key in here if _variable_part(str(key)) == word.upper()]
    if len(matches) > 1:
        raise ConfigError(f"{word} could be {' or '.join(matches)}; set it in the file")
    return matches[0] if matches else None


def _variable_part(key: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "_", key).upper()


def _value(text: str) -> Any:
    return parse_value(text) if text else ""
