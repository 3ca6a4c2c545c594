"""Putting changed functions into a node.yaml's text, every other line left as it was written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ruamel.yaml.comments import CommentedMap

from gslice.core.config.document import new_yaml


@dataclass(frozen=True)
class _Span:
    """A function's lines, counted from 0.

    Attributes:
        above: First line of the comment right above its key.
        key: The line with its key.
        end: The line after its last.
    """

    above: int
    key: int
    end: int


def spliced(text: str, bodies: Mapping[str, str]) -> str:
    """The text with these functions in place of those of the same name, or after the last.

    Args:
        text: Of a node.yaml.
        bodies: By function: YAML of a mapping with the function in it, as indented as the text;
            empty: the function goes, and the comment above it.

    Returns:
        The new text, which the caller must check; empty when `functions` is not written as a
        function a line.
    """
    functions = new_yaml().load(text).get("functions")
    if not isinstance(functions, CommentedMap) or functions.fa.flow_style() or not functions:
        return ""
    lines = text.splitlines(keepends=True)
    if not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    spans = _spans(text, functions, lines)
    last = max(span.end for span in spans.values())
    edits = [
        (spans[name].key if body else spans[name].above, spans[name].end, _body_lines(body))
        if name in spans
        else (last, last, _body_lines(body))
        for name, body in bodies.items()
    ]
    for start, end, body in sorted(edits, key=lambda edit: edit[:2], reverse=True):
        lines[start:end] = body
    return "".join(lines)


def _spans(text: str, functions: Any, lines: list[str]) -> dict[str, _Span]:
    tops = [place[0] for place in new_yaml().load(text).lc.data.values()]
    keys = {str(name): place[0] for name, place in functions.lc.data.items()}
    starts = sorted({*tops, *keys.values(), len(lines)})
    spans = {}
    for name, key in keys.items():
        end = next(start for start in starts if start > key)
        while _is_comment_or_blank(lines[end - 1]):
            end -= 1
        above = key
        while lines[above - 1].lstrip().startswith("#"):
            above -= 1
        spans[name] = _Span(above, key, end)
    return spans


def _body_lines(body: str) -> list[str]:
    """The lines of the function alone, without the mapping around it or comments after it."""
    lines = body.splitlines(keepends=True)[1:]
    while lines and _is_comment_or_blank(lines[-1]):
        lines.pop()
    return lines


def _is_comment_or_blank(line: str) -> bool:
    return not line.strip() or line.lstrip().startswith("#")
