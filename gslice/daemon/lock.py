"""One daemon a state directory."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING, Self

from gslice.core.errors import FailedPrecondition

if TYPE_CHECKING:
    from pathlib import Path


class StateLock:
    """Holds a state directory for one daemon; the kernel drops it when the holder dies.

    Args:
        state_dir: The directory; made, for its owner alone, when missing.
        held: Descriptor of the lock, where the daemon before handed it over; None: to be taken.

    Attributes:
        fd: Holds the lock.

    Raises:
        FailedPrecondition: another daemon holds it, or it cannot be made.
    """

    def __init__(self, state_dir: Path, held: int | None = None) -> None:
        if held is not None:
            self.fd = held
            return
        try:
            state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            state_dir.chmod(0o700)
            self.fd = os.open(state_dir / "daemon.lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise FailedPrecondition(
                f"cannot keep state in {state_dir}: {error.strerror}",
                hint="choose a state_dir that this user owns",
            ) from error
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self.fd, 20, 0).decode(errors="replace").strip() or "unknown"
            os.close(self.fd)
            raise FailedPrecondition(
                f"another daemon (pid {holder}) runs in {state_dir}",
                hint="stop it, or choose another state_dir",
            ) from None
        os.truncate(self.fd, 0)
        os.pwrite(self.fd, f"{os.getpid()}\n".encode(), 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        os.truncate(self.fd, 0)
        os.close(self.fd)
