"""A worker that the kernel kills for want of memory, in a memory control group of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gslice.core.errors import Internal
from gslice.core.events import EventKind
from gslice.device.cgroup import own_group
from tests.node import kill_and_wait
from tests.process.gpu import numbers
from tests.process.traffic import Traffic

LIMIT_BYTES = 96 << 20
LIMITS = {1: ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"), 2: ("memory.max",)}


@pytest.fixture
def small_group() -> Iterator[Path]:
    """A memory control group that holds little, and does not swap."""
    reasons = []
    for version, files in LIMITS.items():
        parent, reason = own_group(Path("/proc/self"), version, "memory")
        if parent is None:
            reasons.append(f"v{version}: {reason}")
            continue
        group = parent / f"test-oom-{os.getpid()}"
        try:
            group.mkdir()
        except OSError as error:
            reasons.append(f"v{version}: {group}: {error.strerror}")
            continue
        try:
            if not (group / files[0]).exists():
                reasons.append(f"v{version}: {parent} gives its groups no memory controller")
                continue
            for name in files:
                if (group / name).exists():
                    (group / name).write_text(str(LIMIT_BYTES))
            if version == 2:
                (group / "memory.swap.max").write_text("0")
            yield group
            return
        finally:
            group.rmdir()
    pytest.skip(f"no memory control group can be made here: {'; '.join(reasons)}")


def ready(function: Any) -> list[int]:
    return [worker.pid for worker in function.workers if worker.state == "READY"]


def test_it_is_told_and_nobody_else_notices(small_group: Path, start_node, zoo) -> None:
    """The request that takes too much is convicted when it dies alone; all others are answered."""
    args = {"group": str(small_group), "bytes_too_many": 4 * LIMIT_BYTES}
    node = start_node({"hungry": zoo("Hungry", args=args), "echo": zoo("Echo")})
    (other,) = node.worker_pids("echo")
    with (
        Traffic(node, "hungry", clients=4) as same,
        Traffic(node, "echo", clients=2) as others,
    ):
        same.wait_answers(50)
        with pytest.raises(Internal, match="two workers died while they ran this request"):
            node.client().infer("hungry", numbers(-1))
        same.wait_answers(50)
        others.wait_answers(50)
    same.assert_each_answered_once()
    others.assert_each_answered_once()
    assert node.worker_pids("echo") == [other]
    (pid,) = node.worker_pids("hungry")
    kill_and_wait(pid)  # not the kernel's doing, and not said to be
    node.wait_function("hungry", lambda f: f.state == "READY" and ready(f) not in ([], [pid]))
    with node.control() as control:
        crashes = [e.text for e in control.events(100, subject="hungry", kinds=[EventKind.CRASH])]
    assert len(crashes) == 3
    reason = f"killed by SIGKILL: the kernel found no memory for it in {small_group}"
    assert [text.endswith(reason) for text in crashes] == [True, True, False]
