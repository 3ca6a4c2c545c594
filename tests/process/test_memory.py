"""Memory of functions: measured step by step, kept, shown, and refused with the arithmetic."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest

from gslice.core.errors import ResourceExhausted
from tests import models
from tests.fakes.gpu import GIB, FakeGpu
from tests.node import Node
from tests.process.gpu import events, numbers, on_gpu

PARTS = r"process [\d.]+ MiB( \+ model [\d.]+ [KM]iB)?( \+ workspace [\d.]+ [KM]iB)?"


def restart_limited(node: Node, functions: dict[str, Any], memory: str) -> None:
    """The same node again, with a limit on its CPU device's memory."""
    node.stop()
    settings = {"grpc": "127.0.0.1:0", "http": "127.0.0.1:0", "metrics": "127.0.0.1:0"}
    devices = {"cpu": {"limits": {"memory": memory}}}
    node.write_config(functions, {**settings, "state_dir": "./state"}, devices)
    node.start()


def test_a_function_s_memory_is_shown_by_what_took_it(start_node, tmp_path) -> None:
    node = start_node({"f": {"model": str(models.affine(tmp_path))}})
    found = node.function("f")
    assert found.memory.process_bytes > 10 << 20
    assert found.memory.pinned_bytes == found.segment_bytes
    assert found.memory.weights_bytes == found.memory.shadow_peak_bytes == 0
    _, page = node.http(node.status().metrics_address, "/metrics")
    series = 'gslice_memory_bytes{device="host",function="f",part="process"} '
    (size,) = (line.removeprefix(series) for line in page.splitlines() if line.startswith(series))
    assert float(size) == found.memory.process_bytes
    shown = subprocess.run(
        [sys.executable, "-m", "gslice", "status", "--state-dir", str(node.state_dir)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert re.search(
        r"RESIDENCY +RESIDENT +PROCESS +MODEL +WORKSPACE +PINNED +SHADOW +KEPT\n", shown
    )


def test_a_load_that_cannot_fit_is_refused_before_it_starts(start_node, identity) -> None:
    node = start_node({"f": identity})
    restart_limited(node, {"f": identity}, "1MiB")
    found = node.function("f")
    assert found.state == "FAILED"
    expected = rf"needs [\d.]+ MiB \({PARTS}\); cpu has 1\.0 MiB free of its limit of 1\.0 MiB"
    assert re.search(expected, found.reason), found.reason
    with node.control() as control:
        (*_, last) = control.load("f")
        assert (last.name, "cpu has 1.0 MiB free" in last.detail) == ("failed", True)
    assert events(node).count("worker") == 0


def test_a_load_beside_what_serves_counts_both(start_node, identity) -> None:
    node = start_node({"f": identity})
    taken = node.function("f").memory
    mib = (taken.process_bytes + taken.model_bytes + taken.workspace_bytes) * 3 // 2 >> 20
    restart_limited(node, {"f": identity}, f"{mib}MiB")
    (pid,) = node.worker_pids("f")
    with node.control() as control:
        stages = list(control.load("f"))
    assert [stage.name for stage in stages] == ["plan", "failed"]
    assert ", beside what serves; cpu has" in stages[-1].detail
    assert node.worker_pids("f") == [pid]
    assert node.client().infer("f", numbers(1))["x"].tolist() == [[1]]


# ---- a GPU ---------------------------------------------------------------------------------------


@pytest.fixture
def limited() -> dict[str, Any]:
    return {"cuda:0": {"limiter": "mps", "limits": {"memory": "5GiB"}}}


def test_a_shadow_that_cannot_fit_is_refused_before_it_starts(
    start_gpu_node, gpu: FakeGpu, limited
) -> None:
    body = on_gpu(args={"weight_bytes": 3 * GIB}, share="25%")
    node = start_gpu_node({"f": body}, devices=limited)
    before = node.worker_pids("f")
    expected = (
        r"function f: needs 3\.\d GiB \(.*weights 3\.0 GiB.*\), shadow beside the primary; "
        r"cuda:0 has [\d.]+ GiB free of its limit of 5\.0 GiB"
    )
    for options in ({"dry_run": True}, {}):
        with node.control() as control, pytest.raises(ResourceExhausted, match=expected):
            list(control.resize("f", "75%", **options))
    assert node.worker_pids("f") == before
    assert node.function("f").share_granted_percent == 25


def test_a_resize_tells_what_its_shadow_takes(start_gpu_node, gpu: FakeGpu, limited) -> None:
    node = start_gpu_node({"f": on_gpu(args={"weight_bytes": GIB}, share="25%")}, devices=limited)
    assert node.function("f").memory.weights_bytes >= GIB
    with node.control() as control:
        (plan,) = control.resize("f", "75%", dry_run=True)
        *_, done = control.resize("f", "75%")
    assert re.match(r"shadow: f 25% -> 75%; the shadow needs 1\.\d GiB \(", plan.detail)
    assert done.resized.extra_device_memory_bytes >= GIB
    memory = node.function("f").memory
    assert memory.device_shadow_peak_bytes == done.resized.extra_device_memory_bytes
    assert memory.shadow_peak_bytes == done.resized.extra_memory_bytes
    _, page = node.http(node.status().metrics_address, "/metrics")
    assert 'gslice_memory_bytes{device="cuda:0",function="f",part="weights"}' in page


def test_memory_of_the_gpu_that_others_hold_is_not_there(start_gpu_node, gpu: FakeGpu) -> None:
    gib = gpu.gpus[0].memory_bytes // GIB
    node = start_gpu_node(
        {"f": on_gpu(args={"weight_bytes": (gib // 2 + 2) * GIB}, share="25%")},
        devices={"cuda:0": {"limiter": "mps"}},
    )
    with (
        node.control() as control,
        pytest.raises(ResourceExhausted, match=r"; cuda:0 has [\d.]+ GiB free \("),
    ):
        list(control.resize("f", "75%"))


def test_an_adopting_daemon_knows_what_workers_took(start_gpu_node, gpu: FakeGpu, limited) -> None:
    node = start_gpu_node({"f": on_gpu(args={"weight_bytes": GIB})}, devices=limited)
    before = node.function("f").memory
    node.kill_daemon()
    node.start()
    assert node.function("f").memory == before
