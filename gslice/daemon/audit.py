"""Who changed what on the node: a line of JSON for every control action, never rewritten.

A line is on disk before whoever ordered the action hears that it is done.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import itertools
import json
import logging
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gslice import __version__
from gslice.core import audit
from gslice.core.config import function_to_yaml
from gslice.core.errors import GsliceError, NotFound
from gslice.core.sources import redacted
from gslice.supervise.logs import shortened

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from gslice.core.types import FunctionSpec
    from gslice.daemon.daemon import Daemon

FILE_MAX_BYTES = 8 << 20
DETAIL_MAX_CHARS = 4000  # of what clients may send as much as they like
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
DAEMON = "daemon"  # as a subject
_HIDDEN = "..."  # in place of what may be a secret
_log = logging.getLogger("gslice")

Who = dict[str, Any]
Look = Callable[[str], dict[str, Any]]


class AuditLog:
    """The node's audit log.

    Args:
        state_dir: Where it is.
        look: What a subject is like now.
        command: What started this process.
        file_max_bytes: A file that would be larger is put aside; `core.audit.KEPT` of these stay.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(
        self,
        state_dir: Path,
        look: Look,
        command: Sequence[str] = (),
        file_max_bytes: int = FILE_MAX_BYTES,
    ) -> None:
        self._state_dir = state_dir
        self._command = command
        self._look = look
        self._max_bytes = file_max_bytes
        self._writing = threading.Lock()
        self._fd = self._open()

    def close(self) -> None:
        """Writes nothing more."""
        with self._writing:
            os.close(self._fd)
            self._fd = -1

    @contextlib.asynccontextmanager
    async def action(
        self, who: Who, what: str, subject: str, detail: str = ""
    ) -> AsyncIterator[None]:
        """Around an action: however it ends, it gets its line, written by a thread: disks are slow.

        Args:
            who: Ordered it.
            what: The order, such as `resize`.
            subject: A function, a device, or `daemon`.
            detail: What the order said.
        """
        before = self._look(subject)
        outcome = "interrupted"
        try:
            yield
            outcome = "done"
        except GsliceError as error:
            outcome = f"failed: {error}"
            raise
        except Exception as error:
            outcome = f"failed: {type(error).__name__}: {error}"
            raise
        finally:
            line = self._line(who, what, subject, detail, before, outcome)
            await asyncio.shield(asyncio.to_thread(self._write, line))

    def own(self, what: str) -> None:
        """Something that the daemon does by itself, or because a signal told it to."""
        who = {"name": f"uid {os.getuid()}", "uid": os.getuid(), "via": "process"}
        self._write(self._line(who, what, DAEMON, " ".join(self._command), {}, "begun"))

    def _line(
        self, who: Who, what: str, subject: str, detail: str, before: dict[str, Any], outcome: str
    ) -> bytes:
        entry = {
            "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds"),
            "who": who,
            "what": what,
            "subject": subject,
            "detail": shortened(redacted(detail), DETAIL_MAX_CHARS),
            "before": before,
            "after": self._look(subject),
            "outcome": outcome,
        }
        return json.dumps(entry, ensure_ascii=False).encode(errors="replace") + b"\n"

    def _write(self, line: bytes) -> None:
        """Has a line on the disk; that it cannot be written is logged."""
        try:
            with self._writing:
                size_bytes = os.fstat(self._fd).st_size
                if size_bytes + len(line) > self._max_bytes:
                    self._rotate()
                elif size_bytes and os.pread(self._fd, 1, size_bytes - 1) != b"\n":
                    line = b"\n" + line  # the machine died, or the disk was full, within the last
                os.write(self._fd, line)
                os.fdatasync(self._fd)
        except OSError as error:
            _log.error("the audit log lacks a line, for %s: %s", error, line.decode())

    def _open(self) -> int:
        return os.open(self._state_dir / audit.FILE, _FLAGS, 0o600)

    def _rotate(self) -> None:
        names = audit.files(self._state_dir)
        for newer, older in reversed(list(itertools.pairwise(names))):
            with contextlib.suppress(FileNotFoundError):
                newer.rename(older)
        full, self._fd = self._fd, self._open()
        os.close(full)


def look(daemon: Daemon, subject: str) -> dict[str, Any]:
    """What a function, a device or the daemon is like now, as far as orders change it."""
    if subject in daemon.node.devices:
        return {"drained": subject in daemon.node.drained}
    if subject == DAEMON:
        return {"version": __version__, "state": daemon.state, "overlay": daemon.desired.changed}
    found: dict[str, Any] = {}
    with contextlib.suppress(NotFound):
        found["function"] = function_to_yaml(_discreet(daemon.desired.declared(subject)))
    running = daemon.supervisor.functions.get(subject)
    if running is not None:
        found["state"] = running.state
        found["version"] = (running.deployment or running).spec.version
        found["share_granted_percent"] = running.share_granted_percent
    return found


def _discreet(spec: FunctionSpec) -> FunctionSpec:
    """Environments have passwords in them, and URLs signatures."""
    hidden = dict.fromkeys(spec.environment, _HIDDEN)
    spec = spec.as_declared
    model, warmup = redacted(spec.model), redacted(spec.warmup)
    return dataclasses.replace(spec, environment=hidden, model=model, warmup=warmup)
