"""Another share for a program that is not ours: in place, or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gslice.control.shares import differs
from gslice.core.errors import FailedPrecondition, InvalidArgument
from gslice.supervise.resize import Resized, Resizing

if TYPE_CHECKING:
    from collections.abc import Callable

    from gslice.core.types import ShareBounds


class ProgramShare(Resizing):
    """See the module."""

    def check_possible(self, share: ShareBounds) -> None:
        """See `Resizing.check_possible`.

        Raises:
            FailedPrecondition: it does not run, or its share is fixed while it does.
            InvalidArgument: that is no share for a program.
        """
        function, program = self._function, self._function.program
        if share.min_percent != share.max_percent:
            raise InvalidArgument(
                f"function {function.name}: a command needs a share of its own, as in 30%"
            )
        if program is None:
            raise FailedPrecondition(
                f"function {function.name} is {function.state}; only a program that runs can be"
                " resized",
                hint=f"load it: gslice load {function.name}",
            )
        if not program.live_resize:
            raise FailedPrecondition(
                f"function {function.name}: under {program.note.limiter} the share of a program is"
                " fixed when it starts, and nothing can take its place while it runs",
                hint=f"restart it with another: gslice load {function.name} --file BODY.yaml",
            )

    def path_to(self, share_percent: float) -> str:
        """See `Resizing.path_to`."""
        program = self._function.program
        if program is None or not differs(program.note.share_percent, share_percent):
            return "none"
        return "in place"

    async def carry_out(self, stage: Callable[[str, str], None]) -> Resized:
        """What `Command.grant` did."""
        function, program = self._function, self._function.program
        effective = program.share_effective_percent if program is not None else 0.0
        return Resized("in place", function.share_granted_percent, effective)
