"""The common format with what explains a GPU's figures, kept after every row."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

from benchmarks.common import Report, Row, machine, versions

_PACKAGES = ("torch", "torchvision", "transformers", "nvidia-ml-py", "cuda-bindings")


class StepFile:
    """A step's result file, as the runner reads it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def discard(self) -> None:
        """Removes an earlier run's."""
        self.path.unlink(missing_ok=True)

    def headline(self) -> str:
        """The step's answer in a line; empty if it gave none."""
        return str(self._read().get("settings", {}).get("headline", ""))

    def rows(self) -> int:
        """How many rows there are."""
        return len(self._read().get("rows", []))

    def _read(self) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads(self.path.read_text())
        except FileNotFoundError:
            return {}
        return content


class GpuReport:
    """A report that is written anew with every row: a step that is cut short keeps what it has.

    Args:
        name: Of the step.
        question: What it answers.
        path: Where it is written; None: nowhere.
        settings: What was chosen.
    """

    def __init__(
        self, name: str, question: str, path: Path | None, settings: dict[str, Any]
    ) -> None:
        self._path = path
        self.report = Report(
            question,
            settings,
            command=f"python -m benchmarks.gpu --only {name}",
            machine={**machine(), "gpu": gpu()},
            versions={**versions(), **_versions()},
        )

    @property
    def rows(self) -> list[Row]:
        """The rows so far."""
        return self.report.rows

    def add(self, name: str, **figures: Any) -> None:
        """Adds a row."""
        self.report.rows.append({"name": name, **figures})
        self.save()

    def setting(self, **settings: Any) -> None:
        """Adds to the settings."""
        self.report.settings.update(settings)
        self.save()

    def headline(self, text: str) -> None:
        """Says the answer in a line."""
        self.setting(headline=text)

    def save(self) -> None:
        """Writes the file whole: a reader never sees half of it."""
        if self._path is None:
            return
        beside = self._path.with_suffix(".part")
        self.report.write(beside)
        beside.replace(self._path)


def gpu() -> dict[str, Any]:
    """The first GPU, as far as it explains figures; `absent` says why nothing is known."""
    try:
        pynvml: Any = importlib.import_module("pynvml")
    except ModuleNotFoundError:
        return {"absent": "nvidia-ml-py is not installed"}
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return {"absent": f"NVML: {error}"}
    try:
        return _describe(pynvml, pynvml.nvmlDeviceGetHandleByIndex(0))
    except pynvml.NVMLError as error:
        return {"absent": f"NVML: {error}"}
    finally:
        pynvml.nvmlShutdown()


def _describe(nvml: Any, device: Any) -> dict[str, Any]:
    cuda = nvml.nvmlSystemGetCudaDriverVersion()
    facts = {
        "name": _text(nvml.nvmlDeviceGetName(device)),
        "count": nvml.nvmlDeviceGetCount(),
        "driver": _text(nvml.nvmlSystemGetDriverVersion()),
        "cuda": f"{cuda // 1000}.{cuda % 1000 // 10}",
        "memory_bytes": nvml.nvmlDeviceGetMemoryInfo(device).total,
    }
    optional = {
        "pcie_generation": nvml.nvmlDeviceGetCurrPcieLinkGeneration,
        "pcie_width": nvml.nvmlDeviceGetCurrPcieLinkWidth,
        "power_limit_mw": nvml.nvmlDeviceGetPowerManagementLimit,
        "temperature_c": lambda d: nvml.nvmlDeviceGetTemperature(d, nvml.NVML_TEMPERATURE_GPU),
        "processes": lambda d: len(nvml.nvmlDeviceGetComputeRunningProcesses(d)),
    }
    for key, read in optional.items():
        with contextlib.suppress(nvml.NVMLError):  # a virtual machine may hide some
            facts[key] = read(device)
    return facts


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
