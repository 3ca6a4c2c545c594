"""Clients in threads, each with a call at a time, every request a number of its own."""

from __future__ import annotations

import hashlib
import itertools
import threading
import time
from collections import Counter
from types import TracebackType
from typing import Self

import numpy as np

from gslice.core.errors import GsliceError, ResourceExhausted
from tests.node import WAIT_S, Node

_PACE_S = 0.02  # what is tested needs the cores, too


def cpu_s_per_request(iterations: int) -> float:
    """What one request of `Burns` costs on a core that nobody else uses."""
    begun_s = time.thread_time()
    for _ in range(20):
        hashlib.pbkdf2_hmac("sha256", b"password", b"salt", iterations)
    return (time.thread_time() - begun_s) / 20


class Answers:
    """What a load has sent and got.

    Attributes:
        sent: Requests so far.
        answers: How often each number was answered.
        tags: How many answers were of each version, of a function that tells its own.
        errors: Of those that failed.
    """

    def __init__(self) -> None:
        self.sent = 0
        self.answers: Counter[int] = Counter()
        self.tags: Counter[int] = Counter()
        self.errors: list[BaseException] = []
        self._progress = threading.Condition()

    def wait_answers(self, more: int) -> None:
        """Waits until that many more requests have been answered."""
        with self._progress:
            wanted = self.answers.total() + more
            assert self._progress.wait_for(lambda: self.answers.total() >= wanted, WAIT_S), (
                f"waited in vain for answer {wanted}; errors: {self.errors[-3:]}"
            )

    def assert_each_answered_once(self) -> None:
        """Every request that was sent was answered with its own number, once, and none failed."""
        assert self.errors == [], self.errors[:3]
        assert self.sent > 0
        assert self.answers == Counter(range(1, self.sent + 1))

    def assert_answered_once_or_shed(self) -> None:
        """Every request was answered once, or refused at the door: some may be too many."""
        assert {type(error) for error in self.errors} <= {ResourceExhausted}
        assert set(self.answers.values()) == {1}
        assert len(self.answers) + len(self.errors) == self.sent


class Traffic(Answers):
    """Load on one function until the context ends.

    Args:
        node: The node.
        name: A function that answers a number with itself.
        clients: Calls at a time.
        output: Name of its output.
        pace_s: Between an answer and a client's next call.
    """

    def __init__(
        self,
        node: Node,
        name: str,
        clients: int = 8,
        output: str = "y",
        pace_s: float = _PACE_S,
    ) -> None:
        super().__init__()
        self._pace_s = pace_s
        self._name = name
        self._output = output
        self._client = node.client()
        self._numbers = itertools.count(1)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(WAIT_S)
        self._client.close()
        assert not any(thread.is_alive() for thread in self._threads), "a call never ended"

    def _run(self) -> None:
        while not self._stop.is_set():
            with self._progress:
                number = next(self._numbers)
                self.sent += 1
            try:
                outputs = self._client.infer(self._name, {"x": np.array([[number]], np.int64)})
            except GsliceError as error:
                with self._progress:
                    self.errors.append(error)
            else:
                with self._progress:
                    self.answers[int(outputs[self._output][0, 0])] += 1
                    if "tag" in outputs:
                        self.tags[int(outputs["tag"][0, 0])] += 1
                    self._progress.notify_all()
            self._stop.wait(self._pace_s)
