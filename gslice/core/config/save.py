"""Writing run-time changes back into node.yaml: only what changed, comments and order kept."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.util import load_yaml_guess_indent

from gslice.core.config.body import as_written, compact_body, flow, leaves
from gslice.core.config.document import new_yaml
from gslice.core.config.load import load_config_text
from gslice.core.config.splice import spliced
from gslice.core.errors import FailedPrecondition
from gslice.core.files import replace_file
from gslice.core.types import FunctionSpec

Functions = dict[str, FunctionSpec]
Changes = Mapping[str, FunctionSpec | None]


def save_functions(path: Path, changes: Changes, gpus: Sequence[str] = ()) -> None:
    """Makes the file say what runs; it is replaced in one step, or left as it was.

    Args:
        path: A node.yaml.
        changes: Functions as they run, by name; None: the function was removed.
        gpus: Names of the GPUs that `devices: auto` stands for.

    Raises:
        ConfigError: the file as it stands is wrong.
        FailedPrecondition: its way of writing leaves no room for the change, or the system does not
            let it be replaced.
    """
    path = path.resolve()
    try:
        text = path.read_text(encoding="utf-8")
        edited = _edited(path, text, changes, gpus)
        if edited != text:
            replace_file(path, edited.encode())
    except OSError as error:
        raise FailedPrecondition(
            f"cannot write {path}: {error.strerror}",
            hint="its directory must be writable, too: the file is replaced in one step",
        ) from error


def _edited(path: Path, text: str, changes: Changes, gpus: Sequence[str]) -> str:
    """The new text: the smallest edit that reads back as the functions given."""

    def functions_of(text: str) -> Functions:
        return load_config_text(text, path, gpus).functions

    written = functions_of(text)
    wanted = {name: spec for name, spec in {**written, **changes}.items() if spec is not None}
    if wanted == written:
        return text
    yaml = _yaml_like(text)
    tree = yaml.load(text)
    functions = tree.get("functions")
    if functions is None:
        functions = tree["functions"] = CommentedMap()
    for name in written.keys() - wanted.keys():
        del functions[name]
    for name, spec in wanted.items():
        if name not in written:
            functions[name] = compact_body(spec, path.parent)
        elif written[name] != spec:
            _edit(functions[name], written[name], spec, path.parent)
    # A setting at its default was left out above, but the file's own defaults may say otherwise.
    for name, spec in functions_of(_dumped(yaml, tree)).items():
        if name in wanted and spec != wanted[name]:
            _edit(functions[name], spec, wanted[name], path.parent)
    changed = [name for name, spec in wanted.items() if written.get(name) != spec]
    bodies = {name: _dumped(yaml, CommentedMap({"_": {name: functions[name]}})) for name in changed}
    for candidate in (
        spliced(text, {**dict.fromkeys(written.keys() - wanted.keys(), ""), **bodies}),
        _dumped(yaml, tree),
    ):
        if candidate and functions_of(candidate) == wanted:
            return candidate
    raise FailedPrecondition(
        f"{path} is written in a way that cannot be edited safely",
        hint="change it by hand as `gslice diff` says",
    )


def _edit(body: CommentedMap, old: FunctionSpec, new: FunctionSpec, base_dir: Path) -> None:
    was, wanted = leaves(old, base_dir), leaves(new, base_dir)
    for keys in was.keys() - wanted.keys():
        parent = body.get(keys[0]) if len(keys) > 1 else body
        if isinstance(parent, CommentedMap):
            parent.pop(keys[-1], None)
            if not parent:  # what is left of it could say something where it says nothing
                body.pop(keys[0], None)
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
