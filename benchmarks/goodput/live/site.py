"""Where it runs: cores, limiter, and the nodes that are started there."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cores import Cores, pin_process, place, two_cores
from benchmarks.goodput.live.course import MODELS
from benchmarks.load import ONE_CONNECTION
from gslice.demo.node import ServedNode
from gslice.device.limiter import availability


@dataclass(frozen=True)
class Site:
    """What nodes have in common.

    Attributes:
        folder: Theirs, one after the other: the state directory keeps the profiles.
        cores: The device's first one (`server`), and that of everybody else (`client`).
        limiter: What enforces shares.
        cpus: The device's.
        note: What that means for shares.
    """

    folder: Path
    cores: Cores
    limiter: str
    cpus: tuple[int, ...]
    note: str

    @classmethod
    def here(cls, folder: Path) -> Site:
        """The best that this machine has, with this process on the clients' core."""
        mine = tuple(sorted(os.sched_getaffinity(0)))
        cores = two_cores()
        cgroup = next(each for each in availability() if each.name == "cgroup")
        for model in MODELS:  # a profile is of what will be asked
            np.savez(folder / f"{model.name}.npz", allow_pickle=False, **model.inputs)
        if not cgroup.available:
            note = (
                f"no cgroup ({cgroup.reason}): shares cannot be moved in place; whole cores"
                " instead, by shadows, and no share is less than a core"
            )
            return cls(folder, cores, "threads", mine, note)
        pin_process(os.getpid(), {cores.client})
        note = "shares of one core, by cgroup quota, move in place; all else has another core"
        return cls(folder, cores, "cgroup", (cores.server,), note)

    def node(
        self, functions: Mapping[str, Any], *, controlled: bool, limited: bool = True
    ) -> ServedNode:
        """A node that is not started.

        Args:
            functions: What goes under `functions`.
            controlled: Whether its controller decides.
            limited: Whether shares are enforced.
        """
        limiter = self.limiter if limited else "none"
        return ServedNode(
            self.folder,
            functions,
            devices={"cpu": {"cpus": list(self.cpus), "limiter": limiter}},
            cores={*self.cpus, self.cores.client},
            node={
                "controller": "auto" if controlled else "off",
                "spares": 0,  # nothing else computes meanwhile
                **ONE_CONNECTION,
            },
        )

    def settle(self, status: Any) -> None:
        """Keeps all but computing off the device, where it is a core of its own."""
        if len(self.cpus) == 1:
            place(status, self.cores)


def worker_pids(status: Any) -> Sequence[int]:
    """The processes that compute."""
    return [worker.pid for function in status.functions for worker in function.workers]
