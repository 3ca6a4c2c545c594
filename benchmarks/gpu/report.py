"""The common format with what explains a GPU's figures, kept after every row."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.common import Report, Row, machine, versions
from gslice.core.errors import GsliceError
from gslice.device.cuda import version_text
from gslice.device.inventory import read_inventory
from gslice.device.nvml import Nvml

_STAND_IN = "GSLICE_FAKE_GPU"  # where tests have put a stand-in for the driver
_WARNING = "no GPU: a stand-in, which has no speed"
_PRIVATE = ("name", "pci_bus_id", "cpus")
_PACKAGES = ("torch", "torchvision", "transformers", "onnxruntime-gpu", "nvidia-ml-py")


class StepFile:
    """A step's result file, as the runner reads it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def discard(self) -> None:
        """Removes an earlier run's."""
        self.path.unlink(missing_ok=True)

    def headline(self) -> str:
        """The step's answer in a line; empty if it gave none."""
        return str(self.content().get("settings", {}).get("headline", ""))

    def rows(self) -> int:
        """How many rows there are."""
        return len(self.content().get("rows", []))

    def content(self) -> dict[str, Any]:
        """All of it; empty if there is none."""
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
        stand_in = "stand_in" in self.report.machine["gpu"]
        self.setting(headline=f"over a stand-in: {text}" if stand_in else text)

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
        inventory = read_inventory()
        found = inventory.gpu("cuda:0")
    except GsliceError as error:
        return {"absent": str(error)}
    return {
        **({"stand_in": _WARNING} if _STAND_IN in os.environ else {}),
        "name": found.name,
        "count": len(inventory.gpus),
        "sms": found.sms,
        "compute_capability": found.compute_capability,
        "memory_bytes": found.memory_bytes,
        "cuda": version_text(inventory.driver_version),
        **_nvml(found.uuid),
    }


def _nvml(uuid: str) -> dict[str, Any]:
    try:
        nvml = Nvml()
    except GsliceError as error:
        return {"nvml": str(error)}
    try:
        facts, now = asdict(nvml.facts(uuid)), asdict(nvml.reading(uuid))
    finally:
        nvml.close()
    return {key: value for key, value in facts.items() if key not in _PRIVATE} | {"now": now}


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
