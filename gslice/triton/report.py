"""What is told of a repository: settings that are not honoured, and models that are not served."""

from __future__ import annotations

from dataclasses import dataclass

from gslice.core.errors import GsliceError


@dataclass(frozen=True)
class Note:
    """A setting that is not honoured as it is written.

    Attributes:
        model: Whose.
        place: Where it is written, such as `detector/config.pbtxt:12`.
        setting: Such as `dynamic_batching.priority_levels`.
        text: What becomes of it.
    """

    model: str
    place: str
    setting: str
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.setting}: {self.text}"


@dataclass(frozen=True)
class Refusal:
    """A model that is not served.

    Attributes:
        model: Which.
        reason: Why not.
        hint: What to do.
    """

    model: str
    reason: str
    hint: str = ""

    @classmethod
    def of(cls, model: str, error: GsliceError) -> Refusal:
        """For what an error says, on one line."""
        return cls(model, "; ".join(error.message.splitlines()), error.hint)

    def __str__(self) -> str:
        return f"{self.model} is not served: {self.reason}" + (f" ({self.hint})" * bool(self.hint))
