"""What the daemon remembers: run-time changes, what it observed, and what happened.

SQLite in WAL mode, in the state directory. Writes are rare and small, so they happen on the
event loop.
"""

from __future__ import annotations

import json
import sqlite3
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from gslice.core.errors import FailedPrecondition, Unavailable
from gslice.core.types import FunctionSpec
from gslice.ipc.codec import from_json, to_json

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA_VERSION = 1
EVENTS_MAX = 10_000
OBSERVATIONS_MAX = 100  # of a function
_LOCK_TIMEOUT_S = 0.2  # only people with a shell of their own hold it; the event loop must not wait

_SCHEMA = """
CREATE TABLE overlay (
  name TEXT PRIMARY KEY, spec TEXT, base TEXT, changed_at REAL NOT NULL) STRICT;
CREATE TABLE observation (
  id INTEGER PRIMARY KEY, at REAL NOT NULL, function TEXT NOT NULL, what TEXT NOT NULL) STRICT;
CREATE INDEX observation_of ON observation (function, id);
CREATE TABLE event (
  id INTEGER PRIMARY KEY, at REAL NOT NULL, subject TEXT NOT NULL, text TEXT NOT NULL) STRICT;
"""


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
        at: Seconds since the epoch.
        subject: A function, `frontend` or `daemon`.
        text: What happened.
    """

    at: float
    subject: str
    text: str


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

    # ---- observations, events ------------------------------------------------------------------

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

    def add_event(self, subject: str, text: str) -> None:
        """Records an event; the newest EVENTS_MAX are kept."""
        cursor = self._execute(
            "INSERT INTO event (at, subject, text) VALUES (?, ?, ?)", (time.time(), subject, text)
        )
        last = cursor.lastrowid or 0
        self._execute("DELETE FROM event WHERE id <= ?", (last - EVENTS_MAX,))

    def events(self, limit: int = 100) -> list[Event]:
        """The newest events, newest first."""
        rows = self._execute(
            "SELECT at, subject, text FROM event ORDER BY id DESC LIMIT ?", (limit,)
        )
        return [Event(*row) for row in rows]

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
        if version == 0:
            self._db.executescript(
                f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            )


def _text(spec: FunctionSpec | None) -> str | None:
    return None if spec is None else json.dumps(to_json(spec))


def _spec(text: str | None) -> FunctionSpec | None:
    return None if text is None else from_json(FunctionSpec, json.loads(text))
