"""The turn boards of the node's devices: who may run a batch now, where shares over-commit one.

A board is a small piece of shared memory that every worker of its device maps. The daemon makes it,
says who is on it and with what share, and switches turns on and off; the pumps do the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gslice._native import TurnBoard
from gslice.core.errors import FailedPrecondition

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gslice.supervise.worker import Worker


class TurnBoards:
    """Those of a node."""

    def __init__(self) -> None:
        self._boards: dict[str, TurnBoard] = {}

    def of(self, device: str) -> TurnBoard:
        """A device's board, made when somebody first asks for it, with turns off."""
        if device not in self._boards:
            self._boards[device] = TurnBoard.create(device)
        return self._boards[device]

    def adopt(self, device: str, fd: int) -> TurnBoard:
        """Goes on with the board of an earlier daemon, before anybody asks for another.

        Args:
            device: Whose it is.
            fd: As a worker handed it over; stays the caller's.

        Raises:
            Internal: it is not a board of this build.
            FailedPrecondition: other workers of the device have another one.
        """
        board = TurnBoard.open(fd)
        if self._boards.setdefault(device, board).generation != board.generation:
            raise FailedPrecondition(f"device {device} has another turn board")
        return board

    def keep(self, workers: Iterable[tuple[str, Worker]]) -> None:
        """Takes everybody off the boards but these workers, each with its device."""
        living = {(device, worker.turn) for device, worker in workers}
        for device, board in self._boards.items():
            for entry in board.entries():
                if (device, entry) not in living:
                    board.remove(entry)

    def set_turns(self, device: str, limit_percent: float | None) -> bool:
        """Has the batches of a device take turns.

        Args:
            device: Its name.
            limit_percent: What the shares of those that run at once may add up to; None: no turns.

        Returns:
            Whether that switched turns on or off.
        """
        board = self.of(device)
        was_on = board.limit_percent is not None
        board.set_limit(limit_percent)
        return was_on != (limit_percent is not None)
