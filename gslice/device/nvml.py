"""NVML: what a GPU is and what it does now, without CUDA. Needs the package nvidia-ml-py."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from gslice.core.errors import FailedPrecondition, GsliceError, Unavailable

_T = TypeVar("_T")
_WORD_BITS = 64
_NUMA_WORDS = 2


@dataclass(frozen=True)
class GpuFacts:
    """What does not change while a machine runs; what NVML does not tell is empty, 0 or -1.

    Of a MIG instance name and memory are its own, power is not told, and the rest is its GPU's.

    Attributes:
        name: The product.
        driver: Version of the driver, such as `580.95.05`.
        pci_bus_id: Its address.
        pcie_generation: Of the link, at its best.
        pcie_width: Lanes of the link, at its best.
        numa_node: The memory near it; -1: unknown.
        cpus: The cores near it, of those that this process may use.
        memory_bytes: All of it.
        power_limit_w: Most that it may draw.
        compute_mode: `default`, `exclusive process` or `prohibited`.
    """

    name: str = ""
    driver: str = ""
    pci_bus_id: str = ""
    pcie_generation: int = 0
    pcie_width: int = 0
    numa_node: int = -1
    cpus: tuple[int, ...] = ()
    memory_bytes: int = 0
    power_limit_w: float = 0.0
    compute_mode: str = ""


@dataclass(frozen=True)
class GpuReading:
    """A GPU at one moment; of a MIG instance neither utilization nor power are told.

    Attributes:
        memory_used_bytes: By everybody.
        utilization_percent: Part of the last sample period in which a kernel ran.
        power_w: Drawn.
        temperature_c: Of the chip.
        energy_j: Drawn since the driver was loaded; 0: it does not count that (before Volta).
    """

    memory_used_bytes: int = 0
    utilization_percent: float = 0.0
    power_w: float = 0.0
    temperature_c: float = 0.0
    energy_j: float = 0.0


class Nvml:
    """An open NVML.

    Attributes:
        api: The functions of NVML.

    Raises:
        FailedPrecondition: the package or the library is not there, or does not start.
    """

    def __init__(self) -> None:
        try:
            import pynvml
        except ImportError:
            raise FailedPrecondition(
                "the package nvidia-ml-py is not installed", hint="pip install nvidia-ml-py"
            ) from None
        self.api: Any = pynvml
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            raise FailedPrecondition(f"NVML does not start: {error}") from None

    def close(self) -> None:
        """Gives it back."""
        with contextlib.suppress(self.api.NVMLError):
            self.api.nvmlShutdown()

    def count(self) -> int:
        """GPUs of the machine, whoever may see them."""
        return int(self.ask(self.api.nvmlDeviceGetCount, 0))

    def facts(self, uuid: str) -> GpuFacts:
        """What a GPU is.

        Raises:
            Unavailable: it is lost.
            FailedPrecondition: NVML does not know it.
        """
        nvml, own = self.api, self._handle(uuid)
        gpu = self._board(own)
        modes = {
            nvml.NVML_COMPUTEMODE_DEFAULT: "default",
            nvml.NVML_COMPUTEMODE_EXCLUSIVE_PROCESS: "exclusive process",
            nvml.NVML_COMPUTEMODE_PROHIBITED: "prohibited",
        }
        mode = self.ask(lambda: nvml.nvmlDeviceGetComputeMode(gpu), None)
        return GpuFacts(
            name=_text(self.ask(lambda: nvml.nvmlDeviceGetName(own), "")),
            driver=_text(self.ask(nvml.nvmlSystemGetDriverVersion, "")),
            pci_bus_id=_text(self.ask(lambda: nvml.nvmlDeviceGetPciInfo(gpu).busId, "")),
            pcie_generation=self.ask(lambda: nvml.nvmlDeviceGetMaxPcieLinkGeneration(gpu), 0),
            pcie_width=self.ask(lambda: nvml.nvmlDeviceGetMaxPcieLinkWidth(gpu), 0),
            numa_node=self.ask(lambda: self._numa_node(gpu), -1),
            cpus=self.ask(lambda: self._cpus(gpu), ()),
            memory_bytes=self.ask(lambda: nvml.nvmlDeviceGetMemoryInfo(own).total, 0),
            power_limit_w=self.ask(lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(own), 0) / 1000,
            compute_mode=modes.get(mode, ""),
        )

    def reading(self, uuid: str) -> GpuReading:
        """What a GPU does now.

        Raises:
            Unavailable: it is lost.
            FailedPrecondition: NVML does not know it.
        """
        nvml, gpu = self.api, self._handle(uuid)
        board, sensor = self._board(gpu), nvml.NVML_TEMPERATURE_GPU
        return GpuReading(
            memory_used_bytes=self.ask(lambda: nvml.nvmlDeviceGetMemoryInfo(gpu).used, 0),
            utilization_percent=self.ask(
                lambda: float(nvml.nvmlDeviceGetUtilizationRates(gpu).gpu), 0.0
            ),
            power_w=self.ask(lambda: nvml.nvmlDeviceGetPowerUsage(gpu), 0) / 1000,
            temperature_c=self.ask(
                lambda: float(nvml.nvmlDeviceGetTemperature(board, sensor)), 0.0
            ),
            energy_j=self._energy_j(gpu),
        )

    def energy_j(self, uuid: str) -> float:
        """`GpuReading.energy_j`, now.

        Raises:
            FailedPrecondition: NVML does not know it.
        """
        return self._energy_j(self._handle(uuid))

    def _energy_j(self, gpu: Any) -> float:
        return self.ask(lambda: self.api.nvmlDeviceGetTotalEnergyConsumption(gpu), 0) / 1000

    def _handle(self, uuid: str) -> Any:
        try:
            return self.api.nvmlDeviceGetHandleByUUID(uuid)
        except self.api.NVMLError as error:
            raise self._lost(error) or FailedPrecondition(
                f"NVML does not know {uuid}: {error}"
            ) from None

    def _board(self, handle: Any) -> Any:
        """The GPU that a MIG instance is on; a GPU itself."""
        return self.ask(
            lambda: self.api.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle), handle
        )

    def ask(self, question: Callable[[], _T], instead: _T) -> _T:
        """An answer, or `instead` where this GPU or driver has none."""
        try:
            return question()
        except self.api.NVMLError as error:
            if lost := self._lost(error):
                raise lost from None
            return instead

    def _lost(self, error: Any) -> GsliceError | None:
        """What an error means that says that the GPU has fallen off the bus; None: another."""
        if error.value != self.api.NVML_ERROR_GPU_IS_LOST:
            return None
        return Unavailable(
            f"the GPU is lost: {error}", hint="dmesg says why; most need the machine to restart"
        )

    def _cpus(self, gpu: Any) -> tuple[int, ...]:
        mine = os.sched_getaffinity(0)
        words = self.api.nvmlDeviceGetCpuAffinity(gpu, max(mine) // _WORD_BITS + 1)
        return tuple(sorted(bits_of(words) & mine))

    def _numa_node(self, gpu: Any) -> int:
        scope = self.api.NVML_AFFINITY_SCOPE_NODE
        nodes = self.api.nvmlDeviceGetMemoryAffinity(gpu, _NUMA_WORDS, scope)
        return min(bits_of(nodes), default=-1)


def bits_of(words: Iterable[int]) -> set[int]:
    """The bits that are set in an array of words, counted from the first one's lowest."""
    return {
        index * _WORD_BITS + bit
        for index, word in enumerate(words)
        for bit in range(_WORD_BITS)
        if word >> bit & 1
    }


def count_gpus() -> int:
    """GPUs of the machine as NVML counts them; 0 without NVML."""
    try:
        nvml = Nvml()
    except FailedPrecondition:
        return 0
    try:
        return nvml.count()
    finally:
        nvml.close()


def _text(value: str | bytes) -> str:
    """Older bindings answer in bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value
