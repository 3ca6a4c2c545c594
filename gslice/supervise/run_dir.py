"""The meeting place of a daemon and its children: `<state_dir>/run`."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from gslice.core.errors import NotFound

if TYPE_CHECKING:
    from pathlib import Path


class RunDir:
    """The directory of the children's sockets, each with a note of the process beside it.

    Sockets are addressed through the directory's descriptor: a socket address holds 107 bytes, and
    a state directory may be deeper than that.
    """

    def __init__(self, path: Path) -> None:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = path
        self._fd = os.open(path, os.O_PATH | os.O_DIRECTORY)

    def listen(self, name: str) -> socket.socket:
        """Binds the socket of a child about to start, in place of a dead one's."""
        self.remove(name)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            listener.bind(self._address(name))
            listener.listen(2)
        except OSError:
            listener.close()
            raise
        return listener

    def connect(self, name: str) -> socket.socket:
        """Connects to a child's socket.

        Raises:
            NotFound: nobody listens there any more.
        """
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.setblocking(False)
        try:
            connection.connect(self._address(name))
        except (ConnectionRefusedError, FileNotFoundError, BlockingIOError):
            connection.close()
            raise NotFound(f"nobody serves the socket {name}.sock") from None
        return connection

    def remove(self, name: str) -> None:
        """Removes a socket and its note; they may be gone already."""
        self._socket(name).unlink(missing_ok=True)
        self._note(name).unlink(missing_ok=True)

    def note(self, name: str, pid: int, started: int) -> None:
        """Records which process serves a socket, for when it does not say so itself."""
        self._note(name).write_text(f"{pid} {started}\n")

    def process_of(self, name: str) -> tuple[int, int] | None:
        """Process id and start ticks as recorded; the process may be gone."""
        try:
            pid, started = map(int, self._note(name).read_text().split())
        except (FileNotFoundError, ValueError):
            return None
        return pid, started

    def names(self) -> list[str]:
        """Children whose sockets exist, alive or not."""
        return sorted(p.stem for p in self.path.glob("*.sock"))

    # ---- programs, which have no socket --------------------------------------------------------

    def note_program(self, name: str, text: str) -> None:
        """Records what a later daemon must know of a program that is not ours.

        Raises:
            OSError: it cannot be written; what was recorded before stands.
        """
        _replace(self._program(name), text)

    def programs(self) -> dict[str, str]:
        """What was recorded of programs, by name; they may be gone."""
        return {path.stem: path.read_text() for path in sorted(self.path.glob("*.program"))}

    def forget_program(self, name: str) -> None:
        """A program has ended."""
        self._program(name).unlink(missing_ok=True)

    # ---- what functions have counted -------------------------------------------------------------

    def note_counters(self, name: str, text: str) -> None:
        """Records what a later daemon goes on from.

        Raises:
            OSError: it cannot be written; what was recorded before stands.
        """
        _replace(self._counters(name), text)

    def counters(self) -> dict[str, str]:
        """What was recorded, by function."""
        return {path.stem: path.read_text() for path in sorted(self.path.glob("*.counters"))}

    def forget_counters(self, name: str) -> None:
        """A function is gone."""
        self._counters(name).unlink(missing_ok=True)

    def close(self) -> None:
        """Gives the descriptor back."""
        os.close(self._fd)

    def _socket(self, name: str) -> Path:
        return self.path / f"{name}.sock"

    def _note(self, name: str) -> Path:
        return self.path / f"{name}.pid"

    def _program(self, name: str) -> Path:
        return self.path / f"{name}.program"

    def _counters(self, name: str) -> Path:
        return self.path / f"{name}.counters"

    def _address(self, name: str) -> str:
        return f"/proc/self/fd/{self._fd}/{name}.sock"


def _replace(path: Path, text: str) -> None:
    new = path.with_name(f"{path.name}.new")
    try:
        new.touch(mode=0o600)  # the environment of a program may hold secrets
        new.write_text(text)
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
