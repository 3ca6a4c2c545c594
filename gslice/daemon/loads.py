"""Loads and moves of functions: what they showed is kept, and how they ended is told."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from gslice.control.isolation import by_claim
from gslice.core.config.policy import check_allowed
from gslice.core.errors import GsliceError
from gslice.core.events import EventKind
from gslice.supervise.news import unheard

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence

    from gslice.core.types import FunctionSpec
    from gslice.daemon.desired import Desired
    from gslice.daemon.observations import Observations
    from gslice.daemon.profiles import Profiles
    from gslice.daemon.sources import Sources
    from gslice.supervise.supervisor import Supervisor

    Stage = Callable[[str, str], None]


class Loads:
    """Has functions loaded.

    Args:
        supervisor: Does it.
        desired: Knows where a wish comes from.
        observations: What loads showed.
        profiles: What batches took, as timed in passing.
        sources: Keeps the files of what is loaded.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        desired: Desired,
        observations: Observations,
        profiles: Profiles,
        sources: Sources,
    ) -> None:
        self._supervisor = supervisor
        self._desired = desired
        self._observations = observations
        self._profiles = profiles
        self._sources = sources

    async def load(
        self, spec: FunctionSpec, stage: Stage, *, lazily: bool = False, anew: bool = False
    ) -> None:
        """Loads a function: `Supervisor.load`.

        Raises:
            GsliceError: it could not be loaded; an event says why.
        """
        source = self._desired.source(spec.name)
        try:
            check_allowed(spec, self._supervisor.node.config)
            ready_us = await self._noting(
                spec.name,
                stage,
                lambda timed: self._supervisor.load(spec, timed, source, lazily=lazily, anew=anew),
            )
        except GsliceError as error:
            reason = str(error).removeprefix(f"function {spec.name}: ")
            self._supervisor.node.event(spec.name, EventKind.FAILED, f"not loaded: {reason}")
            raise
        finally:
            self._sources.settle(spec.name)
        function = self._supervisor.function(spec.name)
        text = f"serves after {ready_us / 1e6:.2f} s" if function.serving else function.reason
        self._supervisor.node.event(spec.name, EventKind.LOAD, text)

    async def load_missing(
        self, wanted: Iterable[FunctionSpec], likely: Callable[[FunctionSpec], FunctionSpec]
    ) -> None:
        """Loads what does not run as wanted already, side by side.

        Args:
            wanted: The functions.
            likely: What is expected to run for one: another version may serve.
        """
        running = self._supervisor.functions
        missing = [
            spec
            for spec in wanted
            if spec.name not in running or not running[spec.name].runs(likely(spec))
        ]
        await asyncio.gather(*(self._try_to_load(spec) for spec in by_claim(missing)))

    async def _try_to_load(self, spec: FunctionSpec) -> None:
        # Why it failed stands in the log and in the function's state.
        with contextlib.suppress(GsliceError):
            await self.load(spec, unheard, lazily=True)

    async def unload(self, name: str, stage: Stage) -> None:
        """Unloads a function: `Supervisor.unload`.

        Raises:
            NotFound: there is none of that name.
        """
        await self._supervisor.unload(name, stage)
        self._sources.settle(name)

    async def move(self, name: str, devices: Sequence[str], stage: Stage) -> None:
        """Moves a function: `Supervisor.move`.

        Raises:
            GsliceError: it could not be moved.
        """
        try:
            await self._noting(
                name, stage, lambda timed: self._supervisor.move(name, devices, timed)
            )
        finally:
            self._sources.settle(name)

    async def _noting(
        self, name: str, stage: Stage, order: Callable[[Stage], Coroutine[None, None, None]]
    ) -> int:
        """Carries an order out and keeps what it showed; how long it took, in us."""
        begun_s = time.monotonic()
        took_us: dict[str, int] = {}

        def timed(passed: str, detail: str) -> None:
            nonlocal begun_s
            if passed == "start" and "fetch" in took_us:  # the next load need not fetch
                begun_s = time.monotonic()
            took_us[passed] = round((time.monotonic() - begun_s) * 1e6)
            stage(passed, detail)

        await order(timed)
        ready_us = round((time.monotonic() - begun_s) * 1e6)
        deployment = self._supervisor.function(name).deployment
        if deployment is not None and "load" in took_us:  # else only its share changed
            self._observations.note(deployment, took_us, ready_us)
            self._profiles.note(deployment)
        return ready_us
