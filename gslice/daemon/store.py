"""What the daemon remembers: run-time changes, what it observed, and what happened.

SQLite in WAL mode, in the state directory. Writes are rare and small, so they happen on the
event loop.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from gslice.control.versions import Version
from gslice.core.errors import FailedPrecondition, Unavailable
from gslice.core.events import EventKind
from gslice.core.types import FunctionSpec
from gslice.ipc.codec import from_json, to_json

if TYPE_CHECKING:
    from collections.abc import Iterator

EVENTS_MAX = 10_000
OBSERVATIONS_MAX = 100  # of a function
VERSIONS_MAX = 10  # of a function
PROFILES_MAX = 50  # of a function
DIGESTS_MAX = 1_000
_LOCK_TIMEOUT_S = 0.2  # only people with a shell of their own hold it; the event loop must not wait

FileState = tuple[int, ...]
"""What a file system says of a file; it changes with the content."""

# Each brings a database from the version of its place in the list to the next one.
_MIGRATIONS = (
    """
CREATE TABLE overlay (
  name TEXT PRIMARY KEY, spec TEXT, base TEXT, changed_at REAL NOT NULL) STRICT;
CREATE TABLE observation (
  id INTEGER PRIMARY KEY, at REAL NOT NULL, function TEXT NOT NULL, what TEXT NOT NULL) STRICT;
CREATE INDEX observation_of ON observation (function, id);
CREATE TABLE event (
  id INTEGER PRIMARY KEY, at REAL NOT NULL, subject TEXT NOT NULL, text TEXT NOT NULL) STRICT;
""",
    f"""
ALTER TABLE event ADD COLUMN monotonic_us INTEGER NOT NULL DEFAULT 0;
ALTER TABLE event ADD COLUMN kind TEXT NOT NULL DEFAULT '{EventKind.OTHER}';
""",
    """
CREATE TABLE version (
  function TEXT NOT NULL, number INTEGER NOT NULL, spec TEXT NOT NULL, fingerprint TEXT NOT NULL,
  first_served_at REAL NOT NULL, served_at REAL NOT NULL, PRIMARY KEY (function, number)) STRICT;
CREATE TABLE digest (
  id INTEGER PRIMARY KEY, file TEXT NOT NULL UNIQUE, digest TEXT NOT NULL) STRICT;
""",
    """
CREATE TABLE profile (
  id INTEGER PRIMARY KEY, at REAL NOT NULL, function TEXT NOT NULL, circumstances TEXT NOT NULL,
  what TEXT NOT NULL, UNIQUE (function, circumstances)) STRICT;
""",
    "CREATE TABLE drained (device TEXT PRIMARY KEY) STRICT;",
)
SCHEMA_VERSION = len(_MIGRATIONS)


@dataclass(frozen=True)
class OverlayEntry:
    """A run-time change of one function.

    Attributes:
        spec: The function as changed; None: it was unloaded.
        base: What node.yaml said then; None: nothing.
    """

    spec: FunctionSpec | None
    base: FunctionSpec | None


@dataclass(frozen=True)
class Event:
    """Something that happened.

    Attributes:
        id: Ascends with time, also from one daemon to the next.
        at_s: Seconds since the epoch.
        monotonic_us: On CLOCK_MONOTONIC, which starts anew with the machine; 0: not known.
        subject: A function, a device, `frontend`, `spares` or `daemon`.
        kind: One word.
        text: What happened.
    """

    id: int
    at_s: float
    monotonic_us: int
    subject: str
    kind: str
    text: str


@dataclass(frozen=True)
class EventFilter:
    """Which events somebody wants.

    Attributes:
        subject: Only those of it; empty: of all.
        kinds: Only those; empty: all.
    """

    subject: str = ""
    kinds: tuple[str, ...] = ()

    @property
    def condition(self) -> tuple[str, tuple[str, ...]]:
        """As SQL for a WHERE, and the values in it."""
        conditions, values = ["TRUE"], self.kinds
        if self.kinds:
            conditions.append(f"kind IN ({', '.join('?' for _ in self.kinds)})")
        if self.subject:
            conditions.append("subject = ?")
            values = (*values, self.subject)
        return " AND ".join(conditions), values


ALL_EVENTS = EventFilter()


class Store:
    """The database of one node.

    Args:
        path: Its file, made when missing.

    Raises:
        FailedPrecondition: the file is no database, or of a later gslice.

    Every method raises Unavailable when the file cannot be read or written now, as on a full disk.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db = sqlite3.connect(path, timeout=_LOCK_TIMEOUT_S, isolation_level=None)
        try:
            path.chmod(0o600)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._migrate(path)
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise FailedPrecondition(
                f"{path}: {error}", hint="move the file away; run-time changes in it are lost"
            ) from error
        except BaseException:
            self._db.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @classmethod
    @contextlib.contextmanager
    def copied(cls, path: Path) -> Iterator[Store]:
        """A copy of a database, which is gone afterwards; of one that is not there, an empty one.

        SQLite reads none in WAL mode without making files beside it.

        Raises:
            FailedPrecondition: it cannot be read.
        """
        with tempfile.TemporaryDirectory() as directory:
            copy = Path(directory) / path.name
            try:
                for suffix in ("", "-wal"):  # with what a daemon that was killed has left
                    with contextlib.suppress(FileNotFoundError):
                        shutil.copyfile(f"{path}{suffix}", f"{copy}{suffix}")
            except OSError as error:
                raise FailedPrecondition(f"{path}: {error.strerror}") from error
            with cls(copy) as store:
                yield store

    def close(self) -> None:
        """Writes everything back into the one file."""
        self._db.close()

    # ---- overlay -----------------------------------------------------------------------------

    def overlay(self) -> dict[str, OverlayEntry]:
        """All run-time changes, by function, oldest first."""
        rows = self._execute("SELECT name, spec, base FROM overlay ORDER BY changed_at, name")
        return {name: OverlayEntry(_spec(spec), _spec(base)) for name, spec, base in rows}

    def put_overlay(self, name: str, entry: OverlayEntry) -> None:
        """Records a run-time change in place of an earlier one."""
        self._execute(
            "INSERT OR REPLACE INTO overlay VALUES (?, ?, ?, ?)",
            (name, _text(entry.spec), _text(entry.base), time.time()),
        )

    def drop_overlay(self, name: str) -> None:
        """Forgets the change of one function."""
        self._execute("DELETE FROM overlay WHERE name = ?", (name,))

    # ---- versions ----------------------------------------------------------------------------

    def versions(self, function: str) -> list[Version]:
        """The versions of a function that have served, newest first."""
        rows = self._execute(
            "SELECT number, spec, fingerprint, first_served_at, served_at FROM version"
            " WHERE function = ? ORDER BY number DESC",
            (function,),
        )
        return [Version(number, _read_spec(spec), *rest) for number, spec, *rest in rows]

    def put_version(self, number: int, spec: FunctionSpec, fingerprint: str) -> None:
        """Records that a version serves from now on.

        The VERSIONS_MAX that served last are kept, and the newest: no number is given twice.
        """
        now_s = time.time()
        self._execute(
            "INSERT INTO version VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
            " spec = excluded.spec, fingerprint = excluded.fingerprint,"
            " served_at = excluded.served_at",
            (spec.name, number, _text(spec), fingerprint, now_s, now_s),
        )
        self._execute(
            "DELETE FROM version WHERE function = ?1"
            " AND number < (SELECT max(number) FROM version WHERE function = ?1)"
            " AND number NOT IN (SELECT number FROM version WHERE function = ?1"
            " ORDER BY served_at DESC, number DESC LIMIT ?2)",
            (spec.name, VERSIONS_MAX),
        )

    def digest(self, file: FileState) -> str:
        """The digest of a file's content; empty: not known."""
        row = self._execute("SELECT digest FROM digest WHERE file = ?", (_key(file),)).fetchone()
        return row[0] if row else ""

    def put_digest(self, file: FileState, digest: str) -> None:
        """Remembers a digest; the newest DIGESTS_MAX are kept."""
        cursor = self._execute(
            "INSERT OR REPLACE INTO digest (file, digest) VALUES (?, ?)", (_key(file), digest)
        )
        last = cursor.lastrowid or 0
        self._execute("DELETE FROM digest WHERE id <= ?", (last - DIGESTS_MAX,))

    # ---- observations --------------------------------------------------------------------------

    def observe(self, function: str, what: dict[str, Any]) -> None:
        """Records what a load showed; the newest OBSERVATIONS_MAX of a function are kept."""
        self._execute(
            "INSERT INTO observation (at, function, what) VALUES (?, ?, ?)",
            (time.time(), function, json.dumps(what)),
        )
        self._execute(
            "DELETE FROM observation WHERE function = ?1 AND id NOT IN (SELECT id FROM observation"
            " WHERE function = ?1 ORDER BY id DESC LIMIT ?2)",
            (function, OBSERVATIONS_MAX),
        )

    def observations(self, function: str) -> list[dict[str, Any]]:
        """What was observed of a function, newest first."""
        rows = self._execute(
            "SELECT what FROM observation WHERE function = ? ORDER BY id DESC", (function,)
        )
        return [json.loads(what) for (what,) in rows]

    # ---- profiles ----------------------------------------------------------------------------

    def put_profile(self, function: str, circumstances: str, what: dict[str, Any]) -> None:
        """Keeps what was measured of a function, in place of what was under the same circumstances.

        The newest PROFILES_MAX of a function are kept.
        """
        self._execute(
            "INSERT OR REPLACE INTO profile (at, function, circumstances, what)"
            " VALUES (?, ?, ?, ?)",
            (time.time(), function, circumstances, json.dumps(what)),
        )
        self._execute(
            "DELETE FROM profile WHERE function = ?1 AND id NOT IN (SELECT id FROM profile"
            " WHERE function = ?1 ORDER BY id DESC LIMIT ?2)",
            (function, PROFILES_MAX),
        )

    def profiles(self, function: str) -> list[tuple[float, str, dict[str, Any]]]:
        """What was measured of a function: when, under which circumstances, what; newest first."""
        rows = self._execute(
            "SELECT at, circumstances, what FROM profile WHERE function = ? ORDER BY id DESC",
            (function,),
        )
        return [(at, circumstances, json.loads(what)) for at, circumstances, what in rows]

    # ---- devices -----------------------------------------------------------------------------

    def drained(self) -> set[str]:
        """Devices on which nothing new is placed."""
        return {device for (device,) in self._execute("SELECT device FROM drained")}

    def put_drained(self, device: str) -> None:
        """Nothing new is placed on a device."""
        self._execute("INSERT OR IGNORE INTO drained VALUES (?)", (device,))

    def drop_drained(self, device: str) -> None:
        """Functions may be placed on a device again."""
        self._execute("DELETE FROM drained WHERE device = ?", (device,))

    # ---- events ------------------------------------------------------------------------------

    def add_event(self, subject: str, kind: EventKind, text: str) -> None:
        """Records an event; the newest EVENTS_MAX are kept."""
        cursor = self._execute(
            "INSERT INTO event (at, monotonic_us, subject, kind, text) VALUES (?, ?, ?, ?, ?)",
            (time.time(), time.monotonic_ns() // 1000, subject, kind, text),
        )
        last = cursor.lastrowid or 0
        self._execute("DELETE FROM event WHERE id <= ?", (last - EVENTS_MAX,))

    def events(self, after: int, limit: int, wanted: EventFilter = ALL_EVENTS) -> list[Event]:
        """The first events after an id, oldest first."""
        condition, values = wanted.condition
        rows = self._execute(
            "SELECT id, at, monotonic_us, subject, kind, text FROM event"
            f" WHERE {condition} AND id > ? ORDER BY id LIMIT ?",
            (*values, after, limit),
        )
        return [Event(*row) for row in rows]

    def before_newest_events(self, count: int, wanted: EventFilter = ALL_EVENTS) -> int:
        """The id after which the newest `count` events come, and what happens from now on."""
        condition, values = wanted.condition
        row = self._execute(
            f"SELECT id FROM event WHERE {condition} ORDER BY id DESC LIMIT 1 OFFSET ?",
            (*values, count),
        ).fetchone()
        return row[0] if row else 0

    def _execute(self, statement: str, values: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        try:
            return self._db.execute(statement, values)
        except sqlite3.Error as error:
            raise Unavailable(f"{self._path}: {error}") from error

    def _migrate(self, path: Path) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise FailedPrecondition(
                f"{path}: written by a later gslice (schema {version}, this one {SCHEMA_VERSION})",
                hint="use the later one, or move the file away",
            )
        for number, script in enumerate(_MIGRATIONS[version:], version + 1):
            self._db.executescript(f"BEGIN; {script} PRAGMA user_version = {number}; COMMIT;")


def _key(file: FileState) -> str:
    return json.dumps(file)  # an inode's number may be larger than SQLite's integers


def _text(spec: FunctionSpec | None) -> str | None:
    return None if spec is None else json.dumps(to_json(spec))


def _spec(text: str | None) -> FunctionSpec | None:
    return None if text is None else _read_spec(text)


def _read_spec(text: str) -> FunctionSpec:
    return from_json(FunctionSpec, json.loads(text))
