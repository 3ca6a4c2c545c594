"""An order to load: its place on the device, its version, its memory, and then the load itself."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

from gslice.core.errors import FailedPrecondition, GsliceError, InvalidArgument, Unavailable
from gslice.ipc.channel import MAX_PACKET_BYTES
from gslice.ipc.codec import to_json
from gslice.supervise.fetching import fetching
from gslice.supervise.hosts import LOG_PREFIX as HOST_LOG_PREFIX
from gslice.supervise.logs import DAEMON_LOG_NAME, SPARES_LOG_NAME
from gslice.supervise.renewal import LOG_NAME
from gslice.supervise.spreading import spread
from gslice.supervise.versions import Fetch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gslice.core.types import FunctionSpec
    from gslice.supervise.budget import Budget, Need
    from gslice.supervise.function import Function
    from gslice.supervise.placing import Placing
    from gslice.supervise.sharing import Sharing
    from gslice.supervise.versions import Numbers

_SPEC_MAX_BYTES = MAX_PACKET_BYTES // 2  # the rest is for its signature and its reason


class Loading:
    """Loads functions, and changes in place what can be.

    Args:
        budget: What they may take of the node.
        sharing: Divides the devices.
        numbers: Knows the versions of functions.
        placing: Chooses their devices.

    Attributes:
        closed: Nothing is loaded any more.
    """

    def __init__(
        self, budget: Budget, sharing: Sharing, numbers: Numbers, placing: Placing
    ) -> None:
        self.closed = False
        self._budget = budget
        self._sharing = sharing
        self._numbers = numbers
        self._placing = placing

    async def carry_out(
        self,
        function: Function,
        wanted: FunctionSpec,
        stage: Callable[[str, str], None],
        *,
        lazily: bool = False,
        anew: bool = False,
        devices: Sequence[str] = (),
    ) -> None:
        """Has a function serve as wanted; the caller holds its lock.

        Args:
            function: Which.
            wanted: As declared.
            stage: Told of each stage.
            lazily: One whose residency is `cold` may wait for a request, if its signature is known.
            anew: What it names by a URL is taken as it is there now.
            devices: Where it is to run; empty: it may stay where it is.

        Raises:
            GsliceError: why it does not serve. What served before serves on.
        """
        before = function.spec

        def placed(spec: FunctionSpec) -> FunctionSpec:
            return self._placing.place(function, spec, devices)

        with function.load_ordered():
            try:
                if self.closed:
                    raise Unavailable("the daemon is stopping")
                # Before anything waits: first come.
                self._sharing.admit(function, placed(self._numbers.likely(wanted)))
                with fetching(function, stage) as tell:
                    resolved = await self._numbers.resolve(
                        wanted,
                        lambda spec: _is_warm(function, before, placed(spec)),
                        Fetch(anew, tell),
                    )
                resolved = dataclasses.replace(resolved, spec=placed(resolved.spec))
                if devices and function.serving:
                    _check_same_version(before, resolved.spec)
                self._sharing.admit(function, resolved.spec)
                try:
                    await self._load(function, before, resolved.spec, stage, lazily)
                except OSError as error:  # the node is short of something, which may pass
                    raise Unavailable(f"function {wanted.name}: not loaded: {error}") from error
                self._numbers.served(resolved)
                await function.kept.trim(resolved.spec)
                for left in set(before.placed) - set(resolved.spec.placed):
                    await function.kept.leave(left)
                    await self._sharing.share_out()  # what it had there is free
            except GsliceError as error:
                if function.accepting:
                    function.spec = _where_it_runs(function, before)
                else:
                    await function.fail(error.message)
                await self._sharing.share_out()
                raise

    async def _load(
        self,
        function: Function,
        before: FunctionSpec,
        spec: FunctionSpec,
        stage: Callable[[str, str], None],
        lazily: bool,
    ) -> None:
        lazily = lazily and spec.residency == "cold" and function.deployment is None
        known = self._budget.recalled(spec) if lazily else None
        beside = "beside what serves" if function.serving else ""
        alone = function.takes_in_place(before, spec)
        warm = not alone and function.kept.find(spec) is not None
        needs = [] if warm or known else self._needed(function, spec, beside, alone)
        if not needs and function.deployment and not (alone or warm or known):
            # Nobody knows whether it fits beside all that is warm: what would go anyway goes first.
            await function.kept.trim(spec, function.deployment.spec.version)
        async with self._budget.promised(needs, evict=True):
            await function.announce()
            await self._sharing.share_out()
            if known is not None:
                await function.residency.begin_cold(known)
            elif function.takes_in_place(before, spec):  # still: its workers may have died
                function.take_over(spec)
                await spread(function, self._budget, stage)
                await function.resizing.carry_out(stage)
            else:
                await function.load(spec, stage, warm=warm)

    def _needed(
        self, function: Function, spec: FunctionSpec, beside: str, alone: bool
    ) -> list[Need]:
        """What is to come: of what serves on, replicas where it has none yet."""
        if not alone:
            return self._budget.needed(spec, beside)
        there = function.deployment.spec.placed if function.deployment is not None else ()
        come = [device for device in spec.placed if device not in there]
        rests = function.state == "COLD"
        return self._budget.needed(spec.placed_on(come)) if come and not rests else []


def check_settings(spec: FunctionSpec) -> None:
    """Checks what no device and no model is needed for.

    Raises:
        InvalidArgument: its name is a log's, or its settings do not fit into a message: every order
            about a function carries them.
    """
    taken = spec.name in (LOG_NAME, DAEMON_LOG_NAME, SPARES_LOG_NAME)
    if taken or spec.name.startswith(HOST_LOG_PREFIX):
        raise InvalidArgument(
            f"function {spec.name}: the name is taken by a log of gslice",
            hint="choose another name",
        )
    size = len(json.dumps(to_json(spec)))
    if size > _SPEC_MAX_BYTES:
        raise InvalidArgument(
            f"function {spec.name}: its settings take {size} bytes, at most {_SPEC_MAX_BYTES}",
            hint="pass large args as the path of a file",
        )


def _where_it_runs(function: Function, before: FunctionSpec) -> FunctionSpec:
    """As before, with the replicas that came or went before something failed."""
    deployment = function.deployment
    return before.placed_on(deployment.spec.placed) if deployment is not None else before


def _check_same_version(before: FunctionSpec, moved: FunctionSpec) -> None:
    """Nobody ordered another model. Raises FailedPrecondition if it would come along."""
    if before.version != moved.version:
        raise FailedPrecondition(
            f"function {before.name}: the files of its model have changed since it was loaded",
            hint=f"load it anew where it is: gslice load {before.name}",
        )


def _is_warm(function: Function, before: FunctionSpec, spec: FunctionSpec) -> bool:
    """Whether it can serve so without a load: it does already, or has kept such a version."""
    return function.takes_in_place(before, spec) or function.kept.find(spec) is not None
