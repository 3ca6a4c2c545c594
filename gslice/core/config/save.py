"""Writing run-time changes back into node.yaml: only what changed, comments and order kept."""

from __future__ import annotations

import io
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.util import load_yaml_guess_indent

from gslice.core.config.body import as_written, compact_body, flow, leaves
from gslice.core.config.document import new_yaml
from gslice.core.config.load import load_config_text
from gslice.core.types import FunctionSpec


def save_functions(path: Path, changes: Mapping[str, FunctionSpec | None]) -> None:
    """Makes the file say what runs; it is replaced in one step, or left as it was.

    Args:
        path: A node.yaml.
        changes: Functions as they run, by name; None: the function was removed.

    Raises:
        NotFound, ConfigError: the file as it stands cannot be read.
    """
    path = path.resolve()
    text = path.read_text(encoding="utf-8")
    edited = _edited(path, text, changes)
    if edited != text:
        _replace(path, edited)


def _edited(path: Path, text: str, changes: Mapping[str, FunctionSpec | None]) -> str:
    """The new text: the smallest edit that reads back as the functions given."""
    written = load_config_text(text, path).functions
    yaml = _yaml_like(text)
    tree = yaml.load(text)
    functions = tree.get("functions")
    if functions is None:
        functions = tree["functions"] = CommentedMap()
    for name, spec in changes.items():
        if spec is None:
            functions.pop(name, None)
        elif name not in written:
            functions[name] = compact_body(spec, path.parent)
        else:
            _edit(functions[name], written[name], spec, path.parent)
    result = _dumped(yaml, tree)
    # A setting at its default was left out above, but the file's own defaults may say otherwise.
    saved = load_config_text(result, path).functions
    for name, spec in changes.items():
        if spec is not None and saved[name] != spec:
            _edit(functions[name], saved[name], spec, path.parent)
    return _dumped(yaml, tree)


def _edit(body: CommentedMap, old: FunctionSpec, new: FunctionSpec, base_dir: Path) -> None:
    was, wanted = leaves(old, base_dir), leaves(new, base_dir)
    for keys in was.keys() - wanted.keys():
        parent = body.get(keys[0]) if len(keys) > 1 else body
        if isinstance(parent, CommentedMap):
            parent.pop(keys[-1], None)
    for keys, value in wanted.items():
        if keys in was and was[keys] == value:
            continue
        parent = body
        for key in keys[:-1]:
            if not isinstance(parent.get(key), CommentedMap):
                parent[key] = flow(CommentedMap())
            parent = parent[key]
        parent[keys[-1]] = as_written(value)


def _yaml_like(text: str) -> YAML:
    """A writer that indents as the text does."""
    yaml = new_yaml()
    _, sequence, offset = load_yaml_guess_indent(text)
    mapping = re.search(r"^( +)[^\s#-]", text, re.MULTILINE)
    yaml.indent(
        mapping=len(mapping[1]) if mapping else 2, sequence=sequence or 2, offset=offset or 0
    )
    return yaml


def _dumped(yaml: YAML, tree: Any) -> str:
    stream = io.StringIO()
    yaml.dump(tree, stream)
    return stream.getvalue()


def _replace(path: Path, text: str) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        shutil.copymode(path, temporary)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
