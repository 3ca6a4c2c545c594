"""The asyncio client: `gslice.aio.Client`."""

from gslice.client.aio import Client

__all__ = ["Client"]
