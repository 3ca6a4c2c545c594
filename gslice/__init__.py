"""gslice: slices a GPU between models and keeps every model's latency promise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.7.0"
__all__ = ["Client", "Tls", "__version__", "aio", "errors"]

if TYPE_CHECKING:
    from gslice import aio, errors
    from gslice.client import Client, Tls


def __getattr__(name: str) -> Any:
    """Resolve public names on first use: `import gslice` loads neither gRPC nor NumPy."""
    if name == "Client":
        from gslice.client import Client

        return Client
    if name == "Tls":
        from gslice.client import Tls

        return Tls
    if name == "aio":
        import gslice.aio as aio

        return aio
    if name == "errors":
        import gslice.errors as errors

        return errors
    raise AttributeError(f"module 'gslice' has no attribute {name!r}")
