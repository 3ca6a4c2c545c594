"""Loads and moves of functions: what they showed is kept, and how they ended is told."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from gslice.core.config.policy import check_allowed
from gslice.core.errors import GsliceError
from gslice.core.events import EventKind

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from gslice.core.types import FunctionSpec
    from gslice.daemon.desired import Desired
    from gslice.daemon.observations import Observations
    from gslice.daemon.profiles import Profiles
    from gslice.supervise.supervisor import Supervisor

    Stage = Callable[[str, str], None]


class Loads:
    """Has functions loaded.

    Args:
        supervisor: Does it.
        desired: Knows where a wish comes from.
        observations: What loads showed.
        profiles: What batches took, as timed in passing.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        desired: Desired,
        observations: Observations,
        profiles: Profiles,
    ) -> None:
        self._supervisor = supervisor
        self._desired = desired
        self._observations = observations
        self._profiles = profiles

    async def load(self, spec: FunctionSpec, stage: Stage, *, lazily: bool = False) -> None:
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
                lambda timed: self._supervisor.load(spec, timed, source, lazily=lazily),
            )
        except GsliceError as error:
            reason = str(error).removeprefix(f"function {spec.name}: ")
            self._supervisor.node.event(spec.name, EventKind.FAILED, f"not loaded: {reason}")
            raise
        function = self._supervisor.function(spec.name)
        text = f"serves after {ready_us / 1e6:.2f} s" if function.serving else function.reason
        self._supervisor.node.event(spec.name, EventKind.LOAD, text)

    async def move(self, name: str, devices: Sequence[str], stage: Stage) -> None:
        """Moves a function: `Supervisor.move`.

        Raises:
            GsliceError: it could not be moved.
        """
        await self._noting(name, stage, lambda timed: self._supervisor.move(name, devices, timed))

    async def _noting(
        self, name: str, stage: Stage, order: Callable[[Stage], Coroutine[None, None, None]]
    ) -> int:
        """Carries an order out and keeps what it showed; how long it took, in us."""
        begun_s = time.monotonic()
        took_us: dict[str, int] = {}

        def timed(passed: str, detail: str) -> None:
            took_us[passed] = round((time.monotonic() - begun_s) * 1e6)
            stage(passed, detail)

        await order(timed)
        ready_us = round((time.monotonic() - begun_s) * 1e6)
        deployment = self._supervisor.function(name).deployment
        if deployment is not None and "load" in took_us:  # else only its share changed
            self._observations.note(deployment, took_us, ready_us)
            self._profiles.note(deployment)
        return ready_us
