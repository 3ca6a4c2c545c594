"""What a node loads: from which directories, and whether it may be Python code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from gslice.core.config.document import Problem
from gslice.core.errors import PermissionDenied
from gslice.core.onnx_files import external_files
from gslice.core.sources import is_remote, plain_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from gslice.core.config.types import NodeConfig
    from gslice.core.types import FunctionSpec


def model_roots(
    given: Sequence[str], resolve: Callable[[str], str], problems: list[Problem]
) -> tuple[str, ...]:
    """The directories, and beginnings of URLs, that hold all that functions load.

    Args:
        given: As in the file.
        resolve: Makes a path of the file absolute.
        problems: Gets directories that are not there.
    """
    roots = tuple(root if is_remote(root) else resolve(root) for root in given)
    for index, root in enumerate(roots):
        if not is_remote(root) and not Path(root).is_dir():
            path = ("node", "model_roots", index)
            problems.append(Problem(path, f"{root} is not a directory"))
    return roots


def refusal(spec: FunctionSpec, node: NodeConfig) -> str:
    """Why a node does not load a function; empty: it does."""
    if spec.python and not node.python_functions:
        return f"{spec.python} is Python code, and node.python_functions is false"
    roots = [_place(root) for root in node.model_roots]
    samples = _place(str(node.samples_dir))  # gslice's own, of what a repository in the roots has
    for what, path in _loaded(spec) if roots else ():
        allowed = [*roots, samples] if what == "warmup" else roots
        if not any(_is_within(_place(path), root) for root in allowed):
            return f"{what} {path} is not in node.model_roots: {', '.join(node.model_roots)}"
    return ""


def check_allowed(spec: FunctionSpec, node: NodeConfig) -> None:
    """Called before each load: what a link leads to may have changed since the settings were read.

    Raises:
        PermissionDenied: the node does not load such a function.
    """
    if text := refusal(spec, node):
        raise PermissionDenied(f"function {spec.name}: {text}")


def _loaded(spec: FunctionSpec) -> Iterator[tuple[str, str]]:
    """What a function's workers read, as far as the function and its model say."""
    for what in ("model", "python_path", "warmup"):
        if path := spec.sources.get(what) or getattr(spec, what):
            yield what, path
    if spec.model.endswith(".onnx") and not is_remote(spec.sources.get("model", spec.model)):
        model = Path(spec.model)
        for name in external_files(model):
            yield "the model's", str(model.parent / name)


def _place(path: str) -> str:
    return plain_path(path) if is_remote(path) else os.path.realpath(path)


def _is_within(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")
