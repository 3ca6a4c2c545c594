"""A YAML text as plain values that remember where they were written."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from gslice.core.config.types import Override
from gslice.core.errors import ConfigError

KeyPath = tuple[str | int, ...]

NODES_MAX = 100_000  # aliases can make a small text arbitrarily large
DEPTH_MAX = 32  # and endlessly deep


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        path: Keys from the top of the document.
        text: What is wrong, and what would be right.
    """

    path: KeyPath
    text: str


@dataclass
class Document:
    """A parsed text.

    Attributes:
        name: What errors call it, such as `node.yaml`.
        data: Plain dicts, lists and scalars.
        lines: The line of each key and item, counted from 1.
        origins: Where an overridden setting comes from instead.
        prefix: Keys in front of every path, when the text is only a part of a node.yaml.
    """

    name: str
    data: dict[str, Any]
    lines: dict[KeyPath, int] = field(default_factory=dict)
    origins: dict[KeyPath, str] = field(default_factory=dict)
    prefix: KeyPath = ()

    def error(self, problems: Iterable[Problem]) -> ConfigError:
        """All problems as one error, a line each, in the order of the text."""
        places = {problem: self._place(problem.path) for problem in problems}
        placed = sorted(((place, problem) for problem, place in places.items()), key=_by_place)
        return ConfigError("\n".join(self._line(*entry) for entry in placed))

    def override(self, override: Override) -> None:
        """Replaces or adds one setting; mappings on the way are made."""
        here = self.data
        for key in override.path[:-1]:
            if not isinstance(here.get(key), dict):
                here[key] = {}
            here = here[key]
        here[override.path[-1]] = override.value
        self.origins[override.path] = override.origin

    def _place(self, path: KeyPath) -> tuple[int, str]:
        """(line, origin) of the nearest part of `path` that has a place; line 0 for an origin."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.origins:
                return 0, self.origins[path[:length]]
            if path[:length] in self.lines:
                return self.lines[path[:length]], ""
        return 1, ""

    def _line(self, place: tuple[int, str], problem: Problem) -> str:
        line, origin = place
        where = origin or f"{self.name}:{line}"
        key = ".".join(str(part) for part in self.prefix + problem.path)
        return f"{where}: {key}: {problem.text}" if key else f"{where}: {problem.text}"


def _by_place(entry: tuple[tuple[int, str], Problem]) -> tuple[int, str]:
    return entry[0]


def new_yaml() -> YAML:
    """A YAML 1.2 reader and writer that keeps comments, quotes and order."""
    yaml = YAML(typ="rt")
    yaml.preserve_quotes = True
    yaml.width = 4096  # never fold a line that a person wrote
    return yaml


def parse_document(text: str, name: str, prefix: KeyPath = ()) -> Document:
    """Reads a text whose top is a mapping.

    Args:
        text: YAML 1.2 (and so JSON).
        name: What errors call it.
        prefix: Keys in front of every path in errors.

    Raises:
        ConfigError: not YAML, a key given twice, or something else than a mapping on top.
    """
    if _bracket_depth(text) > DEPTH_MAX:  # the reader takes minutes for what it then refuses
        raise ConfigError(f"{name}:1: nested more than {DEPTH_MAX} levels deep")
    try:
        tree = new_yaml().load(text)
    except MarkedYAMLError as error:
        raise ConfigError(_syntax_error(error, name)) from error
    except RecursionError as error:
        raise ConfigError(f"{name}:1: nested more than {DEPTH_MAX} levels deep") from error
    except (YAMLError, ValueError) as error:
        raise ConfigError(f"{name}:1: not valid YAML: {_one_line(str(error))}") from error
    if tree is None:
        tree = CommentedMap()
    if not isinstance(tree, CommentedMap):
        raise ConfigError(f"{name}:1: the file must be a mapping of keys to values")
    document = Document(name, {}, prefix=prefix)
    plain = _Plainer(document).plain(tree, ())
    # `functions:` with nothing, or only comments, under it means what leaving it out means.
    document.data = {key: value for key, value in plain.items() if value is not None}
    return document


def parse_value(text: str) -> Any:
    """One YAML value, such as `{min: 20%, max: 60%}`, as plain values.

    Raises:
        ConfigError: not YAML.
    """
    try:
        return _Plainer(Document("", {})).plain(new_yaml().load(text), ())
    except (YAMLError, ValueError, RecursionError) as error:
        shown = text if len(text) <= 60 else text[:57] + "..."
        raise ConfigError(f"{shown!r} is not valid YAML") from error


@dataclass
class _Plainer:
    document: Document
    nodes: int = 0

    def plain(self, node: Any, path: KeyPath) -> Any:
        self.nodes += 1
        if self.nodes > NODES_MAX:
            raise ConfigError(f"{self.document.name}:1: more than {NODES_MAX} values")
        if len(path) > DEPTH_MAX:
            raise ConfigError(f"{self.document.name}:1: nested more than {DEPTH_MAX} levels deep")
        if isinstance(node, Mapping):
            return self._mapping(node, path)
        if isinstance(node, CommentedSeq):
            return self._sequence(node, path)
        if isinstance(node, bool) or node is None:
            return node
        # ruamel's scalars remember their notation; what is checked must be plain.
        for kind in (int, float, str):
            if isinstance(node, kind):
                return kind(node)
        return str(node)

    def _mapping(self, node: Mapping[Any, Any], path: KeyPath) -> dict[str, Any]:
        written = node.lc.data or {} if isinstance(node, CommentedMap) else {}
        plain = {}
        for key, value in node.items():
            name = str(key)
            if key in written:  # not so for keys merged in by `<<`
                self.document.lines[(*path, name)] = written[key][0] + 1
            plain[name] = self.plain(value, (*path, name))
        return plain

    def _sequence(self, node: CommentedSeq, path: KeyPath) -> list[Any]:
        for index in range(len(node)):
            self.document.lines[(*path, index)] = node.lc.item(index)[0] + 1
        return [self.plain(item, (*path, index)) for index, item in enumerate(node)]


def _bracket_depth(text: str) -> int:
    """How many brackets are open at once at most; those in texts and comments count too."""
    steps = (1 if mark in "[{" else -1 for mark in re.findall(r"[\[\]{}]", text))
    return max(itertools.accumulate(steps), default=0)


def _syntax_error(error: MarkedYAMLError, name: str) -> str:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark is not None else 1
    problem = _one_line(str(error.problem or error.context or "cannot be read"))
    if isinstance(error, DuplicateKeyError):
        key = problem.split('"')[1] if problem.count('"') >= 2 else "a key"
        return f"{name}:{line}: {key}: given twice; keep one"
    if "\\t" in problem:
        return f"{name}:{line}: a tab in the indentation; YAML takes spaces only"
    return f"{name}:{line}: not valid YAML: {problem}"


def _one_line(text: str) -> str:
    return " ".join(text.split())
