"""Owns every function and every front-end of the node."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING

from gslice.core.errors import FailedPrecondition, NotFound
from gslice.core.events import EventKind
from gslice.supervise.adoption import (
    adopt_hosts,
    best,
    find_children,
    give_up,
    recover,
)
from gslice.supervise.budget import NodeBudget
from gslice.supervise.care import care
from gslice.supervise.command import Command
from gslice.supervise.frontends import Frontends
from gslice.supervise.function import Function
from gslice.supervise.listing import Listing
from gslice.supervise.loading import Loading, check_settings
from gslice.supervise.logs import DAEMON_LOG_NAME
from gslice.supervise.news import recorded, unheard
from gslice.supervise.placing import Placing
from gslice.supervise.profiling import Profiler
from gslice.supervise.program import check
from gslice.supervise.program_note import end_all, read_notes
from gslice.supervise.recall import nothing
from gslice.supervise.resize import Resized, ResizePlan
from gslice.supervise.sharing import Sharing
from gslice.supervise.spares import engines_in_use
from gslice.supervise.tasks import Tasks
from gslice.supervise.versions import AsDeclared
from gslice.supervise.worker import LOAD_TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gslice.core.types import FunctionSpec, ShareBounds
    from gslice.ipc.channel import Received
    from gslice.supervise.adoption import Group
    from gslice.supervise.child import Child
    from gslice.supervise.node import Node
    from gslice.supervise.recall import Recall
    from gslice.supervise.versions import Numbers

_LOST = "its workers died while no daemon ran; starting others"


class Supervisor:
    """All that runs on the node.

    Args:
        node: The node.
        on_call: Takes what a front-end asks of the daemon.
        recall: What earlier loads showed.
        numbers: Knows the versions of functions.

    Attributes:
        functions: By name, in the order in which they were asked for.
        frontends: The front-ends.
        found: Children that an earlier daemon left.
        profiler: Measures functions beside what serves.
        placing: Chooses the devices of those that may run on several.
        sharing: Divides the devices.
    """

    def __init__(
        self,
        node: Node,
        on_call: Callable[[Child, Received], None],
        recall: Recall = nothing,
        numbers: Numbers | None = None,
    ) -> None:
        self.node = node
        self.functions: dict[str, Function] = {}
        self._on_call = on_call
        self._numbers = numbers or AsDeclared()
        self._budget = NodeBudget(node, self.functions, recall)
        self.frontends = Frontends(node, on_call, self._frontend_up, self._frontend_down)
        self.found: list[Child] = []
        self.profiler = Profiler(node, self.functions, self.frontends, self._budget)
        self.sharing = Sharing(node, self.functions, self._budget)
        self.placing = Placing(node, self.functions, self._numbers.last_placed)
        self._loading = Loading(self._budget, self.sharing, self._numbers, self.placing)
        self._tasks = Tasks(DAEMON_LOG_NAME, node.event)

    # ---- adoption ----------------------------------------------------------------------------

    async def adopt(self, desired: Mapping[str, FunctionSpec]) -> None:
        """Takes over what an earlier daemon left; what nobody wants any more is unloaded.

        Functions that were changed meanwhile serve on as they were, until they are loaded.

        Args:
            desired: The functions wanted, by name.

        Raises:
            Unavailable: somebody else listens where the front-ends should.
        """
        found = await find_children(self.node, self._on_call)
        self.found = found.children
        self.frontends.check_address([c.hello.frontend for c in found.frontends])
        # What they have claimed must be theirs no more when it is queued again.
        adopt_hosts(self.node, found)
        await asyncio.gather(*(child.dismiss(LOAD_TIMEOUT_S) for child in found.useless))
        self.node.turn_boards.keep((w.device, w) for g in found.groups for w in g.workers)
        for child in found.frontends:
            assert child.hello.frontend is not None
            await self.frontends.adopt(child, child.hello.frontend)
        desired = {name: self._numbers.likely(spec) for name, spec in desired.items()}
        by_name: dict[str, list[Group]] = {}
        for group in found.groups:
            by_name.setdefault(group.spec.name, []).append(group)
        for name in [*(n for n in desired if n in by_name), *(by_name.keys() - desired.keys())]:
            await self._adopt_function(by_name[name], desired.get(name))
        programs = await self._adopt_programs()
        known = {n for c in found.frontends if c.hello.frontend for n in c.hello.frontend.functions}
        unserved = known - self.functions.keys()
        await self.frontends.forget(*(unserved - desired.keys()))
        for name in unserved & desired.keys():
            if desired[name].residency != "cold":  # else it was not loaded, most likely
                self.node.event(name, EventKind.CRASH, _LOST)
            await self.frontends.show(Listing(desired[name], "LOADING", _LOST))
        for segment in found.orphans:
            self.frontends.wake(give_up(segment))
        await self.sharing.adopt()
        await asyncio.gather(
            *(self.unload(n, unheard) for n in {*by_name, *programs} if n not in desired)
        )

    async def _adopt_function(self, groups: list[Group], desired: FunctionSpec | None) -> None:
        chosen = best(groups, desired)
        versions = desired.versions if desired else chosen.spec.versions
        placed = self.placing.adopted(chosen.spec)
        spec = dataclasses.replace(chosen.spec, versions=versions).placed_on(placed)
        function = self._new_function(spec)
        function.admitted = True
        function.share_granted_percent = chosen.share_percent
        function.outdated = chosen.outdated
        self.functions[function.name] = function
        for group in groups:
            self.frontends.wake(recover(group, self.frontends.eventfds(), self.node.event))
        await function.adopt(chosen.segment, chosen.signature, chosen.workers)
        for group in sorted(groups, key=lambda each: int(each.spec.version)):
            if group is not chosen:
                keep = versions.keep > 1 and self._numbers.has_served(group.spec)
                await function.retire(group, keep=keep and not group.outdated)
        await function.kept.trim(function.spec)
        served = f"{len(chosen.workers)} of {spec.instances * len(placed)} workers"
        self.node.event(function.name, EventKind.ADOPT, f"adopted {served} that serve it")

    async def _adopt_programs(self) -> list[str]:
        """Takes over programs that run on; returns the names of their functions."""
        adopted = []
        for name, note in read_notes(self.node).items():
            command = Command(self.node, note.spec, self.frontends, self._budget, self._failed)
            if name in self.functions:  # a model was about to take its place
                await end_all(self.node, note)
            elif await command.take_back(note):
                self.functions[name] = command
                adopted.append(name)
        return adopted

    # ---- functions ---------------------------------------------------------------------------

    async def load(
        self,
        spec: FunctionSpec,
        stage: Callable[[str, str], None],
        source: str = "file",
        *,
        lazily: bool = False,
        anew: bool = False,
    ) -> None:
        """Adds a function, or loads one anew; where only its share changed, in place.

        Args:
            spec: What to load.
            stage: Told of each stage as it begins.
            source: Where the wish comes from, `file` or `overlay`.
            lazily: One whose residency is `cold` may wait for a request, if its signature is known.
            anew: What it names by a URL is taken as it is there now.

        Raises:
            GsliceError: why it does not serve. What served before serves on, unless a program takes
                the place of a model or a model that of a program: one ends before the other starts.
        """
        check_settings(spec)
        stage = recorded(self.node.event, spec.name, stage)
        stage("plan", "")
        while True:
            function = self.functions.get(spec.name)
            if function is None:
                function = self.functions[spec.name] = self._new_function(spec)
            async with function.resizing.ordered():
                # It may have been unloaded while we waited for its lock.
                if self.functions.get(spec.name) is not function:
                    continue
                if (function.spec.program is None) is not (spec.program is None):
                    self._check_possible(function, spec)
                    await function.unload(stage)  # a program and a model are led differently
                    self.functions.pop(spec.name, None)
                else:
                    await self._loading.carry_out(function, spec, stage, lazily=lazily, anew=anew)
                    function.source = source
                    self.node.changes.notify()
                    return

    async def unload(self, name: str, stage: Callable[[str, str], None]) -> None:
        """Drains and removes a function.

        Raises:
            NotFound: there is none of that name.
        """
        function = self.function(name)
        async with function.resizing.ordered():
            self._check_present(function)
            await function.unload(recorded(self.node.event, name, stage))
            self.functions.pop(name, None)  # a stop forgets all
        await self.sharing.share_out()
        self.node.changes.notify()

    async def move(
        self, name: str, devices: Sequence[str], stage: Callable[[str, str], None]
    ) -> None:
        """Has a function serve on other devices.

        Where it keeps one, replicas come and go beside that; else it is loaded beside what serves.

        Args:
            name: The function's.
            devices: All that it is to run on, the first first.
            stage: Told of each stage.

        Raises:
            NotFound: there is no such function.
            FailedPrecondition: it may not run there, or another model would come along.
            GsliceError: why it cannot be loaded there. What served before serves on.
        """
        function = self.function(name)
        async with function.resizing.ordered():
            self._check_present(function)
            tell = recorded(self.node.event, name, stage)
            before, after = ", ".join(function.spec.placed), ", ".join(devices)
            tell("plan", f"from {before} to {after}")
            await self._loading.carry_out(function, function.spec, tell, devices=devices)
            self.node.changes.notify()

    async def resize(
        self, name: str, share: ShareBounds, stage: Callable[[str, str], None]
    ) -> Resized:
        """Changes the share of a function that serves; an older order that still runs gives way.

        Args:
            name: The function's.
            share: As requested from now on.
            stage: Told of each stage.

        Raises:
            NotFound: there is none of that name.
            FailedPrecondition: it does not serve.
            ResourceExhausted: fixed shares and minima do not fit, or a shadow's memory does not.
            Cancelled: a newer order came before the swap.
            GsliceError: why no shadow could be prepared. What served before serves on.
        """
        function = self.function(name)
        async with function.resizing.ordered():
            function.resizing.check_newest()
            self._check_present(function)
            plan = await self.plan_resize(name, share)
            tell = recorded(self.node.event, name, stage)
            tell("plan", plan.text)
            return await self.sharing.resize(function, share, plan, tell)

    async def plan_resize(self, name: str, share: ShareBounds) -> ResizePlan:
        """What a resize would do.

        Raises:
            GsliceError: as `resize`, before anything is done.
        """
        return await self.sharing.plan_resize(self.function(name), share)

    def function(self, name: str) -> Function:
        """A function by name.

        Raises:
            NotFound: there is none of that name.
        """
        try:
            return self.functions[name]
        except KeyError:
            known = ", ".join(sorted(self.functions)) or "none"
            raise NotFound(f"there is no function {name}", hint=f"functions: {known}") from None

    @property
    def specs(self) -> list[FunctionSpec]:
        """What functions were asked to be, and what they run or keep."""
        every = ((f.spec, *(d.spec for d in f.deployments)) for f in self.functions.values())
        return [spec for specs in every for spec in specs]

    @property
    def inherited(self) -> bool:
        """Whether anything runs that an earlier daemon left."""
        programs = (f.program for f in self.functions.values() if f.program is not None)
        return bool(self.found) or any(program.inherited for program in programs)

    def check_settled(self) -> None:
        """What a change of daemons would interrupt.

        Raises:
            FailedPrecondition: an order is being carried out.
        """
        for name, function in self.functions.items():
            if function.lock.locked():
                raise FailedPrecondition(
                    f"function {name} is being loaded, unloaded or resized",
                    hint="wait until that is done: gslice status",
                )

    # ---- care, and end ---------------------------------------------------------------------

    async def care(self) -> None:
        """Until cancelled: looks after what no event tells of, which is hangs and log sizes."""
        await care(self.node, self.functions)

    async def keep_spares(self) -> None:
        """Until cancelled: has spares for the engines in use."""
        await self.node.spares.keep(lambda: engines_in_use(self.node, self.functions.values()))

    async def stop(self, drain_s: float) -> None:
        """Staged end: stop accepting and drain, then close everything."""
        self._loading.closed = True
        await self.node.spares.close()
        await self.frontends.drain(drain_s)
        await self.frontends.stop(drain_s)
        await asyncio.gather(*(f.stop(drain_s) for f in self.functions.values()))
        await self._tasks.cancel()
        self.functions.clear()
        await self.node.hosts.close()
        await self.node.close_gpus()

    async def kill(self) -> None:
        """The end without grace: every child is killed."""
        self._loading.closed = True
        await self._tasks.cancel()
        self.node.hosts.expect_end()
        ends = [self.node.spares.close(), self.frontends.kill()]
        await asyncio.gather(*ends, *(f.kill() for f in self.functions.values()))
        await self.node.hosts.kill()
        await self.node.close_gpus()

    async def leave(self) -> None:
        """Lets everything run on, for the next daemon."""
        self._loading.closed = True
        await self.node.spares.close()
        await self.frontends.leave()
        await asyncio.gather(*(f.leave() for f in self.functions.values()))
        self.node.hosts.leave()
        await self._tasks.cancel()
        for child in self.found:
            child.detach()
        self.functions.clear()

    # ---- parts -----------------------------------------------------------------------------

    def _check_possible(self, function: Function, spec: FunctionSpec) -> None:
        """What can be known before what serves is given up for it."""
        if spec.program is not None:
            check(spec)
        self.sharing.plan(function, self.placing.place(function, spec))

    def _new_function(self, spec: FunctionSpec) -> Function:
        kind = Function if spec.program is None else Command
        return kind(self.node, spec, self.frontends, self._budget, self._failed)

    def _check_present(self, function: Function) -> None:
        """Whoever waited for its lock may find it unloaded."""
        if self.functions.get(function.name) is not function:
            raise NotFound(f"there is no function {function.name}")

    def _failed(self) -> None:
        self._tasks.start(self.sharing.share_out())

    def _frontend_up(self, index: int, eventfd: int) -> None:
        for function in self.functions.values():
            function.add_frontend(index, eventfd)

    def _frontend_down(self, index: int) -> None:
        for function in self.functions.values():
            function.remove_frontend(index)
