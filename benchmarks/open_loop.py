"""An open loop that knows every request, counts each from when it was due, checks every answer."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.http2 import Connection, Request
from benchmarks.load import Arrivals

ERROR_MAX_CHARS = 200


@dataclass(slots=True, eq=False)
class Sent:
    """A request that was sent.

    Attributes:
        function: Whom it asked.
        due_s: When it was due, by `time.perf_counter`.
        number: Which answer of its function it was, from 1; 0: it has none yet.
        answered_s: When that came.
    """

    function: str
    due_s: float
    number: int = 0
    answered_s: float = 0.0


@dataclass(frozen=True)
class Question:
    """A request and the answer that belongs to it.

    Attributes:
        request: Laid out.
        is_right: Whether an answer's message is the one.
    """

    request: Request
    is_right: Callable[[bytes], bool]


class CheckedLoop(Arrivals):
    """Load on one function at a time, while its context is open: see `Arrivals`.

    Args:
        connection: To the server.
        questions: By function, several that have different answers: an answer that went to the
            wrong request shows.
        rate_per_s: Mean rate of the Poisson process.
        seed: Of the arrival times.
        answered: Told of each request that was answered, as it is.

    Attributes:
        function: Whom the next request asks.
        requests: Sent so far.
        answers: Requests that were answered, by function.
        errors: Calls that failed, and wrong answers (which are answers, too), by what was wrong.
        waiting: Requests without an answer.
    """

    def __init__(
        self,
        connection: Connection,
        questions: Mapping[str, list[Question]],
        rate_per_s: float,
        seed: int = 0,
        answered: Callable[[Sent], object] = lambda _: None,
    ) -> None:
        self.function = next(iter(questions))
        self.requests = 0
        self.answers: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.waiting: set[Sent] = set()
        self._connection = connection
        self._questions = questions
        self._chance = random.Random(seed)
        self._tell = answered
        self._answered = asyncio.Event()
        super().__init__(rate_per_s, seed, self._ask)

    async def first(self, wanted: Callable[[], Sent | None], timeout_s: float) -> Sent:
        """Looks after every answer, until there is one that is wanted.

        Raises:
            TimeoutError: there was none.
        """
        async with asyncio.timeout(timeout_s):
            while (found := wanted()) is None:
                self._answered.clear()
                await self._answered.wait()
        return found

    def _ask(self, due_s: float) -> asyncio.Task[None]:
        return asyncio.create_task(self._call(Sent(self.function, due_s)))

    async def _call(self, sent: Sent) -> None:
        self.requests += 1
        self.waiting.add(sent)
        question = self._chance.choice(self._questions[sent.function])
        try:
            answer = await self._connection.call(question.request, keep=True)
        except (RuntimeError, ConnectionError) as error:
            self.errors[str(error)[:ERROR_MAX_CHARS]] += 1
        else:
            if not question.is_right(answer):
                self.errors["a wrong answer"] += 1
            self.answers[sent.function] += 1
            sent.number, sent.answered_s = self.answers[sent.function], time.perf_counter()
            self._tell(sent)
        self.waiting.discard(sent)
        self._answered.set()
