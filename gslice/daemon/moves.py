"""Which functions change their devices, when, and why: one at a time, beside what serves.

A function leaves a device that is drained or lost, and one on which somebody stays short. What has
fewer replicas than it should gets others, where there is a device for them.
"""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gslice.core.errors import GsliceError
from gslice.core.events import EventKind
from gslice.supervise.news import unheard

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from gslice.daemon.store import Store
    from gslice.supervise.function import Function
    from gslice.supervise.supervisor import Supervisor

REST_S = 30.0  # between two moves of a function that nothing forces
_RETRY_MIN_S = 30.0
_RETRY_MAX_S = 600.0
_LOOK_PERIOD_S = 1.0
_NOWHERE = "no other device can take it"


@dataclass
class _Tries:
    """What became of a function's moves.

    Attributes:
        moved_s: When it was moved last.
        stays: Why it is still where it should not be; empty: no reason is known.
        again_s: Before then it is not tried again.
        wait_s: How long that was.
    """

    moved_s: float = -math.inf
    stays: str = ""
    again_s: float = -math.inf
    wait_s: float = 0.0


@dataclass(frozen=True)
class Move:
    """One that is due.

    Attributes:
        name: The function's.
        devices: All that it will be on, the first first.
        why: For people.
    """

    name: str
    devices: tuple[str, ...]
    why: str


class Moves:
    """Carries functions from one device to another.

    Args:
        supervisor: What runs.
        store: Remembers which devices are drained.
        move: Carries one out: a function's name, the devices, and who is told of the stages.
        clock: In seconds, only grows.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        store: Store,
        move: Callable[[str, Sequence[str], Callable[[str, str], None]], Awaitable[None]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._supervisor = supervisor
        self._node = supervisor.node
        self._store = store
        self._move = move
        self._clock = clock
        self._tries: dict[str, _Tries] = {}
        self._proposed: Move | None = None
        self._awake = asyncio.Event()
        self._node.drained |= store.drained() & self._node.devices.keys()

    # ---- orders ------------------------------------------------------------------------------

    async def drain(self, device: str, stage: Callable[[str, str], None]) -> None:
        """Has the functions of a device leave, and places none there until `undrain`.

        Args:
            device: Its name.
            stage: Told of each function: whether it went, or why it stays.

        Raises:
            NotFound: there is no such device.
        """
        self._node.device(device)
        self._store.put_drained(device)
        if device not in self._node.drained:
            self._node.drained.add(device)
            self._node.event(device, EventKind.DEVICE, "drained: nothing new is placed on it")
        for tries in self._tries.values():
            tries.stays, tries.again_s = "", -math.inf
        there = [f for f in self._supervisor.functions.values() if device in f.spec.placed]
        for function in there:
            if not function.spec.devices:
                stage("stay", f"{function.name}: pinned to it")
                self._node.event(function.name, EventKind.MOVE, f"stays: pinned to {device}")
        self._awake.set()
        await self._see_off(device, {f.name for f in there if f.spec.devices}, stage)
        stage("done", "")

    def undrain(self, device: str) -> None:
        """Functions may be placed on a device again; none comes back for that.

        Raises:
            NotFound: there is no such device.
        """
        self._node.device(device)
        self._store.drop_drained(device)
        if device in self._node.drained:
            self._node.drained.discard(device)
            self._node.event(device, EventKind.DEVICE, "not drained any more")
            self._node.changes.notify()

    def rested(self, name: str) -> bool:
        """See `Mover.rested`."""
        tries = self._tries.get(name, _Tries())
        return self._clock() >= max(tries.moved_s + REST_S, tries.again_s)

    def propose(self, name: str, devices: Sequence[str], why: str) -> None:
        """See `Mover.propose`."""
        if self._proposed is None:  # after the first the picture is another
            self._proposed = Move(name, tuple(devices), why)
            self._awake.set()

    # ---- the loop ----------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled: carries out what is due."""
        while True:
            self._awake.clear()
            if (due := self.due()) is not None:
                await self.carry_out(due)
                continue
            waiting = asyncio.ensure_future(self._awake.wait())
            try:
                await asyncio.wait({waiting}, timeout=_LOOK_PERIOD_S)
            finally:
                waiting.cancel()

    def due(self) -> Move | None:
        """The next move; first those away from where functions cannot stay."""
        functions = self._supervisor.functions
        for name in self._tries.keys() - functions.keys():
            del self._tries[name]
        for function in functions.values():
            if self._must_change(function) and (move := self._change(function)):
                return move
        proposed, self._proposed = self._proposed, None
        if proposed is None or (mover := functions.get(proposed.name)) is None:
            return None
        return proposed if self._may_go(mover, proposed.devices) else None

    async def carry_out(self, move: Move) -> None:
        """Moves a function, and says how that ended."""
        tries = self._tries.setdefault(move.name, _Tries())
        before = ", ".join(self._supervisor.function(move.name).spec.placed)
        after = ", ".join(move.devices)
        self._node.event(move.name, EventKind.MOVE, f"moves {before} -> {after}: {move.why}")
        begun_s = self._clock()
        try:
            await self._move(move.name, move.devices, unheard)
        except GsliceError as error:
            reason = error.message.removeprefix(f"function {move.name}: ")
            tries.stays = f"not moved to {after}: {reason}"
            tries.wait_s = min(max(_RETRY_MIN_S, 2 * tries.wait_s), _RETRY_MAX_S)
            tries.again_s = self._clock() + tries.wait_s
            self._node.event(move.name, EventKind.FAILED, tries.stays)
        else:
            tries.stays, tries.wait_s = "", 0.0
            text = f"moved {before} -> {after}, {self._clock() - begun_s:.2f} s"
            self._node.event(move.name, EventKind.MOVE, text)
        tries.moved_s = self._clock()
        self._node.changes.notify()

    # ---- parts -----------------------------------------------------------------------------

    def _must_change(self, function: Function) -> bool:
        spec = function.spec
        if not spec.devices or function.lock.locked():
            return False
        if not (bad := self._unusable(function)):
            return function.serving and len(spec.placed) < spec.replicas_min
        # Of one that failed on a GPU that is lost, that may be the reason; else there is none.
        return function.state != "FAILED" or not self._node.drained.issuperset(bad)

    def _change(self, function: Function) -> Move | None:
        tries = self._tries.setdefault(function.name, _Tries())
        if self._clock() < tries.again_s:
            return None
        spec, bad = function.spec, self._unusable(function)
        devices = self._supervisor.placing.elsewhere(function)
        if devices and set(devices) != set(spec.placed):
            drained = self._node.drained.issuperset(bad)
            why = f"{', '.join(bad)} {'is drained' if drained else 'cannot be used'}"
            few = f"{len(spec.placed)} of {spec.replicas_min} replicas"
            return Move(function.name, devices, why if bad else f"it has {few}")
        if bad and tries.stays != _NOWHERE:
            tries.stays = _NOWHERE
            here = ", ".join(bad)
            self._node.event(function.name, EventKind.MOVE, f"stays on {here}: {_NOWHERE}")
            self._node.changes.notify()
        return None

    def _unusable(self, function: Function) -> list[str]:
        """Those of its devices on which it cannot stay."""
        return [device for device in function.spec.placed if not self._node.usable(device)]

    def _may_go(self, function: Function, devices: Sequence[str]) -> bool:
        """Whether a proposal still holds."""
        there = all(d in function.spec.devices and self._node.usable(d) for d in devices)
        free = function.serving and not function.lock.locked()
        other = set(function.spec.placed) != set(devices)
        return self.rested(function.name) and there and free and other

    async def _see_off(
        self, device: str, names: set[str], stage: Callable[[str, str], None]
    ) -> None:
        """Tells of functions as they leave a device, until no more will."""
        while names:
            seen = self._node.changes.version
            for name in sorted(names):
                if told := self._left(device, name):
                    stage(*told)
                    names.discard(name)
            if device not in self._node.drained:
                return
            if names:
                await self._node.changes.wait(seen, _LOOK_PERIOD_S)

    def _left(self, device: str, name: str) -> tuple[str, str] | None:
        """What became of a function that should leave; None: nothing yet."""
        function = self._supervisor.functions.get(name)
        if function is None:
            return "gone", f"{name}: unloaded"
        if device not in function.spec.placed and not function.lock.locked():
            return "moved", f"{name}: to {', '.join(function.spec.placed)}"
        if function.lock.locked():
            return None
        if function.state == "FAILED":
            return "stay", f"{name}: it has failed"
        tries = self._tries.get(name)
        return ("stay", f"{name}: {tries.stays}") if tries is not None and tries.stays else None
