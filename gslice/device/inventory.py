"""The GPUs of this machine, as the probe found them."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gslice.core.errors import DeadlineExceeded, FailedPrecondition, GsliceError, from_code
from gslice.device.cuda import Gpu
from gslice.device.mps import NOWHERE
from gslice.device.nvml import count_gpus

PROBE = (sys.executable, "-P", "-m", "gslice.device.probe")
PROBE_TIMEOUT_S = 60.0
_log = logging.getLogger("gslice")


@dataclass(frozen=True)
class Inventory:
    """What the driver offers this user.

    Attributes:
        driver_version: CUDA version that it speaks: 13000 is 13.0.
        library: The path of libcuda.
        gpus: In the order of the PCI bus; `cuda:0` is the first.
    """

    driver_version: int
    library: str
    gpus: tuple[Gpu, ...]

    def gpu(self, index: int) -> Gpu:
        """The GPU `cuda:<index>`.

        Raises:
            FailedPrecondition: there is none.
        """
        if index < len(self.gpus):
            return self.gpus[index]
        names = ", ".join(f"cuda:{i} {gpu.name}" for i, gpu in enumerate(self.gpus))
        raise FailedPrecondition(f"there is no GPU cuda:{index}", hint=f"GPUs: {names or 'none'}")


def probe_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment in which the probe sees whole GPUs, in the order of their names."""
    kept = {key: value for key, value in environ.items() if not key.startswith("CUDA_MPS_")}
    return {**kept, "CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_MPS_PIPE_DIRECTORY": NOWHERE}


def read_inventory() -> Inventory:
    """Runs the probe; takes as long as the driver needs to start, a second or so.

    Raises:
        FailedPrecondition: no driver, an old one, or no GPU; the message says which.
        DeadlineExceeded: the driver does not answer.
    """
    try:
        done = subprocess.run(
            [*PROBE, "list"],
            env=probe_environment(os.environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DeadlineExceeded(
            f"the NVIDIA driver did not answer for {PROBE_TIMEOUT_S:g} s"
        ) from None
    return inventory_of(probe_answer(done.stdout, done.stderr))


def probe_answer(output: str, errors: str) -> dict[str, Any]:
    """What a probe said.

    Raises:
        GsliceError: what the probe found wrong.
    """
    line = (output.strip().splitlines() or [""])[-1]
    try:
        found = json.loads(line)
    except ValueError:
        reason = (errors.strip().splitlines() or ["it said nothing"])[-1]
        raise FailedPrecondition(f"the GPU probe failed: {reason}") from None
    if "error" in found:
        error: GsliceError = from_code(found["code"], found["error"])
        error.hint = found["hint"]
        raise error
    return dict(found)


def inventory_of(found: Mapping[str, Any]) -> Inventory:
    """An answer of the probe, in types."""
    gpus = (
        Gpu(**{**gpu, "compute_capability": tuple(gpu["compute_capability"])})
        for gpu in found["gpus"]
    )
    return Inventory(found["driver_version"], found["library"], tuple(gpus))


def find_gpus() -> tuple[str, ...]:
    """The names of the GPUs that `devices: auto` stands for; none where the driver cannot serve.

    Machines without a GPU pay for no probe.
    """
    if count_gpus() == 0:
        return ()
    try:
        inventory = read_inventory()
    except GsliceError as error:
        _log.warning("the GPUs cannot be used: %s", error)
        return ()
    return tuple(f"cuda:{index}" for index in range(len(inventory.gpus)))
