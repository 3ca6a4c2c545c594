"""What this front-end serves: functions, their states, and who hears of a change."""

from __future__ import annotations

import asyncio
import contextlib
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gslice.core.errors import NotFound, Unavailable, Unimplemented
from gslice.core.types import FunctionSpec, Signature
from gslice.ipc.native import native_signature

if TYPE_CHECKING:
    from gslice import _native
    from gslice.core.access import Caller


@dataclass
class Function:
    """One function as clients may see it.

    Attributes:
        spec: As the daemon gave it.
        state: `LOADING`, `READY`, `COLD`, `UNLOADING` or `UNAVAILABLE`.
        reason: Why it is not READY.
        signature: None until it has been loaded.
        segment: None until it has been loaded.
        admitted: Its requests are taken: it is READY and has a segment.
        load_us: If it is COLD: how long its load takes.
        woken_ns: When a load was asked for here first, since it is COLD; 0: not yet.
    """

    spec: FunctionSpec
    state: str = "LOADING"
    reason: str = "it is loading"
    signature: Signature | None = None
    segment: _native.Segment | None = None
    admitted: bool = False
    load_us: int = 0
    woken_ns: int = 0

    @property
    def cold(self) -> bool:
        """Its requests wait while it is loaded."""
        return self.state == "COLD" and self.segment is not None

    @property
    def takes_requests(self) -> bool:
        """At once, or after a load."""
        return self.admitted or self.cold

    @property
    def ready(self) -> bool:
        """Whether it can be asked, if it is a command by other ways than here."""
        return self.takes_requests or (self.spec.program is not None and self.state == "READY")


class Catalogue:
    """The functions by name. Only those that are admitted are known to the data path.

    Args:
        native: The data path.
        arm: Called when a function has been admitted: arms the doorbell in its segment.
    """

    def __init__(
        self, native: _native.Frontend | _native.GrpcServer, arm: Callable[[], None]
    ) -> None:
        self._native = native
        self._arm = arm
        self._functions: dict[str, Function] = {}
        self._change = asyncio.Event()

    def __iter__(self) -> Iterator[Function]:
        return iter(self._functions.values())

    def of(self, caller: Caller) -> list[Function]:
        """Those that are for a caller."""
        return [function for function in self if caller.may_use(function.spec.name)]

    @property
    def change(self) -> asyncio.Event:
        """Set at the next change; take it before looking, so that none is missed."""
        return self._change

    def add(self, spec: FunctionSpec, signature: Signature, segment: _native.Segment) -> None:
        """Takes a loaded function; it serves once it is READY. Replaces one of the same name."""
        function = self._functions.setdefault(spec.name, Function(spec))
        known = function.segment
        # An adopting daemon hands the same segment again: its tickets in flight stay as they are.
        if known is None or known.generation != segment.generation:
            function.segment = segment
            self._refuse(function)
        function.spec, function.signature = spec, signature
        self._follow(function)

    def set_state(
        self,
        name: str,
        state: str,
        reason: str = "",
        spec: FunctionSpec | None = None,
        load_us: int = 0,
    ) -> None:
        """Records a function's state, and lets its requests in or keeps them out."""
        function = self._functions.get(name)
        if function is None:
            function = self._functions[name] = Function(spec or FunctionSpec(name))
        elif spec is not None and function.segment is None:
            function.spec = spec
        function.state, function.reason = state, reason
        function.load_us, function.woken_ns = load_us, 0
        self._follow(function)

    def remove(self, name: str) -> None:
        """Forgets a function; tickets in flight still finish."""
        function = self._functions.pop(name, None)
        if function is not None:
            self._refuse(function)
            self.announce()

    def find(self, name: str, version: str = "") -> Function:
        """The function of that name and version; an empty version is any.

        Raises:
            NotFound: There is none.
        """
        function = self._functions.get(name)
        if function is None:
            raise NotFound(f"no function is called {name!r}")
        if version not in ("", function.spec.version):
            raise NotFound(
                f"function {name!r} has no version {version!r}, only {function.spec.version!r}"
            )
        return function

    def loaded(self, name: str, version: str = "") -> tuple[Function, Signature]:
        """A function whose signature is known.

        Raises:
            NotFound: There is none of that name and version.
            Unimplemented: It is a command.
            Unavailable: It has not been loaded.
        """
        function = self.find(name, version)
        _refuse_command(function)
        if function.signature is None:
            raise _unavailable(function)
        return function, function.signature

    @contextlib.contextmanager
    def reached(self, function: Function) -> Iterator[None]:
        """Inside, the data path knows a cold function; what was queued there is still answered."""
        assert function.segment is not None
        assert function.signature is not None
        self._admit(function, function.segment, function.signature)
        try:
            yield
        finally:
            self._refuse(function)

    def explain(self, name: str, version: str) -> None:
        """Called when the data path knows no such function: says what is really the matter.

        Raises:
            NotFound: There is none of that name and version.
            Unimplemented: It is a command.
            Unavailable: It is not READY.
        """
        function = self.find(name, version)
        _refuse_command(function)
        if not function.admitted:
            raise _unavailable(function)

    def announce(self) -> None:
        """Wakes those who wait for a change."""
        self._change.set()
        self._change = asyncio.Event()

    def _follow(self, function: Function) -> None:
        if function.state != "READY":
            self._refuse(function)
        elif function.segment is not None and function.signature is not None:
            self._admit(function, function.segment, function.signature)
        self.announce()

    def _admit(self, function: Function, segment: _native.Segment, signature: Signature) -> None:
        if function.admitted:
            return
        spec = function.spec
        self._native.add_function(
            spec.name, spec.version, segment, native_signature(signature), spec.slo_p99_us * 1000
        )
        function.admitted = True
        self._arm()

    def _refuse(self, function: Function) -> None:
        if function.admitted:
            self._native.remove_function(function.spec.name)
            function.admitted = False


def _refuse_command(function: Function) -> None:
    """Whoever reaches the port need not know more of a program than where it listens."""
    if function.spec.program is None:
        return
    name, url = function.spec.name, urllib.parse.urlsplit(function.spec.program.health_url)
    where = f"at {url.scheme}://{url.netloc.rpartition('@')[2]}" if url.netloc else "itself"
    raise Unimplemented(f"function {name!r} is a command, which gslice runs: ask it {where}")


def _unavailable(function: Function) -> Unavailable:
    name = function.spec.name
    reason = function.reason.removeprefix(f"function {name}: ") or f"it is {function.state}"
    return Unavailable(f"function {name!r} is not ready: {reason}")
