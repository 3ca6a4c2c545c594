"""Faults of the driver, late copies, a server in FAULT, under load: each request has one answer.

Stand-ins make them happen on purpose; tests/soak has the long drill.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from gslice.core.errors import Unavailable
from tests.fakes.gpu import FakeGpu, wait_until
from tests.node import WAIT_S, in_background, kill_and_wait, wait_all_free, wait_pidfd
from tests.process.gpu import MPS, events, meet, numbers, on_gpu
from tests.process.traffic import Traffic

THIRD = {"share": "30%"}
ILLEGAL_ADDRESS, LAUNCH_FAILED = 700, 719


@pytest.mark.parametrize(
    ("on", "code"),
    [("h2d", ILLEGAL_ADDRESS), pytest.param("d2h", LAUNCH_FAILED, marks=pytest.mark.soak)],
)
def test_an_operation_that_faults(start_gpu_node, gpu: FakeGpu, on: str, code: int) -> None:
    """Whoever it meets, both functions lose their contexts, come back, and answer everything."""
    node = start_gpu_node({"a": on_gpu(**THIRD), "b": on_gpu(**THIRD)}, devices=MPS)
    before = {*node.worker_pids("a"), *node.worker_pids("b")}
    with Traffic(node, "a", clients=3) as one, Traffic(node, "b", clients=3) as two:
        one.wait_answers(20)
        gpu.fail(on, code, total=1)
        node.wait_status(
            lambda s: (
                not before & {w.pid for f in s.functions for w in f.workers}
                and all(f.state == "READY" and len(f.workers) == 1 for f in s.functions)
            )
        )
        one.wait_answers(20)
        two.wait_answers(20)
    one.assert_each_answered_once()
    two.assert_each_answered_once()
    assert "a fatal fault reached every function on it (a, b)" in events(node)


def test_a_copy_that_lands_after_its_worker_was_killed(
    start_node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it lands is out of use until MPS says that the dead worker's work is over."""
    with FakeGpu() as fake:
        meet(fake, monkeypatch)
        node = start_node({"f": on_gpu(share="50%", instances=2)}, devices=MPS)
        segment = node.segment("f")
        with Traffic(node, "f", clients=4) as traffic:
            traffic.wait_answers(20)
            with fake.orphan("d2h", total=1) as late:
                late.wait_reached()
                fake.set_mps(deaf=1)
                (dead,) = late.reached_by()
                kill_and_wait(dead)
                traffic.wait_answers(100)  # the other one runs what the dead one had, and goes on
            wait_until(lambda: fake.total("orphans.landed") == 1, "the late copy")
            traffic.wait_answers(100)
        traffic.assert_each_answered_once()
        counts = segment.counts()
        assert counts["free"] < sum(counts.values())
        fake.set_mps()
        wait_all_free(segment)
        node.wait_function("f", lambda f: sum(w.state == "READY" for w in f.workers) == 2)
        node.stop()
        assert fake.violations() == []


def test_a_fault_while_a_shadow_is_prepared(
    start_gpu_node, gpu: FakeGpu, gate, tmp_path: Path
) -> None:
    """The shadow goes with all others; the share stays as it was, and everything is answered."""
    marker = tmp_path / "slow"
    slow = on_gpu("SlowSetup", args={"gate": str(gate.path), "marker": str(marker)}, share="25%")
    bad = on_gpu("Faults", args={"marker": str(tmp_path / "faulted")}, share="25%")
    node = start_gpu_node({"f": slow, "bad": bad}, devices=MPS)
    (before,) = node.worker_pids("f")
    marker.touch()

    def resize() -> list[Any]:
        with node.control() as control:
            return list(control.resize("f", "50%"))

    with Traffic(node, "f", clients=3) as traffic:
        traffic.wait_answers(20)
        resizing = in_background(resize)
        with gate.held():
            marker.unlink()
            assert node.client().infer("bad", numbers(-1))["y"].tolist() == [[-1]]
            assert resizing.result(WAIT_S)[-1].name == "failed"
        traffic.wait_answers(20)
    traffic.assert_each_answered_once()
    found = node.wait_function("f", lambda f: f.state == "READY" and len(f.workers) == 1)
    assert (found.workers[0].pid != before, found.share_granted_percent) == (True, 25)


def test_a_fault_while_no_daemon_runs(start_gpu_node, gpu: FakeGpu, tmp_path: Path) -> None:
    """Nobody can run again what waited then: it is told so, and the next daemon starts others."""
    bad = on_gpu("Faults", args={"marker": str(tmp_path / "faulted")}, **THIRD)
    node = start_gpu_node({"bad": bad, "good": on_gpu(**THIRD)}, devices=MPS)
    pidfds = [os.pidfd_open(node.worker_pids(name)[0]) for name in ("bad", "good")]
    client = node.client()
    with Traffic(node, "good", clients=3) as traffic:
        traffic.wait_answers(20)
        node.kill_daemon()
        call = in_background(lambda: client.infer("bad", numbers(-1)))
        assert all(wait_pidfd(pidfd, WAIT_S) for pidfd in pidfds)
        node.start()
        traffic.wait_answers(20)
    for pidfd in pidfds:
        os.close(pidfd)
    assert isinstance(call.exception(WAIT_S), Unavailable)
    assert {type(error) for error in traffic.errors} <= {Unavailable}
    assert traffic.answers.total() + len(traffic.errors) == traffic.sent
    assert set(traffic.answers.values()) == {1}
    assert node.client().infer("bad", numbers(-1))["y"].tolist() == [[-1]]
