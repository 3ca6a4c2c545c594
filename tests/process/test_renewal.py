"""`gslice upgrade --workers`: every process runs the new code, and no request is lost.

An upgrade here runs the same code again; to the processes it does what other code would do.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from gslice.core.errors import Unavailable
from tests import models
from tests.cli import gslice
from tests.fakes.gpu import FakeGpu
from tests.node import WAIT_S, Node, in_background, kill_and_wait
from tests.process.gpu import MPS, events, on_gpu
from tests.process.open_loop import OpenLoop
from tests.process.traffic import Traffic

AGE = {"connection_age": "500ms"}


def upgrade(node: Node) -> list[Any]:
    with node.control() as control:
        return list(control.upgrade(workers=True))


def names(stages: list[Any]) -> list[str]:
    return [stage.name for stage in stages]


def pids(node: Node) -> set[int]:
    return {worker.pid for f in node.status().functions for worker in f.workers}


def shares(node: Node) -> dict[str, tuple[float, float, int]]:
    found = node.status().functions
    return {
        f.name: (f.share_granted_percent, f.share_effective_percent, len(f.workers)) for f in found
    }


class Slow(NamedTuple):
    """A node with a function `f`; while the marker is there, its setup waits at the gate."""

    node: Node
    marker: Path
    pids: list[int]


@pytest.fixture
def slow(start_node, gate, tmp_path: Path, zoo) -> Slow:
    """It serves, and another worker of it would wait."""
    marker = tmp_path / "slow"
    body = zoo("SlowSetup", args={"gate": str(gate.path), "marker": str(marker)}, share="40%")
    node = start_node({"f": body}, node=AGE)
    marker.touch()
    return Slow(node, marker, node.worker_pids("f"))


@pytest.mark.parametrize(
    "limiter",
    [
        "auto",
        pytest.param("threads", marks=pytest.mark.soak),
        pytest.param("none", marks=pytest.mark.soak),
    ],
)
def test_every_worker_is_replaced_under_load(
    start_node, zoo, identity, tmp_path, limiter: str
) -> None:
    model = {"model": str(models.identity(tmp_path, "INT64", ("N", 1))), "share": "50%"}
    echo = zoo("Echo", instances=2, share="20%", residency="pinned")
    rests = {**identity, "residency": "cold", "idle_after": "100ms", "share": "10%"}
    devices = {"cpu": {"limiter": limiter}}
    node = start_node({"echo": echo, "model": model, "rests": rests}, node=AGE, devices=devices)
    node.wait_function("rests", lambda f: f.state == "COLD" and not f.workers)
    before, had = pids(node), shares(node)
    with (
        Traffic(node, "echo", clients=3) as one,
        OpenLoop(node.grpc_address, "model", channels=2, rate_per_s=60, output="y") as two,
    ):
        one.wait_answers(20)
        stages = upgrade(node)
        one.wait_answers(20)
        two.wait_answers(20)
    assert names(stages) == ["check", "handover", "adopt", "frontend", *3 * ["worker"], "done"]
    one.assert_each_answered_once()
    two.assert_each_answered_once()
    assert shares(node) == had
    assert not before & pids(node)
    assert [f.state for f in node.status().functions] == ["READY", "READY", "COLD"]


def test_workers_of_a_gpu_under_mps(start_gpu_node, gpu: FakeGpu) -> None:
    functions = {"one": on_gpu(share="40%", instances=2), "two": on_gpu(share="30%")}
    node = start_gpu_node(functions, devices=MPS, node=AGE)
    before, had = pids(node), shares(node)
    with Traffic(node, "one", clients=3) as one, Traffic(node, "two", clients=2) as two:
        one.wait_answers(20)
        stages = upgrade(node)
        one.wait_answers(20)
        two.wait_answers(20)
    assert names(stages)[-4:] == [*3 * ["worker"], "done"], stages
    one.assert_each_answered_once()
    two.assert_each_answered_once()
    assert shares(node) == had
    assert not before & pids(node)
    assert {f.limiter for f in node.status().functions} == {"mps"}


def test_a_kept_version_does_not_bring_the_old_code_back(start_node, zoo) -> None:
    def tagged(tag: int) -> dict[str, Any]:
        return zoo("Tagged", args={"tag": tag}, versions={"keep": 2})

    node = start_node({"f": tagged(1)}, node=AGE)
    with node.control() as control:
        list(control.load("f", json.dumps(tagged(2))))
        assert [kept.version for kept in node.function("f").kept] == ["1"]
        assert names(upgrade(node))[-2:] == ["worker", "done"]
    assert list(node.function("f").kept) == []
    assert "version 1 is not kept warm any more: it has the old code" in events(node)
    with node.control() as control:
        assert "load" in names(list(control.rollback("f")))


# ---- what goes wrong ----------------------------------------------------------------------------


def test_a_worker_whose_shadow_fails_serves_on(start_node, zoo, tmp_path) -> None:
    marker = tmp_path / "broken"
    broken = zoo("Breakable", args={"marker": str(marker)})
    node = start_node({"broken": broken, "echo": zoo("Echo")}, node=AGE)
    (old,), (other,) = node.worker_pids("broken"), node.worker_pids("echo")
    where = ("--state-dir", str(node.state_dir), "--workers")
    marker.touch()
    with Traffic(node, "broken", clients=3) as traffic:
        said = gslice("upgrade", *where, status=1)
        traffic.wait_answers(20)
    traffic.assert_each_answered_once()
    assert "the daemon is new; a worker of broken is not: " in said.stderr
    assert "it is broken" in said.stderr
    assert node.worker_pids("broken") == [old]
    assert node.worker_pids("echo") != [other]
    marker.unlink()
    passed = json.loads(gslice("upgrade", *where, "--json").stdout)
    assert [stage["name"] for stage in passed] == [
        "check",
        "handover",
        "adopt",
        "frontend",
        *2 * ["worker"],
        "done",
    ]
    assert node.worker_pids("broken") != [old]


def test_what_is_ordered_meanwhile_comes_first(slow: Slow, gate) -> None:
    """The shadow is dropped, the share changes at once, and the renewal goes on."""
    node = slow.node
    with Traffic(node, "f", clients=2) as traffic:
        upgrading = in_background(lambda: upgrade(node))
        with gate.held(), node.control() as control:
            slow.marker.unlink()
            assert names(list(control.resize("f", "60%")))[-1] == "done"
        stages = upgrading.result(WAIT_S)
        traffic.wait_answers(20)
    traffic.assert_each_answered_once()
    assert names(stages)[4:] == ["worker", "worker", "done"]
    assert node.worker_pids("f") != slow.pids
    assert shares(node)["f"][0] == 60


def test_a_function_that_is_unloaded_meanwhile_is_left_alone(slow: Slow, gate) -> None:
    node = slow.node
    upgrading = in_background(lambda: upgrade(node))
    with gate.held(), node.control() as control:
        assert names(list(control.unload("f")))[-1] == "done"
    assert names(upgrading.result(WAIT_S))[-1] == "done"
    assert list(node.status().functions) == []


def test_a_worker_that_dies_while_its_shadow_loads(slow: Slow, gate) -> None:
    node, (old,) = slow.node, slow.pids
    with Traffic(node, "f", clients=2) as traffic:
        upgrading = in_background(lambda: upgrade(node))
        with gate.held():
            slow.marker.unlink()
            kill_and_wait(old)
        assert names(upgrading.result(WAIT_S))[-1] == "done"
        traffic.wait_answers(20)
    traffic.assert_each_answered_once()
    found = node.wait_function("f", lambda f: len(f.workers) == 1)
    assert found.workers[0].pid != old


def test_a_daemon_that_dies_in_the_middle_leaves_what_served(slow: Slow, gate) -> None:
    node = slow.node
    with Traffic(node, "f", clients=2) as traffic:
        upgrading = in_background(lambda: upgrade(node))
        with gate.held():
            node.kill_daemon()
        with pytest.raises(Unavailable, match="ended over its upgrade"):
            upgrading.result(WAIT_S)
        slow.marker.unlink()
        node.start()
        assert node.worker_pids("f") == slow.pids
        traffic.wait_answers(20)
        assert names(upgrade(node))[-2:] == ["worker", "done"]
    traffic.assert_each_answered_once()
    assert node.worker_pids("f") != slow.pids


def test_who_ordered_it_may_leave(slow: Slow, gate) -> None:
    with slow.node.control() as control:
        stages = control.upgrade(workers=True)
        while next(stages).name != "worker":
            pass
        stages.close()
    gate.open()
    slow.node.wait_function(
        "f", lambda f: len(f.workers) == 1 and f.workers[0].pid not in slow.pids
    )


def test_a_stop_in_the_middle_ends_everything(slow: Slow, gate) -> None:
    node = slow.node
    upgrading = in_background(lambda: upgrade(node))
    with gate.held():
        node.signal_daemon(signal.SIGTERM)
        assert node.wait_exit() == 0, node.output()
    assert "not all that it runs is new" in upgrading.result(WAIT_S)[-1].detail
