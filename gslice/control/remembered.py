"""Answers that are asked for again and again, mostly with the same question."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

Answer = TypeVar("Answer")


class Remembered(Generic[Answer]):
    """The last answer under each name: whoever asks the same again gets the same object."""

    def __init__(self) -> None:
        self._last: dict[Hashable, tuple[object, Answer]] = {}

    def get(self, name: Hashable, asked: object, make: Callable[[], Answer]) -> Answer:
        """The answer to a question, which is all that it depends on.

        Args:
            name: Whose question it is.
            asked: The question.
            make: Answers it.
        """
        last = self._last.get(name)
        if last is None or last[0] != asked:
            last = self._last[name] = asked, make()
        return last[1]
