"""What an exported program (`.pt2`) says about itself: its tensors, and which of them hold rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree

from gslice.core.errors import LoadFailed
from gslice.core.types import Signature, TensorSpec
from gslice.worker.engines.base import DEFAULT_ROWS_MAX, fixed_batch
from gslice.worker.engines.stated import Stated
from gslice.worker.engines.torch_types import KSERVE_TYPES
from gslice.worker.shapes import buckets

if TYPE_CHECKING:
    from gslice.core.types import FunctionSpec

_SMALLEST_CHECKED = 3  # torch.export runs batches of 0 and 1 wherever it may run 2
_UNLIMITED = 1 << 20


@dataclass(frozen=True)
class _Leaf:
    """A tensor among the program's arguments or results.

    Attributes:
        tensor: As it is served.
        rows: The symbol of its first dimension; empty where that is a number, or there is none.
    """

    tensor: TensorSpec
    rows: str


class ProgramReader:
    """Reads a loaded program.

    Args:
        spec: The function that it is.
        program: A torch.export.ExportedProgram.

    Raises:
        LoadFailed: It takes or gives something that cannot be served.
    """

    def __init__(self, spec: FunctionSpec, program: Any) -> None:
        self._spec = spec
        self._program = program
        self._values = {node.name: node.meta.get("val") for node in program.graph.nodes}
        self._arguments = self._read_arguments()
        self._results = self._read_results()
        self.signature = Stated(spec).served(self._read_signature(), by_place=True)

    def flat_arguments(self, tensors: Sequence[torch.Tensor]) -> list[Any]:
        """The leaves of the program's arguments: the tensors, and what the export has fixed."""
        given = iter(tensors)
        return [next(given) if isinstance(a, _Leaf) else a for a in self._arguments]

    def tensors_of(self, results: Any) -> list[torch.Tensor]:
        """The tensors of what the program returned, in the signature's order."""
        leaves = pytree.tree_leaves(results)
        return [leaves[index] for index in self._results]

    def _read_arguments(self) -> list[Any]:
        specs = self._program.graph_signature.input_specs
        used = [item.arg for item in specs if item.kind.name == "USER_INPUT"]
        return [
            arg.value if hasattr(arg, "value") else self._leaf("input", arg.name, arg.name)
            for arg in used
        ]

    def _read_results(self) -> dict[int, _Leaf]:
        """The tensors among the results, by their place."""
        structure = self._program.call_spec.out_spec
        numbered = pytree.tree_unflatten(list(range(structure.num_leaves)), structure)
        paths, _ = pytree.tree_flatten_with_path(numbered)
        specs = self._program.graph_signature.output_specs
        args = [item.arg for item in specs if item.kind.name == "USER_OUTPUT"]
        return {
            index: self._leaf("output", _name(path), arg.name)
            for index, ((path, _), arg) in enumerate(zip(paths, args, strict=True))
            if not hasattr(arg, "value")
        }

    def _leaf(self, kind: str, name: str, node: str) -> _Leaf:
        spec, value = self._spec, self._values[node]
        if not isinstance(value, torch.Tensor):
            raise LoadFailed(
                f"function {spec.name}: {kind} {name!r} of {spec.model} is no tensor",
                hint="export the program with a fixed value there",
            )
        dtype = KSERVE_TYPES.get(value.dtype)
        if dtype is None:
            raise LoadFailed(
                f"function {spec.name}: {kind} {name!r} of {spec.model} is of type {value.dtype}, "
                "which cannot be served"
            )
        dims = tuple(dim if isinstance(dim, int) else -1 for dim in value.shape)
        symbol = str(value.shape[0]) if dims[:1] == (-1,) else ""
        return _Leaf(TensorSpec(name, dtype, dims), symbol)

    def _read_signature(self) -> Signature:
        """Rows are a first dimension that all tensors share, by its symbol in the program."""
        spec = self._spec
        taken = [leaf for leaf in self._arguments if isinstance(leaf, _Leaf)]
        inputs = tuple(leaf.tensor for leaf in taken)
        outputs = tuple(leaf.tensor for leaf in self._results.values())
        if not inputs or not outputs:
            raise LoadFailed(f"function {spec.name}: {spec.model} takes or gives no tensor")
        if Stated(spec).batched is False:
            return Signature(inputs, outputs)
        fixed = fixed_batch(spec, inputs, outputs)
        if fixed is not None:
            return fixed
        symbols = {leaf.rows for leaf in (*taken, *self._results.values())}
        if len(symbols) != 1 or "" in symbols:
            return Signature(inputs, outputs)
        lowest, highest = self._limits(symbols.pop())
        rows_max = min(spec.batch_max or max(DEFAULT_ROWS_MAX, lowest), highest)
        if rows_max < lowest:
            raise LoadFailed(
                f"function {spec.name}: {spec.model} takes no batches below {lowest} rows",
                hint=f"set batch.max to {lowest} or more",
            )
        return Signature(inputs, outputs, rows_max, buckets(rows_max, lowest) if lowest > 1 else ())

    def _limits(self, symbol: str) -> tuple[int, int]:
        for expression, limits in self._program.range_constraints.items():
            if str(expression) == symbol:
                lower, upper = int(limits.lower), limits.upper
                return (
                    lower if lower >= _SMALLEST_CHECKED else 1,
                    int(upper) if upper.is_Integer else _UNLIMITED,
                )
        return 1, _UNLIMITED


def _name(path: Sequence[Any]) -> str:
    """A key of the mapping that the model returns; `output_1` in a tuple; else `output`."""
    keys = [str(getattr(k, "key", getattr(k, "idx", getattr(k, "name", k)))) for k in path]
    named = any(not hasattr(key, "idx") for key in path)
    return "_".join(keys if named else ["output", *keys])
