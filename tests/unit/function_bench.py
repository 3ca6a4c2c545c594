"""Functions whose deployments are made up, on a node without children."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from gslice.core.config import load_config
from gslice.core.errors import LoadFailed, Unavailable
from gslice.core.types import FunctionSpec, ShareBounds
from gslice.supervise.function import Function
from gslice.supervise.node import Node
from gslice.supervise.supervisor import Supervisor

SPEC = FunctionSpec("a", model="/a.onnx", share=ShareBounds(80, 80))


class Running:
    """A deployment of two instances, of which one died."""

    segment = signature = None

    def __init__(self, spec: FunctionSpec = SPEC, ready: int = 1) -> None:
        self.spec = spec
        self.workers = ["one"] * ready
        self.may_start = asyncio.Event()
        self.answered: list[str] = []
        self.shares: list[float] = []
        self.share_percent = 0.0

    @property
    def ready(self) -> int:
        return len(self.workers)

    async def start(self, *_: object) -> None:
        """It is warm already."""

    def serve(self) -> None:
        """Nothing pulls."""

    @property
    def wanted(self) -> int:
        return self.spec.instances * len(self.spec.placed)

    @property
    def missing(self) -> list[str]:
        return [self.spec.device] * (self.wanted - self.ready)

    def forget_weights(self) -> None:
        """There are none."""

    def stale(self) -> list[str]:
        return []

    async def replace(self, device: str) -> None:
        await self.may_start.wait()
        self.workers.append("another")

    async def set_share(self, share_percent: float) -> None:
        self.shares.append(share_percent)
        self.share_percent = share_percent

    async def drain(self, timeout_s: float) -> bool:
        await self.may_start.wait()
        return True

    async def stop(self) -> None:
        self.workers.clear()

    def fail_queued(self, reason: str) -> None:
        self.answered.append(reason)


class Broken(Running):
    """A deployment that does not start, and whose workers do not either."""

    async def start(self, *_: object) -> None:
        raise LoadFailed("no such model")

    async def replace(self, device: str) -> None:
        raise LoadFailed("no such model")


class OutOfReach(Running):
    """A deployment that is warm, and whose lock somebody holds who hangs."""

    def serve(self) -> None:
        raise Unavailable("the function's lock is held by a process that hangs")


def unheard(stage: str, detail: str) -> None:
    """Stages of a load that nobody watches."""


def serves(function: Function, deployment: Any) -> Any:
    """Has a function be served by a deployment."""
    function._deployment = deployment
    function.state, function.accepting = "READY", True
    return deployment


def make_supervisor(tmp_path: Path, events: list[str]) -> Supervisor:
    config = load_config(None, environ={"GSLICE_NODE__STATE_DIR": str(tmp_path)})
    node = Node.open(config.node, config.devices, lambda subject, kind, text: events.append(text))
    return Supervisor(node, lambda child, received: None)


def add(supervisor: Supervisor, spec: FunctionSpec) -> Function:
    function = supervisor.functions[spec.name] = supervisor._new_function(spec)
    function.admitted = True
    return function
