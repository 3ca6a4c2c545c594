"""The border between Python's nouns and the C++ core's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gslice import _native

if TYPE_CHECKING:
    from gslice.core.types import Signature

UNSUCCESSFUL = ("invalid", "rejected", "expired", "cancelled", "failed", "poisoned")
"""Outcomes in a segment's statistics with which a request ends badly."""


def native_signature(signature: Signature) -> _native.Signature:
    """The C++ twin of a signature.

    Raises:
        InvalidArgument: more than 32 inputs or outputs, a rank above 8, or an unknown data type.
    """
    return _native.Signature(
        [(t.name, t.dtype, list(t.dims)) for t in signature.inputs],
        [(t.name, t.dtype, list(t.dims)) for t in signature.outputs],
        signature.rows_max,
        list(signature.buckets),
    )
