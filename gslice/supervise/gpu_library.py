"""What the GPUs of a node have in common: the driver's inventory, NVML, and who is who."""

from __future__ import annotations

import asyncio

from gslice.core.errors import FailedPrecondition
from gslice.device.inventory import Inventory, read_inventory
from gslice.device.nvml import Nvml


class GpuLibrary:
    """What the driver and NVML say, asked once for all GPUs of a node."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._inventory: Inventory | None = None
        self._nvml: Nvml | None = None
        self._claims: dict[str, str] = {}  # by UUID, the device that uses it

    async def inventory(self) -> Inventory:
        """The probe's answer; a failure is not kept, so that it can be tried again.

        Raises:
            GsliceError: as of `read_inventory`.
        """
        async with self._lock:
            if self._inventory is None:
                self._inventory = await asyncio.to_thread(read_inventory)
            return self._inventory

    async def nvml(self) -> Nvml:
        """NVML, opened.

        Raises:
            FailedPrecondition: as of `Nvml`.
        """
        async with self._lock:
            if self._nvml is None:
                self._nvml = await asyncio.to_thread(Nvml)
            return self._nvml

    def claim(self, uuid: str, device: str) -> None:
        """Has a device be the only one that uses a GPU, whatever other names it has.

        Raises:
            FailedPrecondition: another one does.
        """
        if (owner := self._claims.setdefault(uuid, device)) != device:
            raise FailedPrecondition(
                f"{device} and {owner} are the same, {uuid}", hint="name it once in `devices`"
            )
