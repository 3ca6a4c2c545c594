"""Weights once on a GPU of stand-ins: for all instances, shadows, replacements, daemons to come."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.fakes.gpu import FakeGpu
from tests.node import Node, kill_and_wait
from tests.process.gpu import MPS, events, load, numbers, on_gpu

MIB = 1 << 20
COUNT = 4 * MIB  # numbers of 8 bytes
BLOCK_BYTES = 8 * COUNT
NOT_SUPPORTED = 801


def weighted(**settings: Any) -> dict[str, Any]:
    return on_gpu("Weighted", args={"factor": 3, "count": COUNT}, **settings)


def triples(node: Node, name: str = "f") -> bool:
    answer = node.client().infer(name, numbers(1, 2, 5))
    return answer["y"].ravel().tolist() == [3, 6, 15]


def maker(gpu: FakeGpu, node: Node) -> int:
    (pid,) = (p for p in node.worker_pids("f") if gpu.counters(p).get("created"))
    return pid


def replace(node: Node, pid: int) -> None:
    """Kills a worker; another has taken its place."""
    instances = len(node.worker_pids("f"))
    kill_and_wait(pid)
    node.wait_function(
        "f",
        lambda f: (
            f.state == "READY"
            and [w.state for w in f.workers] == ["READY"] * instances
            and pid not in [w.pid for w in f.workers]
        ),
    )


def test_instances_share_and_outlive_who_made_them(start_gpu_node, gpu: FakeGpu) -> None:
    node = start_gpu_node({"f": weighted(instances=2)}, devices=MPS)
    found = node.function("f")
    assert found.memory.shared_weights_bytes == BLOCK_BYTES
    assert found.memory.weights_bytes == 0
    assert BLOCK_BYTES < found.device_memory_bytes < 1.5 * BLOCK_BYTES
    assert gpu.shared_bytes() == BLOCK_BYTES
    _, page = node.http(node.status().metrics_address, "/metrics")
    for metric in (
        'gslice_memory_bytes{device="cuda:0",function="f",part="shared_weights"} ',
        'gslice_gpu_weights_saved_bytes{device="cuda:0"} ',
    ):
        values = [line for line in page.splitlines() if line.startswith(metric)]
        assert [float(line.removeprefix(metric)) for line in values] == [BLOCK_BYTES]
    assert node.status().devices[0].gpu.weights_saved_bytes == BLOCK_BYTES
    assert triples(node)
    replace(node, maker(gpu, node))
    assert triples(node)
    for pid in node.worker_pids("f"):
        replace(node, pid)  # by now nobody lives who ever mapped the first one's memory
    assert triples(node)
    assert (gpu.total("created"), gpu.total("imported")) == (1, 4)
    assert node.function("f").memory.shared_weights_bytes == BLOCK_BYTES
    with node.control() as control:
        list(control.unload("f"))
    assert gpu.shared_bytes() == 0


def test_a_shadow_needs_no_room_for_weights(start_gpu_node, gpu: FakeGpu) -> None:
    limit = f"{BLOCK_BYTES * 3 // 2 // MIB}MiB"
    devices = {"cuda:0": {"limiter": "mps", "limits": {"memory": limit}}}
    node = start_gpu_node({"f": weighted(share="25%")}, devices=devices)
    with node.control() as control:
        (plan,) = control.resize("f", "75%", dry_run=True)
        *_, done = control.resize("f", "75%")
    assert "weights" not in plan.detail
    assert done.name == "done", done.detail
    assert done.resized.extra_device_memory_bytes < BLOCK_BYTES // 2
    assert triples(node)
    assert (gpu.total("created"), gpu.total("imported")) == (1, 1)


def test_a_function_that_is_loaded_anew_takes_them_over(start_gpu_node, gpu: FakeGpu) -> None:
    node = start_gpu_node({"f": weighted(), "g": weighted()}, devices=MPS)
    assert load(node, "f", weighted(batch={"max": 8}))[-1] == "done"
    assert triples(node)
    assert triples(node, "g")
    assert (gpu.total("created"), gpu.total("imported")) == (1, 2)
    other = on_gpu("Weighted", args={"factor": 4, "count": COUNT})
    with node.control() as control:
        *_, last = control.load("f", json.dumps(other))
    assert last.name == "done", last.detail
    assert node.client().infer("f", numbers(1))["y"].item() == 4
    assert gpu.shared_bytes() == 2 * BLOCK_BYTES
    assert node.function("g").memory.shared_weights_bytes == BLOCK_BYTES


def test_an_adopting_daemon_has_them_for_others(start_gpu_node, gpu: FakeGpu) -> None:
    node = start_gpu_node({"f": weighted()}, devices=MPS)
    (pid,) = node.worker_pids("f")
    node.kill_daemon()
    node.start()
    assert node.worker_pids("f") == [pid]
    assert node.function("f").memory.shared_weights_bytes == BLOCK_BYTES
    replace(node, pid)
    assert triples(node)
    assert (gpu.total("created"), gpu.total("imported")) == (1, 1)


def test_a_daemon_that_shares_nothing_any_more_holds_nothing(start_gpu_node, gpu: FakeGpu) -> None:
    node = start_gpu_node({"f": weighted()}, devices=MPS)
    (pid,) = node.worker_pids("f")
    node.kill_daemon()
    settings = dict.fromkeys(("grpc", "http", "metrics"), "127.0.0.1:0")
    devices = {"cuda:0": {"limiter": "mps", "share_weights": False}}
    node.write_config({"f": weighted()}, {**settings, "state_dir": "./state"}, devices)
    node.start()
    assert node.worker_pids("f") == [pid]
    assert gpu.shared_bytes() == BLOCK_BYTES  # the worker's
    replace(node, pid)
    assert gpu.shared_bytes() == 0
    assert triples(node)


def test_after_a_fault_they_are_made_anew(start_gpu_node, gpu: FakeGpu, tmp_path: Path) -> None:
    args = {"factor": 3, "marker": str(tmp_path / "faulted")}
    node = start_gpu_node({"f": on_gpu("Faults", args=args), "g": weighted()}, devices=MPS)
    before = node.worker_pids("g")
    assert node.client().infer("f", numbers(-1))["y"].item() == -3  # it ran again
    node.wait_function("g", lambda g: g.state == "READY" and [w.pid for w in g.workers] != before)
    assert triples(node, "f")
    assert triples(node, "g")
    assert gpu.total("created") >= 4  # both of both


def test_what_the_driver_refuses_is_said_and_copied(start_gpu_node, gpu: FakeGpu) -> None:
    gpu.fail("cuMemImportFromShareableHandle", NOT_SUPPORTED)
    node = start_gpu_node({"f": weighted(instances=2)}, devices=MPS)
    assert triples(node)
    found = node.function("f").memory
    assert (found.shared_weights_bytes, found.weights_bytes >= BLOCK_BYTES) == (BLOCK_BYTES, True)
    said = [line for line in events(node).splitlines() if "its own copy of the weights" in line]
    assert len(said) == 1
    assert "cuMemImportFromShareableHandle: CUDA_ERROR_NOT_SUPPORTED" in said[0]


def test_where_nothing_is_to_be_shared_each_has_its_own(start_gpu_node, gpu: FakeGpu) -> None:
    devices = {"cuda:0": {"limiter": "none", "share_weights": False}}
    node = start_gpu_node({"f": weighted(instances=2)}, devices=devices)
    found = node.function("f").memory
    assert found.shared_weights_bytes == 0
    assert 2 * BLOCK_BYTES <= found.weights_bytes < 3 * BLOCK_BYTES
    assert gpu.total("created") == 0
    assert "its own copy of the weights" not in events(node)
    assert triples(node)


def test_a_function_that_rests_gives_them_back(start_gpu_node, gpu: FakeGpu) -> None:
    node = start_gpu_node({"f": weighted(residency="cold", idle_after="1s")}, devices=MPS)
    assert triples(node)
    node.wait_function("f", lambda f: f.state == "COLD" and not f.workers)
    assert gpu.shared_bytes() == 0
    assert triples(node)
    assert gpu.total("created") == 2
