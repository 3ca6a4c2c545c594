"""What the user's code declares about itself: a class or a factory, its tensors, its batches.

`inputs` and `outputs` are attributes, or methods that give them: each a list of
`(name, KServe type, dims)` or of `gslice.core.types.TensorSpec`. `batch_max` is optional.
"""

from __future__ import annotations

import importlib
import logging
import sys
from typing import TYPE_CHECKING, Any

from gslice.core.errors import LoadFailed
from gslice.core.types import ELEMENT_BYTES, Signature, TensorSpec
from gslice.worker.engines.base import DEFAULT_ROWS_MAX, is_batchable

if TYPE_CHECKING:
    from gslice.core.types import FunctionSpec

_log = logging.getLogger(__name__)


def find_object(spec: FunctionSpec, kind: str) -> Any:
    """What `spec.python` names, imported.

    Args:
        spec: The function.
        kind: What it should be, for people.

    Raises:
        LoadFailed: The module cannot be imported, or has no such thing.
    """
    module_name, _, name = spec.python.partition(":")
    if spec.python_path and spec.python_path not in sys.path:
        sys.path.insert(0, spec.python_path)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        where = f" in {spec.python_path}" if error.name == module_name else ""
        raise LoadFailed(f"function {spec.name}: no module {error.name!r}{where}") from error
    except Exception as error:
        _log.exception("importing %s failed", module_name)
        raise LoadFailed(
            f"function {spec.name}: importing {module_name}: {type(error).__name__}: {error}"
        ) from error
    found = getattr(module, name, None)
    if found is None:
        raise LoadFailed(f"function {spec.name}: {module_name} has no {kind} {name!r}")
    return found


def declared_signature(spec: FunctionSpec, owner: Any) -> Signature:
    """The signature as the user's object declares it.

    Raises:
        LoadFailed: It declares none, or not as it should.
    """
    inputs = _tensors(spec, owner, "inputs")
    outputs = _tensors(spec, owner, "outputs")
    return Signature(inputs, outputs, _rows_max(spec, owner, inputs, outputs))


def _tensors(spec: FunctionSpec, owner: Any, kind: str) -> tuple[TensorSpec, ...]:
    declared = getattr(owner, kind, None)
    try:
        if callable(declared):
            declared = declared()
        tensors = tuple(_tensor(item) for item in declared or ())
    except Exception as error:
        raise LoadFailed(
            f"function {spec.name}: {spec.python}.{kind}: {type(error).__name__}: {error}",
            hint="each is (name, type, dims), such as ('image', 'FP32', [-1, 3, 224, 224])",
        ) from error
    if not tensors:
        raise LoadFailed(
            f"function {spec.name}: {spec.python} declares no {kind}",
            hint=f"{kind} = [('x', 'FP32', [-1, 4])] in the class",
        )
    return tensors


def _tensor(item: Any) -> TensorSpec:
    name, dtype, dims = (item.name, item.dtype, item.dims) if isinstance(item, TensorSpec) else item
    if dtype not in ELEMENT_BYTES:
        raise ValueError(f"{dtype!r} is no KServe type; use {', '.join(ELEMENT_BYTES)}")
    return TensorSpec(str(name), dtype, tuple(int(dim) for dim in dims))


def _rows_max(
    spec: FunctionSpec, owner: Any, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> int:
    own = getattr(owner, "batch_max", None)
    if own == 0 or not is_batchable(inputs, outputs):
        return 0
    if own is None:
        return spec.batch_max or DEFAULT_ROWS_MAX
    return min(int(own), spec.batch_max or int(own))
