"""The versions of the node's functions: numbered, recorded, and gone back to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gslice.control.versions import (
    LATEST,
    as_fetched,
    by_service,
    likely,
    number_of,
    numbered,
    restored,
)
from gslice.core.errors import FailedPrecondition, NotFound
from gslice.core.events import EventKind
from gslice.core.model_cache import digest_in
from gslice.core.sources import redacted
from gslice.daemon.events import forgiving
from gslice.daemon.fingerprint import Fingerprints
from gslice.supervise.versions import FETCH, Fetch, Resolved

if TYPE_CHECKING:
    from collections.abc import Callable

    from gslice.control.versions import Version
    from gslice.core.events import Record
    from gslice.core.types import FunctionSpec
    from gslice.daemon.sources import Sources
    from gslice.daemon.store import Store
    from gslice.supervise.function import Function

SHORT_CHARS = 12  # of a fingerprint, for people


class Versions:
    """`Numbers` of the node's functions, which outlive its daemons.

    Args:
        store: Keeps them.
        event: Told of each that is new, or serves in place of another.
        sources: Fetches what functions name by a URL; None: nothing does.
    """

    def __init__(self, store: Store, event: Record, sources: Sources | None = None) -> None:
        self._store = store
        self._event = event
        self._sources = sources
        self._fingerprints = Fingerprints(store)

    def recorded(self, name: str) -> list[Version]:
        """The versions of a function that have served, newest first."""
        return self._store.versions(name)

    def listed(self, name: str, function: Function | None) -> list[tuple[Version, str]]:
        """The same, each with its state: `serving`, `kept` or `recorded`.

        Args:
            name: The function's.
            function: What runs of it.

        Raises:
            NotFound: nothing of that name ever served.
        """
        recorded = self.recorded(name)
        if not recorded and function is None:
            raise NotFound(f"there is no function {name}, nor was there one")
        return [(version, _state_of(function, version)) for version in recorded]

    async def resolve(
        self,
        spec: FunctionSpec,
        is_warm: Callable[[FunctionSpec], bool],
        fetch: Fetch = FETCH,
    ) -> Resolved:
        """See `Numbers.resolve`."""
        if spec.versions.serve == LATEST:
            spec = await self._fetched(spec, None if fetch.anew else self.likely(spec), fetch)
            fingerprint = await self._fingerprints.of(spec)
            number = number_of(fingerprint, self.recorded(spec.name), spec.versions.number)
            return Resolved(numbered(spec, number), fingerprint)
        version = self.find(spec.name, spec.versions.serve)
        wanted = restored(spec, version)
        if not is_warm(wanted):
            wanted = await self._fetched(wanted, wanted, fetch)
            await self._check_same(version, wanted)
        return Resolved(wanted, version.fingerprint)

    def likely(self, spec: FunctionSpec) -> FunctionSpec:
        """See `Numbers.likely`."""
        recorded = self.recorded(spec.name)
        if spec.versions.serve == LATEST:
            found = likely(spec, recorded)
            return numbered(as_fetched(spec, found.spec), found.number) if found else spec
        pinned = _by_number(recorded, spec.versions.serve)
        return restored(spec, pinned) if pinned else spec

    def last_placed(self, name: str) -> tuple[str, ...]:
        """See `Numbers.last_placed`."""
        return next((v.spec.placed for v in by_service(self.recorded(name))), ())

    def has_served(self, spec: FunctionSpec) -> bool:
        """See `Numbers.has_served`."""
        return _by_number(self.recorded(spec.name), spec.version) is not None

    def served(self, resolved: Resolved) -> None:
        """See `Numbers.served`."""
        spec, fingerprint = resolved.spec, resolved.fingerprint
        number = int(spec.version)
        with forgiving("the version that serves is not recorded"):
            recorded = self.recorded(spec.name)
            self._store.put_version(number, spec, fingerprint)
            last = max(recorded, key=lambda version: version.served_s, default=None)
            if last is None or last.number != number:
                known = any(version.number == number for version in recorded)
                model = f"{model_of(spec)}, {fingerprint[:SHORT_CHARS]}"
                text = f"version {number} serves{' again' if known else ''}: {model}"
                if spec.versions.serve == LATEST and spec.versions.number not in (0, number):
                    text += f"; its own number, {spec.versions.number}, is another model's"
                self._event(spec.name, EventKind.VERSION, text)

    async def record_adopted(self, spec: FunctionSpec) -> None:
        """Records what serves, if an earlier daemon did not come to it, or kept no versions."""
        if not self.has_served(spec):
            self.served(Resolved(spec, await self._fingerprints.of(spec)))

    def find(self, name: str, number: str) -> Version:
        """A version of a function by its number.

        Raises:
            NotFound: there is none.
        """
        recorded = self.recorded(name)
        version = _by_number(recorded, number)
        if version is None:
            known = ", ".join(str(each.number) for each in recorded) or "none"
            raise NotFound(f"function {name} has no version {number}", hint=f"versions: {known}")
        return version

    async def check_unchanged(self, version: Version) -> None:
        """Raises FailedPrecondition unless its files are what they were, or can be fetched."""
        if not version.spec.sources:
            await self._check_same(version, version.spec)

    async def _fetched(
        self, spec: FunctionSpec, known: FunctionSpec | None, fetch: Fetch
    ) -> FunctionSpec:
        if self._sources is None:
            return spec
        return await self._sources.fetched(spec, known, fetch)

    async def _check_same(self, version: Version, spec: FunctionSpec) -> None:
        now = await self._fingerprints.of(spec)
        if now != version.fingerprint:
            was, now = version.fingerprint[:SHORT_CHARS], now[:SHORT_CHARS]
            raise FailedPrecondition(
                f"function {spec.name}: version {version.number} cannot be loaded again: the files"
                f" of {model_of(spec)} have changed or are gone ({was} then, {now} now)",
                hint="put them back as they were, or choose another: gslice versions " + spec.name,
            )


def model_of(spec: FunctionSpec) -> str:
    """What a version computes with, for people."""
    command = spec.program.command[0] if spec.program is not None else ""
    return redacted(spec.as_declared.model) or spec.python or command or spec.engine


def digest_of_model(spec: FunctionSpec) -> str:
    """The digest of a model that was fetched; empty: it is no such one."""
    return digest_in(spec.model) if "model" in spec.sources else ""


def _state_of(function: Function | None, version: Version) -> str:
    if function is not None:
        number, deployment = str(version.number), function.deployment
        if deployment is not None and function.accepting and deployment.spec.version == number:
            return "serving"
        if any(kept.spec.version == number for kept in function.kept.warm):
            return "kept"
    return "recorded"


def _by_number(recorded: list[Version], number: str) -> Version | None:
    return next((version for version in recorded if str(version.number) == number), None)
