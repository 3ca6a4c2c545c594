"""The versions of a function: who numbers them, and which stay warm beside the one that serves.

A kept version is a whole deployment whose workers are warm and attached and may not pull. It has
no share, takes no request, and costs its memory; whoever needs that ends it first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from gslice.control.versions import is_served_as, surplus
from gslice.core.errors import GsliceError, Unavailable
from gslice.core.events import EventKind
from gslice.supervise.tasks import Tasks, run_all

if TYPE_CHECKING:
    from gslice.core.types import FunctionSpec
    from gslice.supervise.deployment import Deployment
    from gslice.supervise.node import Node


@dataclass(frozen=True)
class Resolved:
    """A function whose model is known.

    Attributes:
        spec: The function, with the number of its version.
        fingerprint: Of the model.
    """

    spec: FunctionSpec
    fingerprint: str = ""


@dataclass(frozen=True)
class Fetch:
    """How what a function names by a URL is fetched.

    Attributes:
        anew: As it is there now; else as it was fetched before, if it was.
        tell: Told how far it is.
        planned: Nothing is fetched, nor kept: it is only asked what would be.
    """

    anew: bool = False
    tell: Callable[[str], None] = lambda text: None
    planned: bool = False


FETCH = Fetch()


class Numbers(Protocol):
    """Knows the versions of functions."""

    async def resolve(
        self,
        spec: FunctionSpec,
        is_warm: Callable[[FunctionSpec], bool],
        fetch: Fetch = FETCH,
    ) -> Resolved:
        """The version that a declared function means.

        Args:
            spec: As declared.
            is_warm: Whether it can serve without a load, so that its files do not matter.
            fetch: How what it names by a URL is fetched.

        Raises:
            GsliceError: there is no such version, or it cannot be loaded any more; or, if that is
                planned, it would have to be fetched.
        """

    def likely(self, spec: FunctionSpec) -> FunctionSpec:
        """The same without a look at any file: a guess."""

    def last_placed(self, name: str) -> tuple[str, ...]:
        """The devices on which a function served last; empty: nobody knows."""

    def has_served(self, spec: FunctionSpec) -> bool:
        """Whether a version was recorded."""

    def served(self, resolved: Resolved) -> None:
        """Records that a version serves from now on."""


class AsDeclared:
    """`Numbers` for whoever has no versions: each function is what it says."""

    async def resolve(
        self,
        spec: FunctionSpec,
        is_warm: Callable[[FunctionSpec], bool],
        fetch: Fetch = FETCH,
    ) -> Resolved:
        """See `Numbers.resolve`."""
        return Resolved(spec)

    def likely(self, spec: FunctionSpec) -> FunctionSpec:
        """See `Numbers.likely`."""
        return spec

    def last_placed(self, name: str) -> tuple[str, ...]:
        """See `Numbers.last_placed`."""
        return ()

    def has_served(self, spec: FunctionSpec) -> bool:
        """See `Numbers.has_served`."""
        return False

    def served(self, resolved: Resolved) -> None:
        """See `Numbers.served`."""


class Kept:
    """Versions of one function that served and stay warm.

    Args:
        node: The node.
        name: The function's.

    Attributes:
        warm: Their deployments, the one that served last first.
    """

    def __init__(self, node: Node, name: str) -> None:
        self.warm: list[Deployment] = []
        self._leaving: list[Deployment] = []  # their workers are being ended
        self._node = node
        self._name = name
        self._tasks = Tasks(name, node.event)

    @property
    def deployments(self) -> list[Deployment]:
        """All of which workers run."""
        return [*self.warm, *self._leaving]

    def find(self, spec: FunctionSpec) -> Deployment | None:
        """The one that could serve as a function is wanted, at once."""
        for deployment in self.warm:
            same = deployment.spec.version == spec.version and is_served_as(deployment.spec, spec)
            there = set(deployment.spec.placed) == set(spec.placed)
            if same and there and deployment.ready == deployment.wanted:
                return deployment
        return None

    def take(self, spec: FunctionSpec) -> Deployment:
        """Takes out the one that `find` found, to serve.

        Raises:
            Unavailable: it has died since.
        """
        deployment = self.find(spec)
        if deployment is None:
            raise Unavailable(
                f"function {self._name}: version {spec.version} was kept warm, and died just now",
                hint="try again, which loads it",
            )
        self.warm.remove(deployment)
        deployment.spec = spec
        return deployment

    def hold(self, deployment: Deployment) -> bool:
        """Keeps one that has nothing to do any more and that nobody can reach.

        Returns:
            False: it cannot be kept; not all of its workers are warm.
        """
        if deployment.segment is None or deployment.ready != deployment.wanted:
            return False
        try:
            for worker in deployment.workers:
                deployment.segment.flip(worker.instance, None)
        except GsliceError as error:  # its lock is out of reach
            text = f"version {deployment.spec.version} is not kept warm: {error}"
            self._node.event(self._name, EventKind.VERSION, text)
            return False
        self._node.ledgers.note(self._name)
        self.warm.insert(0, deployment)
        return True

    def lost(self, deployment: Deployment, how: str) -> bool:
        """A worker died that nobody ended; False: it is none of a kept version."""
        if deployment in self.warm:
            self._tasks.start(self.drop(deployment, f"its worker {how}"))
            return True
        return deployment in self._leaving

    async def trim(self, spec: FunctionSpec, *others: str) -> None:
        """Ends those that are more than may be kept beside what serves.

        Args:
            spec: What serves, or is about to.
            others: Numbers of versions that come before those that are kept.
        """
        numbers = [*others, *(deployment.spec.version for deployment in self.warm)]
        too_many = surplus(numbers, spec.version, spec.versions.keep)
        places = [place - len(others) for place in too_many if place >= len(others)]
        for deployment in [self.warm[place] for place in places]:
            await self.drop(deployment, f"versions.keep is {spec.versions.keep}")

    async def drop_all(self, why: str) -> None:
        """Ends all."""
        for deployment in list(self.warm):
            await self.drop(deployment, why)

    async def leave(self, device: str) -> None:
        """Ends those on a device from which the function has moved."""
        for deployment in list(self.warm):
            if device in deployment.spec.placed:
                await self.drop(deployment, f"the function moved away from {device}")

    async def drop_inherited(self, why: str) -> None:
        """Ends those of which an earlier daemon started a worker, perhaps with other code."""
        for deployment in list(self.warm):
            if any(worker.inherited for worker in deployment.workers):
                await self.drop(deployment, why)

    async def drop(self, deployment: Deployment, why: str) -> None:
        """Ends one, unless somebody has already."""
        if deployment not in self.warm:
            return
        self.warm.remove(deployment)
        self._leaving.append(deployment)  # until its memory is free, and for a stop meanwhile
        text = f"version {deployment.spec.version} is not kept warm any more: {why}"
        self._node.event(self._name, EventKind.VERSION, text)
        await deployment.stop()
        self._leaving.remove(deployment)
        self._node.changes.notify()

    async def cancel(self) -> None:
        """Ends none by itself any more."""
        await self._tasks.cancel()

    async def stop(self) -> None:
        """Ends all, with the function."""
        await self.cancel()
        await run_all(deployment.stop() for deployment in self.deployments)
        self.warm.clear()
        self._leaving.clear()
