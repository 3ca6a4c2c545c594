"""What `gslice doctor` says of GPUs: what there is, and what it proves by trying it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gslice.cli.checks import Check
from gslice.core.errors import FailedPrecondition, GsliceError, Unavailable
from gslice.core.figures import megabytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gslice.device.cuda import Gpu
    from gslice.device.inventory import Inventory
    from gslice.device.mig import Board
    from gslice.device.mps_trial import MpsTrial
    from gslice.device.nvml import GpuFacts, Nvml

SHARES_PERCENT = (50.0, 25.0)
_STEP_SMS = 2
_BURN_TOLERANCE = 0.25  # of the ratio of times; others may use the GPU meanwhile
_SLOW_BYTES_PER_S = 4e9  # a link narrower or older than any that a server's GPU should have


def gpu_checks(quick: bool) -> list[Check]:
    """Everything about GPUs.

    Args:
        quick: Leave out what starts MPS and uses the GPU.
    """
    from gslice.device.inventory import read_inventory
    from gslice.device.mig import read_boards, visible_boards
    from gslice.device.nvml import count_gpus

    if count_gpus() == 0 and not Path("/dev/nvidiactl").exists():
        return [Check("GPU", "note", "none; functions run on the CPU device")]
    boards = visible_boards(read_boards(), os.environ.get("CUDA_VISIBLE_DEVICES"))
    partitioned = _partitioned(boards)
    try:
        inventory = read_inventory()
    except GsliceError as error:
        unused = partitioned and not any(board.is_usable for board in boards)
        failed = Check("GPU driver", "warn" if unused else "fail", error.message, error.hint)
        return [failed, *partitioned]
    checks = [_driver(inventory), *partitioned, *_devices(inventory), _programs(inventory.library)]
    if not quick and checks[-1].status == "ok":
        for name, gpu in inventory.gpus.items():
            checks += mps_checks(name, gpu, inventory.library)
    return checks


def mps_checks(name: str, gpu: Gpu, library: str) -> list[Check]:
    """Starts MPS in a directory of its own, and looks at clients under two shares."""
    from gslice.device.mps_trial import MpsTrial

    try:
        with MpsTrial(gpu.uuid, library) as trial:
            checks = _tried(name, gpu, trial)
    except GsliceError as error:
        return [Check(f"{name} MPS", "fail", error.message, error.hint)]
    return checks if gpu.is_instance else [*checks, static_check(name, gpu, library)]


def static_check(name: str, gpu: Gpu, library: str) -> Check:
    """Whether MPS can partition its SMs statically, found out by doing it.

    What a driver tells of itself is no proof: some that can do not say so.
    """
    from gslice.device.mps_trial import MpsTrial

    what = f"{name} mps-static"
    try:
        with MpsTrial(gpu.uuid, library, "-S") as trial:
            chunk_sms = trial.partition_sms(1)
    except GsliceError as error:
        hint = "static partitions take CUDA 13.1 and Ampere or newer; gslice does without them"
        return Check(what, "note", f"MPS carves none: {error.message}", hint)
    return Check(
        what,
        "note",
        f"MPS can carve static partitions, in chunks of {chunk_sms} SMs",
        "gslice does not use them: a partition cannot change while it is used, nor can one be added"
        " beside it, so no share could change while its function serves; limiter mps can do that",
    )


def green_check(name: str, gpu: Gpu) -> Check:
    """What shares under `limiter: green` are made of."""
    what = f"{name} green"
    if not gpu.sm_groups:
        return Check(what, "note", "no green contexts", "limiter green takes CUDA 12.5 or newer")
    left = gpu.sms - gpu.sm_groups * gpu.group_sms
    rest = f", {left} of {gpu.sms} SMs in none" if left else ""
    return Check(
        what,
        "note",
        f"{gpu.sm_groups} groups of {gpu.group_sms} SMs{rest}",
        "shares are so many groups under `limiter: green`, for functions that trust each other:"
        " docs/green.md",
    )


def _tried(name: str, gpu: Gpu, trial: MpsTrial) -> list[Check]:
    found = []
    attached = []
    for share in SHARES_PERCENT:
        measured = ("--bandwidth",) if share == SHARES_PERCENT[0] else ()
        with trial.client(share, *measured, "--sms", str(gpu.sms)) as client:
            answer = client.answer()
            attached.append(answer["pid"] in trial.clients())
        found.append(answer)
    return [
        _attached(name, all(attached)),
        _limited(name, gpu, [answer["sms"] for answer in found]),
        _timed(name, found),
        _bandwidth(name, found[0]),
    ]


def _driver(inventory: Inventory) -> Check:
    from gslice.device.cuda import version_text

    return Check(
        "GPU driver", "ok", f"CUDA {version_text(inventory.driver_version)}, {inventory.library}"
    )


def _partitioned(boards: Sequence[Board]) -> list[Check]:
    """The GPUs that are partitioned by MIG, which are no devices themselves."""
    from gslice.device.mig import NO_INSTANCE

    checks = []
    for index, board in enumerate(boards):
        if not board.partitioned:
            continue
        name, count = f"cuda:{index}", len(board.instances)
        detail = f"{board.name}, partitioned by MIG: {count} instance{'s' * (count != 1)}"
        names = ", ".join(f"{name}/mig:{number}" for number in board.instances)
        checks.append(
            Check(name, "note", detail, f"each is a device: {names}")
            if names
            else Check(name, "warn", detail, f"instances: {NO_INSTANCE}")
        )
    return checks


def _devices(inventory: Inventory) -> list[Check]:
    from gslice.device.nvml import Nvml

    try:
        nvml: Nvml | None = Nvml()
    except FailedPrecondition as error:
        nvml = None
        checks = [Check("NVML", "warn", error.message, error.hint)]
    else:
        checks = []
    try:
        for name, gpu in inventory.gpus.items():
            checks.append(_device(name, gpu, nvml))
            if not gpu.is_instance:
                checks.append(green_check(name, gpu))
    finally:
        if nvml is not None:
            nvml.close()
    return checks


def _device(name: str, gpu: Gpu, nvml: Nvml | None) -> Check:
    major, minor = gpu.compute_capability
    detail = (
        f"{gpu.name}, {gpu.sms} SMs, {megabytes(gpu.memory_bytes)},"
        f" compute capability {major}.{minor}"
    )
    if nvml is None:
        return Check(name, "ok", detail)
    try:
        facts, now = nvml.facts(gpu.uuid), nvml.reading(gpu.uuid)
    except Unavailable as error:
        return Check(name, "fail", f"{detail}; {error.message}", error.hint)
    except FailedPrecondition as error:
        return Check(name, "ok", detail, error.message)
    near = f", NUMA node {facts.numa_node}" if facts.numa_node >= 0 else ""
    detail += (
        f"; PCIe {facts.pcie_generation} x{facts.pcie_width}{near}; driver {facts.driver};"
        f" {megabytes(now.memory_used_bytes)} used"
    )
    if gpu.is_instance:
        return Check(name, *_judged(facts, f"{detail}; {gpu.uuid}"))
    detail += f", {now.utilization_percent:.0f}% busy"
    detail += f", {now.power_w:.0f} of {facts.power_limit_w:.0f} W"
    return Check(name, *_judged(facts, detail))


def _judged(facts: GpuFacts, detail: str) -> tuple[str, str, str]:
    if facts.compute_mode == "prohibited":
        return "fail", f"{detail}; compute is prohibited", "nvidia-smi -c DEFAULT allows it"
    return "ok", detail, ""


def _programs(library: str) -> Check:
    from gslice.device.mps import find_control

    try:
        return Check("MPS programs", "ok", find_control(library))
    except FailedPrecondition as error:
        return Check("MPS programs", "warn", error.message, "shares of GPUs cannot be enforced")


def _attached(name: str, attached: bool) -> Check:
    if attached:
        return Check(f"{name} MPS", "ok", "starts in a directory of its own, and takes clients")
    return Check(
        f"{name} MPS",
        "fail",
        "a client does not show in MPS's list: it ran outside, without a limit",
        "one MPS server serves one user only",
    )


def _limited(name: str, gpu: Gpu, sms: list[int]) -> Check:
    told = ", ".join(
        f"{share:g}% is {seen} SMs" for share, seen in zip(SHARES_PERCENT, sms, strict=True)
    )
    kept = all(
        abs(seen - gpu.sms * share / 100) <= _STEP_SMS
        for share, seen in zip(SHARES_PERCENT, sms, strict=True)
    )
    if kept:
        return Check(f"{name} shares", "ok", f"{told}, read back in the client")
    return Check(f"{name} shares", "fail", f"{told} of {gpu.sms}", "MPS refused the percentage")


def _timed(name: str, found: list[dict[str, Any]]) -> Check:
    """Whether fixed work takes as much longer at the smaller share as it has fewer SMs."""
    larger, smaller = found
    if why := larger.get("burn_error") or smaller.get("burn_error"):
        return Check(f"{name} limit", "warn", f"not timed: {why}", "the SM counts are read back")
    expected = larger["sms"] / smaller["sms"]
    seen = smaller["burn_s"] / larger["burn_s"]
    detail = (
        f"a kernel takes {larger['burn_s'] * 1e6:.0f} us at {SHARES_PERCENT[0]:g}% and"
        f" {smaller['burn_s'] * 1e6:.0f} us at {SHARES_PERCENT[1]:g}%:"
        f" {seen:.2f} times as long, {expected:.2f} expected"
    )
    if abs(seen / expected - 1) <= _BURN_TOLERANCE:
        return Check(f"{name} limit", "ok", detail)
    return Check(f"{name} limit", "warn", detail, "run it again while nobody else uses the GPU")


def _bandwidth(name: str, found: dict[str, Any]) -> Check:
    to_gpu, from_gpu = found["to_gpu_bytes_per_s"], found["from_gpu_bytes_per_s"]
    detail = f"{to_gpu / 1e9:.1f} GB/s to the GPU, {from_gpu / 1e9:.1f} GB/s back"
    if min(to_gpu, from_gpu) < _SLOW_BYTES_PER_S:
        return Check(f"{name} copies", "warn", detail, "is the PCIe link as wide as it should be?")
    return Check(f"{name} copies", "ok", detail)
