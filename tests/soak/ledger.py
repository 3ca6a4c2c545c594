"""What was asked, what came of it, and whether that may be."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from gslice.core.errors import (
    DeadlineExceeded,
    GsliceError,
    Internal,
    InvalidArgument,
    NotFound,
    Unavailable,
)

EXPECTED: dict[str, tuple[type[GsliceError], ...]] = {
    "hurried": (DeadlineExceeded,),
    "bad": (InvalidArgument,),
    "unknown": (NotFound,),
    "raising": (Internal,),
    "extra": (NotFound, Unavailable),  # it comes and goes
}
"""Kind of request -> errors that it may meet at any time."""
MUST_FAIL = frozenset({"bad", "unknown", "raising"})
CONVICTED = "two workers died while they ran this request"


@dataclass
class Request:
    """One request.

    Attributes:
        kind: What kind of request it is.
        function: Whom it asks.
        began_s: When, of `time.monotonic`.
        outcome: In a word; empty: none yet.
    """

    kind: str
    function: str
    began_s: float = field(default_factory=time.monotonic)
    outcome: str = ""


class Ledger:
    """Every request and its one outcome; every death that excuses a failure."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[int, Request] = {}
        self._outages: list[tuple[str, float, float]] = []  # "": of the front-end
        self._deaths: dict[str, list[float]] = {}
        self._doubtful: list[tuple[Request, GsliceError, float]] = []
        self.outcomes: Counter[str] = Counter()
        self.wrong: list[str] = []

    # ---- requests ----------------------------------------------------------------------------

    def begin(self, kind: str, function: str) -> Request:
        """Enters a request."""
        request = Request(kind, function)
        with self._lock:
            self._open[id(request)] = request
        return request

    def answered(self, request: Request, right: bool) -> None:
        """It was answered, rightly or not."""
        self._end(request, "ok")
        if not right or request.kind in MUST_FAIL:
            self._note(f"{request.kind} request to {request.function}: a wrong answer")

    def cancelled(self, request: Request) -> None:
        """Its caller gave it up."""
        self._end(request, "cancelled")

    def failed(self, request: Request, error: GsliceError) -> None:
        """It failed; whether it may have, `judge` says when all deaths are known."""
        self._end(request, type(error).__name__)
        if not isinstance(error, EXPECTED.get(request.kind, ())):
            with self._lock:
                self._doubtful.append((request, error, time.monotonic()))

    # ---- deaths ------------------------------------------------------------------------------

    def worker_died(self, function: str) -> None:
        """A worker of a function has died just now."""
        self._deaths.setdefault(function, []).append(time.monotonic())

    def deaths_since(self, function: str, since_s: float) -> int:
        """How many workers of a function died since a time."""
        return sum(death >= since_s for death in self._deaths.get(function, ()))

    def frontend_was_down(self, began_s: float, ended_s: float) -> None:
        """Connections were lost, and could not be made again before the end."""
        self._outages.append(("", began_s, ended_s))

    def function_was_lost(self, function: str, began_s: float, ended_s: float) -> None:
        """Daemon and all workers of a function were dead together: nobody could adopt it."""
        self._outages.append((function, began_s, ended_s))

    # ---- judgement -----------------------------------------------------------------------------

    def judge(self) -> list[str]:
        """What went wrong, with nothing in flight; each thing is told once."""
        with self._lock:
            wrong = [*self.wrong, *(f"no outcome: {request}" for request in self._open.values())]
            for request, error, ended_s in self._doubtful:
                if not self._excused(request, error, ended_s):
                    lasted_s = ended_s - request.began_s
                    wrong.append(f"{request} failed after {lasted_s:.3f} s: {error!r}")
            self.wrong, self._doubtful = [], []
        return wrong

    def _excused(self, request: Request, error: GsliceError, ended_s: float) -> bool:
        if isinstance(error, Unavailable):
            return any(
                began_s <= ended_s and request.began_s <= until_s
                for name, began_s, until_s in self._outages
                if name in ("", request.function)
            )
        if isinstance(error, Internal) and CONVICTED in str(error):
            deaths = self._deaths.get(request.function, ())
            return sum(request.began_s <= death <= ended_s for death in deaths) >= 2
        return False

    def _end(self, request: Request, outcome: str) -> None:
        with self._lock:
            if request.outcome:
                self.wrong.append(f"{request} has a second outcome: {outcome}")
                return
            request.outcome = outcome
            del self._open[id(request)]
            self.outcomes[f"{request.kind} {outcome}"] += 1

    def _note(self, wrong: str) -> None:
        with self._lock:
            self.wrong.append(wrong)
