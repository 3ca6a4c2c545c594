"""The GPUs and MIG instances of this machine, as the probe and NVML found them."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gslice.core.errors import DeadlineExceeded, FailedPrecondition, GsliceError, from_code
from gslice.device.cuda import Gpu
from gslice.device.mig import NO_INSTANCE, Board, read_boards, visible_boards
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
        gpus: Whole GPUs and MIG instances by name, in the order of the PCI bus; `cuda:0` is the
            first GPU.
        partitioned: Of GPUs that are partitioned by MIG, the product by name.
    """

    driver_version: int
    library: str
    gpus: Mapping[str, Gpu]
    partitioned: Mapping[str, str] = field(default_factory=dict)

    def gpu(self, name: str) -> Gpu:
        """A GPU or a MIG instance, by its name or its UUID.

        Raises:
            FailedPrecondition: there is none, or it is partitioned.
        """
        for known, gpu in self.gpus.items():
            if name in (known, gpu.uuid):
                return gpu
        if name in self.partitioned:
            instances = [known for known in self.gpus if known.startswith(f"{name}/")]
            raise FailedPrecondition(
                f"{name} is partitioned by MIG; each instance is a device of its own",
                hint=f"instances: {', '.join(instances) or NO_INSTANCE}",
            )
        names = ", ".join(f"{known} {gpu.name}" for known, gpu in self.gpus.items())
        what = "GPU" if name.startswith("cuda:") and "/" not in name else "MIG instance"
        raise FailedPrecondition(f"there is no {what} {name}", hint=f"GPUs: {names or 'none'}")


def probe_environment(environ: Mapping[str, str], gpus: Sequence[str] = ()) -> dict[str, str]:
    """The environment in which the probe sees whole GPUs, in the order of their names.

    Args:
        environ: Of this process.
        gpus: UUIDs of those that it is to see; empty: all that this user may.
    """
    kept = {key: value for key, value in environ.items() if not key.startswith("CUDA_MPS_")}
    shown = {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}
    order = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_MPS_PIPE_DIRECTORY": NOWHERE}
    return {**kept, **order, **shown}


def read_inventory() -> Inventory:
    """Runs the probe; takes as long as the driver needs to start, a second or so.

    Raises:
        FailedPrecondition: no driver, an old one, or no GPU; the message says which.
        DeadlineExceeded: the driver does not answer.
    """
    boards = read_boards()
    visible = visible_boards(boards, os.environ.get("CUDA_VISIBLE_DEVICES"))
    if visible and any(board.partitioned for board in boards):
        return _partitioned(visible)
    return inventory_of(_probe(probe_environment(os.environ)))


def _partitioned(boards: Sequence[Board]) -> Inventory:
    """Where MIG is on, CUDA shows a process one instance or whole GPUs, never both.

    So whole GPUs are the probe's, and NVML tells of the instances.
    """
    whole = [board.uuid for board in boards if not board.partitioned]
    instances = [gpu.uuid for board in boards for gpu in board.instances.values()]
    if not any(board.is_usable for board in boards):
        raise FailedPrecondition(
            "every GPU is partitioned by MIG, and none has an instance", hint=NO_INSTANCE
        )
    found = inventory_of(_probe(probe_environment(os.environ, whole or instances[:1])))
    seen = {gpu.uuid: gpu for gpu in found.gpus.values()}
    gpus: dict[str, Gpu] = {}
    for index, board in enumerate(boards):
        name = f"cuda:{index}"
        gpus |= {f"{name}/mig:{number}": gpu for number, gpu in board.instances.items()}
        if board.uuid in seen:
            gpus[name] = seen[board.uuid]
    partitioned = {f"cuda:{i}": board.name for i, board in enumerate(boards) if board.partitioned}
    return Inventory(found.driver_version, found.library, gpus, partitioned)


def _probe(environment: Mapping[str, str]) -> dict[str, Any]:
    try:
        done = subprocess.run(
            [*PROBE, "list"],
            env=environment,
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
    return probe_answer(done.stdout, done.stderr)


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
    gpus = {
        f"cuda:{index}": Gpu(**{**gpu, "compute_capability": tuple(gpu["compute_capability"])})
        for index, gpu in enumerate(found["gpus"])
    }
    return Inventory(found["driver_version"], found["library"], gpus)


def find_gpus() -> tuple[str, ...]:
    """The names of the GPUs and MIG instances that `devices: auto` stands for.

    None where the driver cannot serve.

    Machines without a GPU pay for no probe.
    """
    if count_gpus() == 0:
        return ()
    try:
        inventory = read_inventory()
    except GsliceError as error:
        _log.warning("the GPUs cannot be used: %s", error)
        return ()
    return tuple(inventory.gpus)
