"""Who runs on which core. Light: what a child imports would count as its own memory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Cores:
    """Which core is whose.

    Attributes:
        server: Core of every process of the server.
        client: Core of the load client.
    """

    server: int
    client: int


def two_cores() -> Cores:
    """The first two cores that this process may use; one core twice where there is no second."""
    mine = sorted(os.sched_getaffinity(0))
    return Cores(server=mine[0], client=mine[1 if len(mine) > 1 else 0])


def pinned(core: int) -> Callable[[], None]:
    """A `preexec_fn` that keeps a child, and whatever it starts, on one core."""
    return lambda: os.sched_setaffinity(0, {core})


def pin_process(pid: int, cores: Collection[int]) -> None:
    """Moves every thread of a process; one that has ended has none."""
    with contextlib.suppress(FileNotFoundError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                os.sched_setaffinity(int(task.name), cores)


@contextlib.contextmanager
def out_of_the_way(pids: Collection[int], cores: Cores) -> Iterator[None]:
    """A server's processes leave its core to somebody else for a while: idle ones work, too."""
    for pid in pids:
        pin_process(pid, {cores.client})
    try:
        yield
    finally:
        for pid in pids:
            pin_process(pid, {cores.server})


def place(status: Any, cores: Cores) -> None:
    """A node's lanes compute on the server's core; all its other threads go to the client's.

    Args:
        status: `gslice.v1.Status` of the node.
        cores: Which core is whose.
    """
    workers = [worker.pid for function in status.functions for worker in function.workers]
    for pid in (status.pid, *(frontend.pid for frontend in status.frontends), *workers):
        pin_process(pid, {cores.client})
    for pid in workers:
        for task in Path(f"/proc/{pid}/task").iterdir():
            if (task / "comm").read_text().startswith("gslice-lane"):
                os.sched_setaffinity(int(task.name), {cores.server})
