"""Which class of a model.py can be served. The file is read and not run."""

from __future__ import annotations

import ast
from pathlib import Path

from gslice.core.errors import ConfigError, Unimplemented

_TRITONS = "TritonPythonModel"
_BLS = "InferenceRequest"


def served_class(path: Path) -> str:
    """The name of the one class that gslice's python engine can run: it has an `infer`.

    Raises:
        Unimplemented: there is none, or it is Triton's.
        ConfigError: it is no Python.
    """
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # nested too deeply
        line = getattr(error, "lineno", None) or 1
        raise ConfigError(f"{path}:{line}: no Python that can be read: {error}") from error
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    if any(node.name == _TRITONS for node in classes):
        _refuse_tritons(path, tree)
    served = [node.name for node in classes if "infer" in _methods(node)]
    if len(served) != 1:
        found = f"{len(served)} of them: {', '.join(served)}" if served else "none"
        raise Unimplemented(
            f"{path} must have one class with an `infer`, and has {found}",
            hint="write one as docs/python_functions.md shows, with inputs, outputs and infer",
        )
    return served[0]


def _refuse_tritons(path: Path, tree: ast.Module) -> None:
    calls = any(isinstance(node, ast.Attribute) and node.attr == _BLS for node in ast.walk(tree))
    what = "calls other models (BLS) as a TritonPythonModel" if calls else "is a TritonPythonModel"
    raise Unimplemented(
        f"{path} {what}, which only Triton's python backend runs",
        hint="move what its execute() computes into a class with inputs, outputs and"
        " infer(inputs), which takes the arrays of a whole batch"
        + ("; call the other models from the client" if calls else ""),
    )


def _methods(node: ast.ClassDef) -> set[str]:
    return {each.name for each in node.body if isinstance(each, ast.FunctionDef)}
