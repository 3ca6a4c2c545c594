"""What GPUs are partitioned by MIG, and into which instances: read through NVML, never changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gslice.core.errors import FailedPrecondition, GsliceError
from gslice.device.cuda import Gpu
from gslice.device.nvml import Nvml

NO_INSTANCE = "none; `nvidia-smi mig -cgi PROFILE -C` makes them, gslice never does"
_MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Board:
    """A GPU of the machine as NVML counts it.

    Attributes:
        uuid: `GPU-...`.
        name: The product.
        partitioned: MIG is on, so CUDA uses it by its instances only.
        instances: Those that there are, by NVML's number; several compute instances of one GPU
            instance share its memory.
    """

    uuid: str
    name: str = ""
    partitioned: bool = False
    instances: Mapping[int, Gpu] = field(default_factory=dict)

    @property
    def is_usable(self) -> bool:
        """Whether there is something of it to compute on."""
        return bool(self.instances) or not self.partitioned


def read_boards() -> list[Board]:
    """Every GPU of the machine in the order of the PCI bus; none without NVML."""
    try:
        nvml = Nvml()
    except FailedPrecondition:
        return []
    try:
        return [_board(nvml, index) for index in range(nvml.count())]
    except GsliceError:  # a GPU is lost; whoever uses one is told by the probe
        return []
    finally:
        nvml.close()


def visible_boards(boards: Sequence[Board], chosen: str | None) -> list[Board]:
    """What CUDA_VISIBLE_DEVICES leaves of them.

    Args:
        boards: Of the machine.
        chosen: UUIDs, their beginnings, or numbers of GPUs, between commas; None: all.
    """
    if chosen is None:
        return list(boards)
    words = [word.strip() for word in chosen.split(",") if word.strip()]
    seen = []
    for index, board in enumerate(boards):
        instances = {
            number: gpu
            for number, gpu in board.instances.items()
            if any(gpu.uuid.startswith(word) for word in words)
        }
        if str(index) in words or any(board.uuid.startswith(word) for word in words):
            seen.append(board)
        elif instances:
            seen.append(Board(board.uuid, board.name, board.partitioned, instances))
    return seen


def _board(nvml: Nvml, index: int) -> Board:
    ask, api = nvml.ask, nvml.api
    gpu = ask(lambda: api.nvmlDeviceGetHandleByIndex(index), None)
    uuid = ask(lambda: str(api.nvmlDeviceGetUUID(gpu)), "")
    name = ask(lambda: str(api.nvmlDeviceGetName(gpu)), "")
    if not ask(lambda: int(api.nvmlDeviceGetMigMode(gpu)[0]), 0):
        return Board(uuid, name)

    def instance(number: int) -> Gpu | None:
        """NVML has an error where there is none of that number."""
        return ask(lambda: _instance(api, gpu, number), None)

    most = ask(lambda: int(api.nvmlDeviceGetMaxMigDeviceCount(gpu)), 0)
    found = {number: instance(number) for number in range(most)}
    return Board(uuid, name, True, {number: gpu for number, gpu in found.items() if gpu})


def _instance(api: Any, board: Any, number: int) -> Gpu:
    handle = api.nvmlDeviceGetMigDeviceHandleByIndex(board, number)
    major, minor = api.nvmlDeviceGetCudaComputeCapability(board)
    has = api.nvmlDeviceGetAttributes_v2(handle)
    return Gpu(
        str(api.nvmlDeviceGetUUID(handle)),
        str(api.nvmlDeviceGetName(handle)),
        int(has.multiprocessorCount),
        (int(major), int(minor)),
        int(has.memorySizeMB) * _MEBIBYTE,
    )
