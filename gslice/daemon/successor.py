"""The code on disk, which may take this daemon's place: would it start, could it take over?"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from gslice import __version__
from gslice._native import LAYOUT_VERSION
from gslice.core.errors import FailedPrecondition
from gslice.daemon.store import SCHEMA_VERSION
from gslice.ipc.messages import PROTOCOL_VERSION
from gslice.supervise.logs import last_lines, shortened
from gslice.supervise.process import spawn

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

CHECK_OPTION = "--check"
_CHECK_TIMEOUT_S = 60.0
_LINES_MAX = 20


@dataclass(frozen=True)
class Versions:
    """What decides whether one daemon can take over from another.

    Attributes:
        version: For people.
        protocol: Of control messages; children of another one cannot be led.
        layout: Of segments; those of another one cannot be read.
        schema: Of the database; one of a later schema cannot be read.
        state_dir: Where the children are found.
    """

    version: str
    protocol: int
    layout: int
    schema: int
    state_dir: str

    @classmethod
    def own(cls, state_dir: Path) -> Versions:
        """Those of the code that runs."""
        return cls(__version__, PROTOCOL_VERSION, LAYOUT_VERSION, SCHEMA_VERSION, str(state_dir))

    def to_json(self) -> str:
        """For `from_json` of another process, which may be of another version."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Versions:
        """Reads `to_json`; what later versions add is passed over.

        Raises:
            FailedPrecondition: it is something else.
        """
        try:
            values = json.loads(text)
            return cls(*(values[name] for name in cls.__annotations__))
        except (ValueError, KeyError, TypeError) as error:
            raise FailedPrecondition(
                f"the code on disk does not say what it is: {text[-200:]!r}",
                hint="an older gslice cannot take over; stop this one and start that",
            ) from error

    def check_successor(self, new: Versions) -> None:
        """Whether a daemon of other versions can take over what runs.

        Raises:
            FailedPrecondition: it cannot, and why.
        """
        for what, mine, its in (
            ("control protocol", self.protocol, new.protocol),
            ("segment layout", self.layout, new.layout),
        ):
            if mine != its:
                raise FailedPrecondition(
                    f"gslice {new.version} on disk has {what} {its}, and what runs has {mine}: "
                    "it could not adopt the workers",
                    hint="stop gslice and start it again, or go by a version between",
                )
        if new.schema < self.schema:
            raise FailedPrecondition(
                f"gslice {new.version} on disk cannot read the database of this one "
                f"(schema {self.schema}, its own {new.schema})",
                hint="an earlier version starts with another state_dir",
            )
        if new.state_dir != self.state_dir:
            raise FailedPrecondition(
                f"node.yaml names the state_dir {new.state_dir} now, and what runs is in "
                f"{self.state_dir}: nothing would be adopted",
                hint="a new state_dir takes a stop and a start",
            )


async def check_command(command: Sequence[str], state_dir: Path) -> Versions:
    """Has the code on disk load its configuration and all it needs, in a process of its own.

    Args:
        command: What started this daemon; to be run again in its place.
        state_dir: Of this daemon.

    Returns:
        The versions of the code on disk.

    Raises:
        FailedPrecondition: it would not start, or could not take over.
    """
    output = state_dir / "check.out"
    output.unlink(missing_ok=True)
    process = spawn([*command, CHECK_OPTION], os.environ, output)
    try:
        if not await process.wait(_CHECK_TIMEOUT_S):
            raise FailedPrecondition(
                f"the code on disk took longer than {_CHECK_TIMEOUT_S:g} s to say what it is"
            )
        said = last_lines(output, _LINES_MAX)
        if process.death.result() != "exited with code 0":
            reason = " ".join(said) or process.death.result()
            raise FailedPrecondition(f"the code on disk would not start: {shortened(reason)}")
    finally:
        await process.kill()
        output.unlink(missing_ok=True)
    new = Versions.from_json(said[-1] if said else "")
    Versions.own(state_dir).check_successor(new)
    return new


def own_command() -> list[str]:
    """What was typed to start this process, to be run again."""
    return [sys.executable, *sys.orig_argv[1:]]
