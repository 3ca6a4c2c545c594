"""The life of one function: plan, start, load, warm, swap, serve; drain, exit; death and restart.

Orders (load, unload) come one at a time; deaths come whenever they like.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from gslice.control.versions import is_served_as, unknown_to_workers, where_it_is
from gslice.supervise.deployment import Deployment
from gslice.supervise.listing import Listing
from gslice.supervise.logs import shortened
from gslice.supervise.news import unheard
from gslice.supervise.residency import Residency
from gslice.supervise.resize import Resizing
from gslice.supervise.restarts import Restarts
from gslice.supervise.versions import Kept

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from gslice._native import Segment
    from gslice.core.types import FunctionSpec, Signature
    from gslice.supervise.adoption import Group
    from gslice.supervise.budget import Budget
    from gslice.supervise.frontends import Frontends
    from gslice.supervise.node import Node
    from gslice.supervise.program import Program
    from gslice.supervise.worker import Worker


class Function:
    """One function and what runs for it.

    Args:
        node: The node.
        spec: As desired.
        frontends: The front-ends.
        budget: What it may take of the node.
        on_failed: Called when it failed for good and needs its share no longer.

    Attributes:
        spec: As desired; what runs may lag behind while it is loaded anew.
        state: `LOADING`, `READY`, `COLD`, `UNLOADING` or `FAILED`.
        reason: Why it is not READY, or what ails it.
        source: Where it was asked for: `file` or `overlay`.
        accepting: Front-ends take requests for it: it serves, or has them wait for a worker.
        admitted: It counts when its device is divided.
        share_granted_percent: Its part of each of its devices.
        outdated: What serves was loaded for other cores or limiters than its devices have now.
        restarts: What follows a worker's death.
        resizing: What follows another share.
        residency: Whether it is loaded, or rests.
        kept: Its versions that are warm and do not serve.
        program: What runs for it if it is a command, which has no deployments.
        lock: Held by whoever carries out an order.
    """

    def __init__(
        self,
        node: Node,
        spec: FunctionSpec,
        frontends: Frontends,
        budget: Budget,
        on_failed: Callable[[], None],
    ) -> None:
        self.spec = spec
        self.state = "LOADING"
        self.reason = ""
        self.source = "file"
        self.accepting = False
        self.admitted = False
        self.share_granted_percent = 0.0
        self.outdated = False
        self.lock = asyncio.Lock()
        self.program: Program | None = None
        self._node = node
        self._frontends = frontends
        self._budget = budget
        self._on_failed = on_failed
        self._deployment: Deployment | None = None  # the one that serves
        self._next: Deployment | None = None  # the one that is being loaded
        self._retiring: list[Deployment] = []  # those that finish what they have
        self._load_ordered = False
        self.restarts = Restarts(node, self)
        self.resizing = Resizing(node, self, budget)
        self.residency = Residency(node, self, budget)
        self.kept = Kept(node, spec.name)

    # ---- what can be seen --------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The function's name."""
        return self.spec.name

    @property
    def deployment(self) -> Deployment | None:
        """What serves, or served last."""
        return self._deployment

    @property
    def deployments(self) -> list[Deployment]:
        """All that runs: around a load, the old and the new; and versions that are kept."""
        return list(dict.fromkeys([*self.lasting, *self._retiring, *self.kept.deployments]))

    @property
    def lasting(self) -> list[Deployment]:
        """What serves, and what is being loaded to serve next."""
        return [d for d in (self._deployment, self._next) if d is not None]

    @property
    def segment(self) -> Segment | None:
        """The segment that serves."""
        deployment = self._deployment
        return deployment.segment if deployment else None

    @property
    def serving(self) -> bool:
        """Whether workers run for it that clients can reach."""
        return self.state == "READY" and self._deployment is not None

    # ---- orders; the caller holds the lock -----------------------------------------------------

    @contextlib.contextmanager
    def load_ordered(self) -> Iterator[None]:
        """Around a load, from its plan on: it decides what becomes of the function.

        Workers that keep dying meanwhile take neither its share nor its place from it.
        """
        self._load_ordered = True
        try:
            yield
        finally:
            self._load_ordered = False

    async def announce(self) -> None:
        """Says that it is about to be loaded, unless it accepts requests already."""
        if not self.accepting:
            await self.restarts.cancel()
            self.set_state("LOADING", "it is being loaded")
            await self.show("LOADING")

    async def load(
        self, spec: FunctionSpec, stage: Callable[[str, str], None], *, warm: bool = False
    ) -> None:
        """Loads and serves it; what served before goes on until the new workers are warm.

        Args:
            spec: What to load.
            stage: Told of each stage.
            warm: It is a kept version, which only has to take over.

        Raises:
            GsliceError: it could not be loaded; what served before serves on.
        """
        self.restarts.reset()
        begun_s = time.monotonic()
        old = self._deployment
        other = old is not None and old.spec.version != spec.version
        new = self._next = self.kept.take(spec) if warm else self._make(spec)
        try:
            if warm:
                await new.set_share(self.share_granted_percent)
            else:
                await new.start(self._budget, stage)
            stage("swap", f"version {spec.version} for {old.spec.version}" if old and other else "")
            new.serve()
        except BaseException:
            self._next = None
            await new.stop()
            raise
        await self.restarts.cancel()  # not earlier: what served before may have to serve on
        self.spec = spec
        self._deployment, self._next = new, None
        self.accepting, self.outdated = True, False
        self.residency.loaded(0 if warm else round((time.monotonic() - begun_s) * 1e6))
        self.set_state("READY")
        # Nobody replaced those that died while the others warmed up.
        self.restarts.replace_missing(new, "died before the others were warm")
        await self.show("READY")
        self.resizing.order()  # a kept one may have another share
        if old is not None:
            await self._retire(old, stage, keep=other and spec.versions.keep > 1)

    async def unload(self, stage: Callable[[str, str], None]) -> None:
        """Has all accepted requests answered, ends the workers, and is forgotten."""
        self.accepting = False
        self.set_state("UNLOADING", "it is being unloaded")
        await self._halt()
        await self.show("UNLOADING")
        await self.kept.stop()
        if self._deployment is not None:
            await self._retire(self._deployment, stage)
        await self._frontends.forget(self.name)
        self._deployment = None

    async def adopt(
        self, segment: Segment, signature: Signature, workers: Sequence[Worker]
    ) -> None:
        """Goes on with what served before this daemon started.

        Args:
            segment: Its segment, cleaned of the dead.
            signature: Of the model.
            workers: Ready ones, at least one.
        """
        deployment = self._make(self.spec)
        deployment.adopt(segment, signature, workers)
        deployment.serve()
        self._deployment, self.accepting = deployment, True
        self.residency.loaded(0)
        self.set_state("READY")
        self.restarts.replace_missing(deployment, "ended while no daemon ran")
        await self.show("READY")

    def open_cold(self, signature: Signature) -> None:
        """Takes requests without a worker; whoever calls it sees to the rest.

        Raises:
            ResourceExhausted: no memory is left for its segment.
        """
        deployment = self._make(self.spec)
        deployment.open_segment(signature, self._budget.segment_bytes())
        self._deployment, self.accepting = deployment, True

    async def retire(self, group: Group, *, keep: bool) -> None:
        """Takes over another deployment: a version that was kept, or of an interrupted load.

        Args:
            group: Its segment and workers.
            keep: It stays warm, if it can; else it ends.
        """
        other = self._make(group.spec)
        other.adopt(group.segment, group.signature, group.workers)
        await self._retire(other, unheard, keep=keep)

    def runs(self, spec: FunctionSpec) -> bool:
        """Whether it is as wanted, or has failed to be."""
        return self.spec == where_it_is(spec, self.spec) and not self.outdated

    def takes_in_place(self, before: FunctionSpec, after: FunctionSpec) -> bool:
        """Whether what serves can go on with other settings: only those of `take_over` differ."""
        suffices = before != after and is_served_as(before, after)
        to_be_loaded = self.state == "COLD" and before.residency != after.residency != "cold"
        return suffices and self.accepting and not self.outdated and not to_be_loaded

    def take_over(self, spec: FunctionSpec) -> None:
        """Takes over a new residency and requested share; the supervisor grants that."""
        self.spec = spec
        if self._deployment is not None:
            self._deployment.spec = unknown_to_workers(self._deployment.spec, spec)

    async def grant(self, share_percent: float) -> None:
        """Sets the share of what serves and of what is being loaded, but not of what moves away.

        Workers that cannot change theirs in place are replaced after any other order.
        """
        self.share_granted_percent = share_percent
        for deployment in self.lasting:
            if not set(deployment.spec.placed).isdisjoint(self.spec.placed):
                await deployment.set_share(share_percent)
        self.resizing.order()

    async def fail(self, reason: str) -> None:
        """It does not serve, and nothing more is tried until somebody loads it again."""
        self.admitted, self.share_granted_percent = False, 0.0
        if self._deployment is not None:
            self._deployment.forget_weights()
        await self._refuse("FAILED", "UNAVAILABLE", reason.removeprefix(f"function {self.name}: "))

    async def stop(self, drain_s: float) -> None:
        """Ends it with the daemon: finishes what was claimed, then ends the workers."""
        self.accepting = False
        await self._halt()
        self.set_state("UNLOADING", "the daemon is stopping")
        if self._next is not None:
            await self._next.instances.discard_all()  # its load fails, and says so to who asked
        if self._deployment is not None:
            await self._deployment.drain(drain_s)
            await self._deployment.stop()
        await self.kept.stop()

    async def kill(self) -> None:
        """Ends it at once."""
        self.accepting = False
        await self._halt()
        for deployment in self.deployments:
            await deployment.kill()

    async def leave(self) -> None:
        """Lets what runs run on, for the next daemon."""
        await self._halt()
        for deployment in self.deployments:
            deployment.detach()

    # ---- front-ends, hangs -----------------------------------------------------------------------

    def add_frontend(self, index: int, eventfd: int) -> None:
        """A front-end will lease slots."""
        for deployment in self.deployments:
            deployment.add_frontend(index, eventfd)

    def remove_frontend(self, index: int) -> None:
        """A front-end died."""
        for deployment in self.deployments:
            deployment.remove_frontend(index)

    def kill_hung(self, now_ns: int) -> None:
        """Kills workers that make no progress."""
        for deployment in self.deployments:
            deployment.instances.kill_hung(now_ns)

    # ---- deaths --------------------------------------------------------------------------------

    def restarted(self) -> None:
        """A worker serves in place of a dead one."""
        self.set_state("READY")
        self.resizing.order()  # it may have begun with another share

    async def lost_for_good(self, reason: str) -> None:
        """Its workers keep dying, and none is left."""
        if self._load_ordered:  # it needs the share, and decides what becomes of the function
            await self._refuse("LOADING", "LOADING", reason)
        else:
            await self.fail(reason)
            self._on_failed()

    async def _refuse(self, state: str, shown: str, reason: str) -> None:
        """Takes no more requests; what waits is answered, even if a load interrupts us."""
        self.accepting = False
        self.set_state(state, reason)
        try:
            await self.show(shown)
        finally:
            if self._deployment is not None:
                self._deployment.fail_queued(reason)

    # ---- parts -----------------------------------------------------------------------------

    def _make(self, spec: FunctionSpec) -> Deployment:
        share = self.share_granted_percent
        return Deployment(self._node, spec, share, self._frontends, self._worker_lost)

    def _worker_lost(
        self, deployment: Deployment, device: str, how: str, blamed: bool, died_s: float
    ) -> None:
        if not self.kept.lost(deployment, how):
            self.restarts.worker_lost(deployment, device, how, blamed, died_s)

    async def _retire(
        self, old: Deployment, stage: Callable[[str, str], None], *, keep: bool = False
    ) -> None:
        """Ends a deployment that front-ends send nothing to any more, or keeps it warm."""
        self._retiring.append(old)
        kept = False
        try:
            stage("drain", "")
            deadline_s = time.monotonic() + self._node.config.drain_timeout_us / 1e6
            kept = keep and await old.settle(deadline_s) and self.kept.hold(old)
            if kept:
                stage("keep", f"version {old.spec.version} stays warm")
                return
            drained = await old.drain(max(0.0, deadline_s - time.monotonic()))
            stage("exit", "" if drained else "some requests were not answered in time")
        finally:
            if not kept:
                await old.stop()  # also where a stop of the daemon cancels us
            self._retiring.remove(old)

    async def _halt(self) -> None:
        """Begins nothing by itself any more."""
        for part in (self.restarts, self.resizing, self.residency, self.kept):
            await part.cancel()

    def set_state(self, state: str, reason: str = "") -> None:
        """Shows a state, and why, to whoever watches."""
        self.state, self.reason = state, shortened(reason)
        self._node.changes.notify()

    async def show(self, state: str, reason: str = "") -> None:
        """Has front-ends go by a state of it.

        Args:
            state: As clients may see it.
            reason: Empty: its own.
        """
        deployment, told = self._deployment, shortened(reason or self.reason)
        if deployment is None:
            await self._frontends.show(Listing(self.spec, state, told))
            return
        segment, signature = deployment.segment, deployment.signature
        load_us = self.residency.load_us
        await self._frontends.show(
            Listing(deployment.spec, state, told, segment, signature, load_us)
        )
