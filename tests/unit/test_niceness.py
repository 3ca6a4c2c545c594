"""Niceness of processes and threads that prepare something."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator

import pytest

from gslice.device import niceness
from gslice.device.niceness import GENTLE, lower, lower_child, may_raise, restore, restore_child

OWN = os.getpriority(os.PRIO_PROCESS, 0)


def of(pid: int) -> int:
    return os.getpriority(os.PRIO_PROCESS, pid)


@pytest.fixture
def child() -> Iterator[int]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process.pid
        process.kill()


def test_what_is_lowered_can_be_restored(child: int) -> None:
    lower_child(child)
    assert of(child) == (GENTLE if may_raise() else OWN)
    restore_child(child)
    assert of(child) == OWN
    assert of(0) == OWN


def test_what_could_not_be_restored_is_left(child: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(niceness, "may_raise", lambda: False)
    lower_child(child)
    assert of(child) == OWN
    restore_child(child)
    assert of(child) == OWN


def test_only_a_trial_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def refuse_to_raise(which: int, who: int, value: int) -> None:
        asked.append(value)
        if value == OWN:
            raise PermissionError

    monkeypatch.setattr(os, "setpriority", refuse_to_raise)
    assert not may_raise.__wrapped__()
    assert asked == [OWN + 1, OWN]


def test_a_dead_process_has_no_priority_to_restore_child() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
        restore_child(process.pid)


def test_a_thread_gives_way_and_comes_back_with_those_it_started() -> None:
    seen: list[int] = []

    def work() -> None:
        before = lower()
        inner = threading.Thread(target=lambda: seen.append(of(0)))
        inner.start()
        inner.join()
        restore(before)
        seen.append(of(0))

    outer = threading.Thread(target=work)
    outer.start()
    outer.join()
    assert seen == [GENTLE if may_raise() else OWN, OWN]
