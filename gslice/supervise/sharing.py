"""Divides the devices among the functions that count on them."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING

from gslice.control.quotas import Quotas
from gslice.control.shares import Holding, allocate_all, differs, shrinks_first
from gslice.core.errors import FailedPrecondition, GsliceError, ResourceExhausted
from gslice.core.events import EventKind
from gslice.core.types import ShareBounds
from gslice.supervise.isolation import check_isolation
from gslice.supervise.logs import DAEMON_LOG_NAME
from gslice.supervise.resize import ResizePlan

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from gslice.core.access import ShareQuota
    from gslice.core.types import FunctionSpec
    from gslice.supervise.budget import NodeBudget
    from gslice.supervise.function import Function
    from gslice.supervise.node import Node
    from gslice.supervise.resize import Resized


class Sharing:
    """Who may have a share, and how much everybody gets.

    Args:
        node: The node.
        functions: What runs, by name; read when asked.
        budget: What a shadow may take beside what serves.
    """

    def __init__(self, node: Node, functions: Mapping[str, Function], budget: NodeBudget) -> None:
        self._node = node
        self._functions = functions
        self._budget = budget
        self._decided: dict[str, float] = {}
        self._in_turns: frozenset[str] = frozenset()
        self._lock = asyncio.Lock()

    def admit(self, function: Function, spec: FunctionSpec) -> None:
        """Counts a function in, if its device can hold it.

        Raises:
            ResourceExhausted: fixed shares and minima do not fit.
            FailedPrecondition: somebody is there beside whom it may not be.
            NotFound: there is no such device.
        """
        self.plan(function, spec)
        function.spec, function.admitted = spec, True

    def plan(self, function: Function, spec: FunctionSpec) -> dict[str, float]:
        """The share of every function, if one of them had other settings.

        Raises:
            ResourceExhausted: fixed shares and minima do not fit.
            FailedPrecondition: somebody is there beside whom it may not be.
            NotFound: there is no such device.
        """
        others = [f for f in self._functions.values() if f is not function]
        check_isolation(self._node, others, spec)
        return self._division([*(f.spec for f in others if f.admitted), spec])

    async def plan_resize(self, function: Function, share: ShareBounds) -> ResizePlan:
        """What another share for a function would do.

        Raises:
            FailedPrecondition: its share cannot change now.
            ResourceExhausted: fixed shares and minima do not fit, or a shadow's memory does not.
        """
        if function.spec.exclusive:
            raise FailedPrecondition(
                f"function {function.name} has its devices to itself, and all of their shares"
            )
        function.resizing.check_possible(share)
        name, deployment = function.name, function.deployment
        shares = self.plan(function, dataclasses.replace(function.spec, share=share))
        changes = {
            other: (f.share_granted_percent, shares[other])
            for other, f in self._functions.items()
            if other in shares and differs(f.share_granted_percent, shares[other])
        }
        path = function.resizing.path_to(shares[name])
        if path != "shadow" or deployment is None:
            return ResizePlan(path, shares[name], changes)
        for device in deployment.spec.placed:
            need = function.resizing.shadow_need(deployment, device)
            await self._budget.check(need)
        on_gpu = need.device in self._node.gpus
        parts = need.memory.device_parts if on_gpu else need.memory.host_parts
        return ResizePlan(path, shares[name], changes, parts)

    async def resize(
        self,
        function: Function,
        share: ShareBounds,
        plan: ResizePlan,
        stage: Callable[[str, str], None],
    ) -> Resized:
        """Gives a function another share, and everybody theirs; the caller holds its lock.

        Raises:
            GsliceError: as `Resizing.carry_out`; all shares are as before.
        """
        before = function.spec
        function.take_over(dataclasses.replace(before, share=share))
        try:
            await self.share_out()
            resized = await function.resizing.carry_out(stage)
        except GsliceError:
            function.take_over(before)
            await self.share_out()
            raise
        finally:
            self._node.changes.notify()
        return dataclasses.replace(resized, path=plan.path)

    async def follow(
        self, decided: Mapping[str, float], in_turns: Collection[str] = frozenset()
    ) -> None:
        """Has functions get what was decided for them, as far as bounds and limits allow.

        Turns begin before shares over-commit a device, and end when what serves there fits again:
        a shadow may be needed for that, so this is to be called again and again.

        Args:
            decided: Shares by name; others get what is left, max-min fairly.
            in_turns: Devices on which decided shares may add up to more than there is.
        """
        before = self._decided, self._in_turns
        self._decided, self._in_turns = dict(decided), frozenset(in_turns)
        self._see_to_turns()
        if before != (self._decided, self._in_turns):
            await self.share_out()

    async def adopt(self) -> None:
        """Divides what was adopted, the first time.

        What an earlier daemon's controller decided holds until this one's has.
        """
        if self._node.config.controller == "auto":
            boards, admitted = self._node.turn_boards, self._admitted()
            self._decided = {f.name: f.share_granted_percent for f in admitted}
            over = (d for d in self._node.devices if boards.of(d).limit_percent is not None)
            self._in_turns = frozenset(over)
        await self.share_out()

    async def share_out(self) -> None:
        """Divides the devices among all that are admitted; shrinks go before grows."""
        async with self._lock:
            admitted = {f.name: f for f in self._admitted()}
            try:
                target = self._division(f.spec for f in admitted.values())
            except ResourceExhausted as error:
                # Adopted under other limits; they keep their shares until they are loaded anew.
                text = f"shares stay as they are: {error}"
                self._node.event(DAEMON_LOG_NAME, EventKind.SHARE, text)
                return
            current = {name: f.share_granted_percent for name, f in admitted.items()}
            for name, share_percent in shrinks_first(current, target):
                function = admitted[name]
                # It may have failed, or been unloaded, while another took its share.
                if function.admitted and self._functions.get(name) is function:
                    await self._grant(function, share_percent)
            self._see_to_turns()
        self._node.changes.notify()

    def taken(self) -> dict[ShareQuota, float]:
        """What functions have of all quotas, in percent of a device; from any thread."""
        shares: dict[str, dict[str, float]] = {}
        quotas: dict[str, ShareQuota] = {}
        for function in self._admitted():
            if quota := self._node.config.share_quota(function.name):
                quotas[function.name] = quota
                for device in function.spec.placed:
                    there = shares.setdefault(device, {})
                    there[function.name] = function.share_granted_percent
        limits = {name: self._node.device(name).share_limit_percent for name in shares}
        none = dict.fromkeys(self._node.config.share_quotas, 0.0)
        return none | Quotas(quotas, limits).taken(shares)

    def _admitted(self) -> list[Function]:
        return [f for f in list(self._functions.values()) if f.admitted]

    def _division(self, specs: Iterable[FunctionSpec]) -> dict[str, float]:
        """The share of each function on each of its devices."""
        asked: dict[str, dict[str, ShareBounds]] = {}
        holdings: dict[ShareQuota, dict[str, Holding]] = {}
        names = set()
        for spec in specs:
            names.add(spec.name)
            for device in spec.placed:
                asked.setdefault(device, {})[spec.name] = self._request(spec)
            if quota := self._node.config.share_quota(spec.name):
                holdings.setdefault(quota, {})[spec.name] = self._holding(spec)
        limits = {device: self._node.device(device).share_limit_percent for device in asked}
        for device, functions in asked.items():
            room = limits[device] - sum(bounds.min_percent for bounds in functions.values())
            for name, share_percent in self._leaving(device).items():
                kept = min(share_percent, max(0.0, room))  # what others need they have
                functions[f"{name}, which leaves"] = ShareBounds(kept, kept)
                room -= kept
        shares = allocate_all(asked, limits, holdings)
        divided = {name: shares[name] for name in names}
        in_turns = divided | self._in_turn(asked)
        quotas = Quotas({n: quota for quota, own in holdings.items() for n in own}, limits)
        on_devices = {d: {n: in_turns[n] for n in own if n in names} for d, own in asked.items()}
        return divided if quotas.overdrawn(on_devices) else in_turns

    def _holding(self, spec: FunctionSpec) -> Holding:
        """What a function asks of its tenant's quota: of devices to itself, all that there is."""
        bounds = self._request(spec)
        if spec.exclusive:
            most = max(self._node.device(device).share_limit_percent for device in spec.placed)
            bounds = ShareBounds(most, most)
        return Holding(bounds, len(spec.placed))

    def _in_turn(self, asked: Mapping[str, Mapping[str, ShareBounds]]) -> dict[str, float]:
        """What those get that were decided to take turns, wherever they are."""
        alone: dict[str, float] = {}
        side_by_side: set[str] = set()
        for device, functions in asked.items():
            if device not in self._in_turns:
                side_by_side.update(functions)
                continue
            most = self._turns_limit(device)
            for name in functions.keys() & self._decided.keys():
                share = min(functions[name].max_percent, most)
                alone[name] = min(share, alone.get(name, share))
        return {name: share for name, share in alone.items() if name not in side_by_side}

    def _see_to_turns(self) -> None:
        for device in self._node.devices:
            limit_percent = self._turns_limit(device) if device in self._in_turns else None
            if limit_percent is None and self._is_over_committed(device):
                continue
            if self._node.turn_boards.set_turns(device, limit_percent):
                text = f"device {device}: its functions take no turns any more"
                if limit_percent is not None:
                    text = f"device {device}: its functions take turns, {limit_percent:g}% at once"
                self._node.event(DAEMON_LOG_NAME, EventKind.SHARE, text)

    def _turns_limit(self, device: str) -> float:
        """What those that take turns can have of a device: commands run all the time."""
        commands = (f for f in self._admitted() if device in f.spec.placed and f.spec.program)
        limit = self._node.device(device).share_limit_percent
        return limit - sum(command.share_granted_percent for command in commands)

    def _is_over_committed(self, device: str) -> bool:
        """Whether turns are on, and are needed for what serves there by now."""
        if self._node.turn_boards.of(device).limit_percent is None:
            return False
        deployments = (d for f in self._functions.values() for d in f.deployments)
        workers = ((d, w) for d in deployments for w in d.workers if w.device == device)
        shares = (worker.share_percent for d, worker in workers if d.instances.pulls(worker))
        total, limit = sum(shares), self._turns_limit(device)
        return total > limit and differs(total, limit)

    def _leaving(self, device: str) -> dict[str, float]:
        """What functions have of a device on which they serve, or finish what they have, and go."""
        return {
            function.name: deployment.share_percent
            for function in self._admitted()
            if device not in function.spec.placed
            for deployment in function.deployments
            if device in deployment.spec.placed and deployment not in function.kept.deployments
        }

    def _request(self, spec: FunctionSpec) -> ShareBounds:
        """A requested share; no more than what was decided, if anything was."""
        decided = self._decided.get(spec.name)
        if decided is None or spec.exclusive:
            return spec.share
        low, high = spec.share.min_percent, spec.share.max_percent
        return ShareBounds(low, min(max(decided, low), high), spec.share.auto)

    async def _grant(self, function: Function, share_percent: float) -> None:
        try:
            await function.grant(share_percent)
        except GsliceError as error:
            # A worker that dies over it gets the share when it is started again.
            text = f"its share could not be set: {error}"
            self._node.event(function.name, EventKind.SHARE, text)
