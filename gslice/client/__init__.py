"""Clients of a gslice server: `Client` blocks, `aio.Client` is for asyncio. NumPy in, NumPy out."""

from __future__ import annotations

from gslice.client import aio
from gslice.client.calls import FunctionState
from gslice.client.sync import Client
from gslice.client.tls import Tls

__all__ = ["Client", "FunctionState", "Tls", "aio"]
