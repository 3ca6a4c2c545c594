"""What befalls a node in the drill, one blow after the other, by a seeded chance."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from typing import Any

from tests.node import WAIT_S, Node, in_background, kill_and_wait, wait_pidfd
from tests.soak.ledger import Ledger

ALWAYS = {"same": 1, "affine": 1, "echo": 2, "picky": 1}
"""Function -> instances; these serve all the time."""
SINGLE = [name for name, instances in ALWAYS.items() if instances == 1]
EXTRA = "{identity: {inputs: [{name: x, dtype: INT64, dims: [-1, 1]}]}}"
DEATHS_MAX = 3  # in a window: more are a crash loop, which fails a function rightly
DEATHS_WINDOW_S = 62.0
RECONNECT_S = 1.5  # until every client has tried again after the front-end is back


class Chaos:
    """The blows.

    Args:
        node: The node.
        ledger: Where deaths are entered.
        seed: Of all that is left to chance.
    """

    def __init__(self, node: Node, ledger: Ledger, seed: int) -> None:
        self._node = node
        self._ledger = ledger
        self._chance = random.Random(seed)
        self._extra_loaded = False
        self._whom = ""  # whom the last blow fell on
        self.done: Counter[str] = Counter()
        self.diary: deque[str] = deque(maxlen=12)
        self._blows: dict[Callable[[], None], float] = {
            self._kill_worker: 5,
            self._kill_daemon: 2,
            self._kill_daemon_and_worker: 1,
            self._kill_frontend: 1,
            self._kill_daemon_and_frontend: 0.5,
            self._reload: 2,
            self._reload_and_kill: 1,
            self._load_or_unload: 2,
            self._stop_worker: 1,
        }

    def strike(self) -> None:
        """One blow. The node may still be on its way back from it."""
        self._whom = ""
        (blow,) = self._chance.choices(list(self._blows), list(self._blows.values()))
        name = blow.__name__.removeprefix("_")
        began_s = time.monotonic()
        blow()
        self.done[name] += 1
        self.diary.append(f"{began_s:.3f} to {time.monotonic():.3f}: {name} {self._whom}".rstrip())

    def settle(self) -> Any:
        """Waits until all is served as it should be; returns the status."""

        def settled(status: Any) -> bool:
            found = {f.name: (f.state, len(f.workers)) for f in status.functions}
            return all(found.get(n) == ("READY", k) for n, k in ALWAYS.items()) and all(
                frontend.state == "SERVING" for frontend in status.frontends
            )

        return self._node.wait_status(settled)

    # ---- workers -------------------------------------------------------------------------------

    def _kill_worker(self) -> None:
        self._kill_one(list(ALWAYS))

    def _stop_worker(self) -> None:
        """It stops, and is killed once it ignores its queue for as long as is allowed."""
        for name in self._mortal(SINGLE):
            for pid in self._node.worker_pids(name):
                self._whom = f"{name} {pid}"
                pidfd = os.pidfd_open(pid)
                os.kill(pid, signal.SIGSTOP)
                ended = wait_pidfd(pidfd, WAIT_S)
                os.close(pidfd)
                assert ended, f"worker {pid} of {name} was stopped, and nobody killed it"
                self._ledger.worker_died(name)
                return

    def _kill_one(self, names: list[str]) -> None:
        for name in self._mortal(names):
            for pid in self._node.worker_pids(name):
                self._kill(name, pid)
                return

    def _kill(self, name: str, pid: int) -> None:
        self._whom += f"{name} {pid}"
        kill_and_wait(pid)
        self._ledger.worker_died(name)

    def _mortal(self, names: list[str]) -> list[str]:
        """Functions that stand another death, in any order."""
        since_s = time.monotonic() - DEATHS_WINDOW_S
        names = [n for n in names if self._ledger.deaths_since(n, since_s) < DEATHS_MAX]
        return self._chance.sample(names, len(names))

    # ---- the daemon and the front-end -----------------------------------------------------------

    def _kill_daemon(self) -> None:
        self._without_daemon(lambda: None)

    def _kill_daemon_and_worker(self) -> None:
        """One of two workers dies while no daemon runs; the other one serves on."""
        self.settle()
        pid = self._chance.choice(self._node.worker_pids("echo"))
        if self._mortal(["echo"]):
            self._without_daemon(lambda: self._kill("echo", pid))

    def _without_daemon(self, blow: Callable[[], None]) -> None:
        lost = [f.name for f in self._node.status().functions if f.state != "READY"]
        began_s = time.monotonic()
        self._node.kill_daemon()
        blow()
        self._node.start()
        for name in lost:
            self._ledger.function_was_lost(name, began_s, time.monotonic())

    def _kill_frontend(self) -> None:
        self._without_frontend(kill_and_wait)

    def _kill_daemon_and_frontend(self) -> None:
        self._without_frontend(lambda pid: self._without_daemon(lambda: kill_and_wait(pid)))

    def _without_frontend(self, blow: Callable[[int], None]) -> None:
        (pid,) = self._node.frontend_pids()
        began_s = time.monotonic()
        blow(pid)
        self._node.wait_status(
            lambda s: [f.state for f in s.frontends if f.pid != pid] == ["SERVING"]
        )
        self._ledger.frontend_was_down(began_s, time.monotonic() + RECONNECT_S)

    # ---- functions -----------------------------------------------------------------------------

    def _reload(self) -> None:
        self._load(self._chance.choice(list(ALWAYS)))

    def _reload_and_kill(self) -> None:
        """A worker that serves dies while its successor is loaded."""
        for name in self._mortal(SINGLE)[:1]:
            pids = self._node.worker_pids(name)
            load = in_background(partial(self._load, name))
            for pid in pids[:1]:
                self._kill(name, pid)
            load.result(WAIT_S)

    def _load(self, name: str) -> None:
        self._whom += f"{name} "
        with self._node.control() as control:
            assert [stage.name for stage in control.load(name)][-1] == "done"

    def _load_or_unload(self) -> None:
        with self._node.control() as control:
            if self._extra_loaded:
                list(control.unload("extra"))
            else:
                list(control.load("extra", EXTRA))
        self._extra_loaded = not self._extra_loaded
