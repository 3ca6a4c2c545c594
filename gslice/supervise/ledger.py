"""What functions have counted in all, over every segment that they have had.

A segment counts from nothing, and is gone with its deployment. The sum over all of a function's
never falls and never jumps, whichever of them serves: also where a kept version serves again, and
from one daemon to the next, for which it is recorded by segment. No request passes here.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gslice.core.events import EventKind

if TYPE_CHECKING:
    from gslice._native import Segment
    from gslice.core.events import Record
    from gslice.core.types import FunctionSpec
    from gslice.supervise.run_dir import RunDir

VERSIONS_MAX = 16  # that are told apart; what older ones counted stays in the sum
_NO_COUNTER = "last_inference_ms"

Stats = Mapping[str, Any]
"""`Segment.stats()` without what is no counter."""


class Key(NamedTuple):
    """Whose counters are added up.

    Attributes:
        version: Of the function; empty: an old one.
        slo_us: By which its answers were late; 0: none.
    """

    version: str
    slo_us: float


@dataclass(frozen=True)
class Counted:
    """Counters of a version under one SLO.

    Attributes:
        key: Which.
        stats: Of all its segments together.
    """

    key: Key
    stats: Stats


def total(parts: Iterable[Stats]) -> Stats | None:
    """The sum; None of nothing."""
    summed: Stats | None = None
    for part in parts:
        summed = part if summed is None else _added(summed, part)
    return summed


class Ledger:
    """What one function has counted. `read` may be called from any thread.

    Args:
        write: Records what the next daemon has to know.
        closed: What segments counted that are gone.
    """

    def __init__(
        self, write: Callable[[str], None], closed: Mapping[Key, Stats] | None = None
    ) -> None:
        self._write = write
        self._closed = dict(closed or {})
        self._open: dict[int, tuple[Key, Segment]] = {}  # by generation
        self._lock = threading.Lock()

    def open(self, segment: Segment, spec: FunctionSpec) -> None:
        """A segment counts from now on."""
        with self._lock:
            self._open[segment.generation] = Key(spec.version, spec.slo_p99_us), segment
        self.note()

    def close(self, segment: Segment) -> bool:
        """A segment goes; False: it was the last."""
        with self._lock:
            key, _ = self._open.pop(segment.generation)
            _add(self._closed, key, _counters(segment))
        self.note()
        return bool(self._open)

    def note(self) -> None:
        """Records what was counted so far, by segment."""
        closed = [(*key, _plain(stats)) for key, stats in self._closed.items()]
        segments = {
            generation: (*key, _plain(_counters(segment)))
            for generation, (key, segment) in self._open.items()
        }
        self._write(json.dumps({"closed": closed, "segments": segments}))

    def read(self) -> list[Counted]:
        """What was counted until now, by version and SLO."""
        with self._lock:
            counted = dict(self._closed)
            for key, segment in self._open.values():
                _add(counted, key, _counters(segment))
        return [Counted(key, stats) for key, stats in counted.items()]


class Ledgers:
    """Those of a node, which are also recorded in its run directory.

    Args:
        run_dir: Of the node.
        event: Told where nothing can be recorded.
    """

    def __init__(self, run_dir: RunDir, event: Record) -> None:
        self._run_dir = run_dir
        self._event = event
        self._ledgers: dict[str, Ledger] = {}

    def open(self, segment: Segment, spec: FunctionSpec) -> None:
        """A function has one segment more."""
        if spec.name not in self._ledgers:
            self._ledgers[spec.name] = Ledger(self._writer(spec.name))
        self._ledgers[spec.name].open(segment, spec)

    def close(self, name: str, segment: Segment) -> None:
        """One of a function's segments goes; with the last one, the function."""
        if not self._ledgers[name].close(segment):
            del self._ledgers[name]
            self._run_dir.forget_counters(name)

    def note(self, name: str) -> None:
        """Before the processes end that hold one of a function's segments: `Ledger.note`."""
        if name in self._ledgers:
            self._ledgers[name].note()

    def read(self, name: str) -> list[Counted]:
        """What a function has counted, from any thread; nothing of one without a segment."""
        ledger = self._ledgers.get(name)
        return ledger.read() if ledger is not None else []

    def adopt(self, living: Iterable[Segment], orphans: Iterable[Segment]) -> None:
        """Goes on from what an earlier daemon recorded of functions of which anything is left.

        Args:
            living: Segments that will serve, or be drained; whoever does so opens them.
            orphans: Segments that are about to go.
        """
        left, serving = list(orphans), list(living)
        names = {segment.name for segment in (*left, *serving)}
        for name, text in self._run_dir.counters().items():
            if name not in names:
                self._run_dir.forget_counters(name)
                continue
            mine = [segment for segment in left if segment.name == name]
            try:
                closed = _read(text, {segment.generation for segment in serving}, mine)
            except (ValueError, KeyError, TypeError) as error:
                why = f"what it had counted cannot be read, and begins anew: {error}"
                self._event(name, EventKind.ADOPT, why)
                closed = {}
            self._ledgers[name] = Ledger(self._writer(name), closed)

    def _writer(self, name: str) -> Callable[[str], None]:
        def write(text: str) -> None:
            try:
                self._run_dir.note_counters(name, text)
            except OSError as error:
                why = f"the next daemon will not know what it has counted: {error}"
                self._event(name, EventKind.OTHER, why)

        return write


def _read(text: str, living: set[int], orphans: Iterable[Segment]) -> dict[Key, Stats]:
    """What was counted by segments that are gone, or go just now."""
    noted, closed = json.loads(text), dict[Key, Stats]()
    segments = {int(generation): each for generation, each in noted["segments"].items()}
    gone = {generation: each for generation, each in segments.items() if generation not in living}
    counted = {segment.generation: _counters(segment) for segment in orphans}
    for version, slo_us, stats in noted["closed"]:
        _add(closed, Key(version, slo_us), _arrays(stats))
    for generation, (version, slo_us, stats) in gone.items():
        _add(closed, Key(version, slo_us), counted.get(generation, _arrays(stats)))
    return closed


def _counters(segment: Segment) -> Stats:
    return {key: value for key, value in segment.stats().items() if key != _NO_COUNTER}


def _add(counted: dict[Key, Stats], key: Key, stats: Stats) -> None:
    counted[key] = _added(counted[key], stats) if key in counted else stats
    versions = dict.fromkeys(each.version for each in counted if each.version)
    if len(versions) > VERSIONS_MAX:
        oldest = next(iter(versions))
        for old in [each for each in counted if each.version == oldest]:
            _add(counted, old._replace(version=""), counted.pop(old))


def _added(one: Any, other: Any) -> Any:
    if isinstance(one, Mapping):
        return {key: _added(value, other[key]) for key, value in one.items()}
    return one + other


def _plain(value: Any) -> Any:
    """As JSON has it."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return value.tolist() if isinstance(value, np.ndarray) else value


def _arrays(value: Any) -> Any:
    """The way back."""
    if isinstance(value, Mapping):
        return {key: _arrays(each) for key, each in value.items()}
    return np.array(value, np.uint64) if isinstance(value, list) else value
