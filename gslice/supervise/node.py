"""What everything that supervises shares: settings, directories, news."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gslice.core.errors import NotFound
from gslice.core.events import EventKind
from gslice.device.limiter import resolved
from gslice.device.users import let_read_models, prepare, worker_users
from gslice.supervise.broker import ThreadBroker
from gslice.supervise.gpu import Gpu
from gslice.supervise.gpu_library import GpuLibrary
from gslice.supervise.hosts import Hosts
from gslice.supervise.ledger import Ledgers
from gslice.supervise.logs import DAEMON_LOG_NAME
from gslice.supervise.oom import OomWatch
from gslice.supervise.run_dir import RunDir
from gslice.supervise.spares import Spares
from gslice.supervise.turn_board import TurnBoards
from gslice.supervise.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from gslice.core.config import DeviceConfig, NodeConfig
    from gslice.core.events import Record
    from gslice.core.types import FunctionSpec
    from gslice.core.users import User
    from gslice.supervise.worker import Worker


_KEY_CHARS = len("MIG-0123abcd")


class Changes:
    """Lets any number of watchers wait for the next change of state.

    Attributes:
        version: Grows with every change.
    """

    def __init__(self) -> None:
        self.version = 0
        self._next: asyncio.Future[None] | None = None

    def notify(self) -> None:
        """Something that a status shows has changed."""
        self.version += 1
        if self._next is not None and not self._next.done():
            self._next.set_result(None)
        self._next = None

    async def wait(self, seen: int, timeout_s: float | None = None) -> None:
        """Returns when the version is no longer `seen`, or after `timeout_s`, if any."""
        if self.version != seen:
            return
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        await asyncio.wait([self._next], timeout=timeout_s)


@dataclass
class Node:
    """The node's settings and the few things of which it has one.

    Attributes:
        config: Settings of the daemon.
        devices: By name.
        run_dir: Where the children's sockets are.
        log_dir: Where their logs go.
        changes: Told of every change of state.
        event: Records something that an operator may want to know later.
        gpus: Those of the devices that are GPUs, by name.
        turns: By device: the order in which shares change there.
        turn_boards: By device: who may run a batch now, where shares over-commit it.
        oom: Whom the kernel killed for want of memory.
        spares: Workers that wait for a function.
        hosts: The processes of GPUs whose functions share one.
        ledgers: What functions have counted.
        stands: Workers that are measured, with the names of their functions; nothing else is begun
            beside them that can wait.
        drained: Devices on which nothing new is placed.
        users: Whom workers run as, by device; those of others run as this process does.
        broker: Holds threads to shares where workers may not do so themselves.
        times_wanted: Whether a function's batches should be timed at its load.
    """

    config: NodeConfig
    devices: dict[str, DeviceConfig]
    run_dir: RunDir
    log_dir: Path
    event: Record
    gpus: dict[str, Gpu] = field(default_factory=dict)
    turns: dict[str, Turns] = field(default_factory=lambda: defaultdict(Turns))
    turn_boards: TurnBoards = field(default_factory=TurnBoards)
    changes: Changes = field(default_factory=Changes)
    oom: OomWatch = field(default_factory=OomWatch)
    spares: Spares = field(init=False)
    hosts: Hosts = field(init=False)
    ledgers: Ledgers = field(init=False)
    stands: dict[Worker, str] = field(default_factory=dict)
    drained: set[str] = field(default_factory=set)
    users: dict[str, User] = field(default_factory=dict)
    broker: ThreadBroker = field(default_factory=ThreadBroker)
    times_wanted: Callable[[FunctionSpec], bool] = lambda _spec: False

    def __post_init__(self) -> None:
        self.spares = Spares(self)
        self.hosts = Hosts(self)
        self.ledgers = Ledgers(self.run_dir, self.event)

    @classmethod
    def open(
        cls,
        config: NodeConfig,
        devices: dict[str, DeviceConfig],
        event: Record | None = None,
    ) -> Node:
        """Makes the directories of a node's state.

        Raises:
            FailedPrecondition: workers cannot run as whom node.yaml names.
        """
        log_dir = config.state_dir / "log"
        log_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        event = event or _log_event
        users = prepare(config, worker_users(devices))
        if text := _told(users):
            event(DAEMON_LOG_NAME, EventKind.DAEMON, text)
        library, home = GpuLibrary(), config.state_dir / "mps"
        gpus = {
            name: Gpu(
                name,
                device,
                library,
                home / mps_key(device.gpu),
                log_dir / f"mps-{mps_key(device.gpu)}.log",
                event,
                users.get(name),
            )
            for name, device in devices.items()
            if device.kind == "cuda"
        }
        run_dir = RunDir(config.state_dir / "run")
        return cls(config, devices, run_dir, log_dir, event, gpus, users=users)

    def device(self, name: str) -> DeviceConfig:
        """A device by name.

        Raises:
            NotFound: there is no such device.
        """
        try:
            return self.devices[name]
        except KeyError:
            known = ", ".join(sorted(self.devices)) or "none"
            raise NotFound(f"there is no device {name}", hint=f"devices: {known}") from None

    def usable(self, name: str) -> bool:
        """Whether functions may be placed on a device, as far as is known."""
        return name in self.devices and name not in self.drained and not self.lost(name)

    def lost(self, name: str) -> bool:
        """Whether a device is a GPU that cannot be used, as far as is known."""
        gpu = self.gpus.get(name)
        return gpu is not None and bool(gpu.problem)

    def limiter(self, device: str, spec: FunctionSpec) -> str:
        """What enforces a function's share on a device; `auto` while a GPU's is not known yet."""
        gpu, config = self.gpus.get(device), self.device(device)
        return config.limiter_of(spec, gpu.limiter if gpu is not None else resolved(config.limiter))

    def uid_of(self, device: str) -> int:
        """The user that the workers of a device run as."""
        user = self.users.get(device)
        return os.geteuid() if user is None else user.uid

    def let_read(self, spec: FunctionSpec) -> None:
        """Lets a function's workers read what of theirs the model cache has."""
        if (user := self.users.get(spec.device)) is not None:
            paths = (spec.model, spec.warmup)
            let_read_models(user, self.config.model_cache.directory, paths)

    async def close_gpus(self) -> None:
        """Ends what was started for them."""
        await asyncio.gather(*(gpu.close() for gpu in self.gpus.values()))

    def log_path(self, name: str) -> Path:
        """The log of a function's workers, of the front-ends or of the daemon."""
        return self.log_dir / f"{name}.log"


def mps_key(gpu: str) -> str:
    """A short name for the files of a GPU's MPS, below which there are sockets.

    Args:
        gpu: As of `DeviceConfig`.
    """
    return gpu[:_KEY_CHARS] if gpu.startswith("MIG-") else gpu[5:].replace("/mig:", "-mig-")


def _told(users: Mapping[str, User]) -> str:
    """Whom workers run as, for an event; nothing where it is whom the daemon runs as."""
    names = ", ".join(f"{user.name} ({device})" for device, user in users.items())
    return f"workers run as {names}" if names else ""


def _log_event(subject: str, kind: EventKind, text: str) -> None:
    logging.getLogger("gslice").info("%s: %s", subject, text)
