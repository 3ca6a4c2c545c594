"""CPU priorities of processes that prepare something."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from gslice.supervise import priority
from gslice.supervise.priority import lower, may_raise, restore

OWN = os.getpriority(os.PRIO_PROCESS, 0)


def niceness(pid: int) -> int:
    return os.getpriority(os.PRIO_PROCESS, pid)


@pytest.fixture
def child() -> Iterator[int]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process.pid
        process.kill()


def test_what_is_lowered_can_be_restored(child: int) -> None:
    lower(child)
    assert niceness(child) == (min(19, OWN + 10) if may_raise() else OWN)
    restore(child)
    assert niceness(child) == OWN
    assert niceness(0) == OWN


def test_what_could_not_be_restored_is_left(child: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(priority, "may_raise", lambda: False)
    lower(child)
    assert niceness(child) == OWN
    restore(child)
    assert niceness(child) == OWN


def test_only_a_trial_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def refuse_to_raise(which: int, who: int, value: int) -> None:
        asked.append(value)
        if value == OWN:
            raise PermissionError

    monkeypatch.setattr(os, "setpriority", refuse_to_raise)
    assert not may_raise.__wrapped__()
    assert asked == [OWN + 1, OWN]


def test_a_dead_process_has_no_priority_to_restore() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
        restore(process.pid)
