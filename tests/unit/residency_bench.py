"""A function whose workers come and go over a real segment, without processes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from gslice import _native
from gslice.core.errors import Unavailable
from gslice.core.types import FunctionSpec, MemoryTaken, Signature, TensorSpec
from gslice.ipc.native import native_signature
from gslice.supervise.function import Function
from tests.served import request_bytes
from tests.unit.function_bench import add, make_supervisor

SIGNATURE = Signature(
    (TensorSpec("x", "INT64", (-1, 1)),), (TensorSpec("y", "INT64", (-1, 1)),), rows_max=4
)
SPEC = FunctionSpec("f", engine="identity", residency="cold", idle_after_us=100_000)


class Resting:
    """A deployment over a real segment, with idle workers and a front-end of its own."""

    def __init__(self, spec: FunctionSpec = SPEC) -> None:
        self.spec = spec
        self.signature = SIGNATURE
        self.segment = _native.Segment.create(spec.name, [(4096, 8)], 4096, 1)
        self.segment.activate_frontend(0)
        self.frontend = _native.Frontend(0)
        shape = native_signature(SIGNATURE)
        self.frontend.add_function(spec.name, "1", self.segment, shape, 0)
        self.workers: list[Any] = []
        self.instances = SimpleNamespace(discard=self._discard, let_go=self._let_go)
        self.failure: Exception | None = None
        self.on_let_go: Callable[[], None] = lambda: None
        self.failed: list[str] = []
        self._start()
        self.serve()

    @property
    def ready(self) -> int:
        return sum(worker.ready for worker in self.workers)

    @property
    def wanted(self) -> int:
        return self.spec.instances

    @property
    def idle(self) -> bool:
        counts = self.segment.counts()
        return counts["leased"] == counts["queued"] == counts["claimed"] == 0

    @property
    def pulling(self) -> int:
        return sum(self.segment.may_pull(worker.instance) for worker in self.workers)

    def queue(self) -> int:
        return self.frontend.submit(
            request_bytes("f", {"x": np.ones((1, 1), np.int64)}, SIGNATURE), None
        )

    def serve(self) -> None:
        for worker in self.workers:
            self.segment.flip(None, worker.instance)

    async def prepare(self, device: str) -> None:
        if self.failure is not None:
            raise self.failure
        self._start()

    async def _let_go(self, worker: Any) -> None:
        self.on_let_go()
        self.workers.remove(worker)
        self.segment.remove_instance(worker.instance)

    def fail_queued(self, reason: str) -> None:
        self.failed.append(reason)
        self.segment.fail_queued(Unavailable.code, reason)

    def forget_weights(self) -> None:
        """There are none."""

    async def _discard(self, worker: Any) -> None:
        self.workers.remove(worker)

    def _start(self) -> None:
        instance = self.segment.add_instance()
        self.workers.append(
            SimpleNamespace(
                instance=instance,
                device=self.spec.device,
                ready=True,
                draining=False,
                expected_to_end=False,
                memory=MemoryTaken(1),
                weights=None,
            )
        )


class Case:
    """A function that serves, on a node without children."""

    def __init__(self, tmp_path: Path, spec: FunctionSpec = SPEC) -> None:
        self.events: list[str] = []
        self.supervisor = make_supervisor(tmp_path, self.events)
        self.function: Function = add(self.supervisor, spec)
        self.deployment = Resting(spec)
        self.function._deployment = self.deployment  # type: ignore[assignment]
        self.function.state, self.function.accepting = "READY", True
        self.residency = self.function.residency
        self.shown: list[str] = []
        self.on_show: dict[str, Callable[[], Any]] = {}
        self.supervisor.frontends.show = self._show  # type: ignore[method-assign]

    async def rest(self) -> bool:
        return await self.residency.evict("g")

    async def settle(self) -> None:
        """Waits until nothing goes on."""
        while tasks := list(self.residency._tasks):
            await asyncio.wait(tasks)

    async def _show(self, listing: Any) -> None:
        self.shown.append(listing.state)
        self.on_show.pop(listing.state, lambda: None)()
        await asyncio.sleep(0)
