"""The identity engine: output i is a copy of input i, made by the pump in C++.

What remains of a request's time is gslice itself, which is what benchmarks want to see. It copies
each tensor once (counted in the function's `copies`), or with `in_place` never: then the answer is
the input where it lies. It takes no lane thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gslice.core.errors import GsliceError, Internal, LoadFailed
from gslice.core.types import Signature, TensorSpec
from gslice.ipc.codec import from_json
from gslice.worker.engines.base import DEFAULT_ROWS_MAX, is_batchable

if TYPE_CHECKING:
    from gslice.core.types import FunctionSpec
    from gslice.worker.engines.base import Call, Device


class IdentityEngine:
    """See the module; `args` holds `inputs` and `outputs`, each a list of tensor specs."""

    native = True
    trusts_zeros = True
    threads = 0

    def load(self, spec: FunctionSpec, device: Device, known: Signature | None = None) -> Signature:
        """See `Engine.load`."""
        inputs = _tensors(spec, "inputs", spec.args.get("inputs"))
        outputs = _tensors(spec, "outputs", spec.args.get("outputs") or spec.args.get("inputs"))
        if [(t.dtype, t.dims) for t in inputs] != [(t.dtype, t.dims) for t in outputs]:
            raise LoadFailed(
                f"function {spec.name}: the outputs of an identity function have the types and "
                "dims of its inputs"
            )
        rows_max = 0
        if is_batchable(inputs, outputs):
            rows_max = spec.batch_max or DEFAULT_ROWS_MAX
        return Signature(inputs, outputs, rows_max)

    def prepare(self, lane: int, bucket: int) -> Call:
        """Never called: the pump copies."""
        raise Internal("the identity engine runs in the pump, it prepares nothing")

    def close(self) -> None:
        """Nothing is held."""


def _tensors(spec: FunctionSpec, key: str, value: Any) -> tuple[TensorSpec, ...]:
    if not isinstance(value, list) or not value:
        raise LoadFailed(f"function {spec.name}: an identity function needs a list of {key}")
    try:
        return tuple(from_json(TensorSpec, item) for item in value)
    except GsliceError as error:
        raise LoadFailed(f"function {spec.name}: {key}: {error.message}") from error
