"""A node with GPUs, of stand-ins: shares, their change, adoption, and what is said of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.gpu import GIB, FakeGpu
from tests.node import WAIT_S, in_background, kill_and_wait
from tests.process.gpu import MPS, events, load, mps_pid, numbers, on_gpu
from tests.process.traffic import Traffic

# ---- shares --------------------------------------------------------------------------------------


def test_functions_share_a_gpu_through_mps(start_gpu_node, gpu: FakeGpu, identity) -> None:
    node = start_gpu_node(
        {
            "half": {**identity, "device": "cuda:0", "share": "50%"},
            "quarter": on_gpu(share="25%"),
        },
        devices=MPS,
    )
    for name, sms in (("half", 66), ("quarter", 32)):
        answer = node.client().infer(name, numbers(1, 2, 3))
        assert next(iter(answer.values())).ravel().tolist() == [1, 2, 3]
        found = node.function(name)
        assert found.limiter == "mps"
        assert found.share_effective_percent == pytest.approx(100 * sms / 132)
        (pid,) = node.worker_pids(name)
        assert gpu.counters(pid)[f"sms.{gpu.gpus[0].uuid}"] == sms


def test_without_a_limiter_everybody_has_the_whole_gpu(start_gpu_node, gpu: FakeGpu) -> None:
    node = start_gpu_node({"f": on_gpu(share="25%")}, devices={"cuda:0": {"limiter": "none"}})
    found = node.function("f")
    assert (found.limiter, found.share_effective_percent) == ("none", 100)
    assert node.client().infer("f", numbers(4))["y"].tolist() == [[4]]
    assert not (node.state_dir / "mps/0/control.pid").exists()
    (pid,) = node.worker_pids("f")
    assert load(node, "f", on_gpu(share="50%")) == ["plan", "done"]
    assert node.worker_pids("f") == [pid]


def test_without_a_limiter_an_mps_in_the_default_directory_gets_nobody(
    start_gpu_node, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "10")
    subprocess.run(["nvidia-cuda-mps-control", "-d"], check=True)
    node = start_gpu_node({"f": on_gpu()}, devices={"cuda:0": {"limiter": "none"}})
    (pid,) = node.worker_pids("f")
    assert gpu.counters(pid)[f"sms.{gpu.gpus[0].uuid}"] == 132
    assert b"CUDA_MPS_ACTIVE" not in Path(f"/proc/{pid}/environ").read_bytes()
    listed = subprocess.run(
        ["nvidia-cuda-mps-control"], input="ps\n", capture_output=True, text=True, check=True
    )
    assert str(pid) not in listed.stdout
    node.stop()
    subprocess.run(["nvidia-cuda-mps-control"], input="quit\n", text=True, check=True)


def test_auto_finds_the_gpu_beside_the_cpu(start_gpu_node, gpu: FakeGpu, identity) -> None:
    node = start_gpu_node({"f": on_gpu(), "g": identity})
    status = node.status()
    assert [device.name for device in status.devices] == ["cpu", "cuda:0"]
    assert {f.name: f.device for f in status.functions} == {"f": "cuda:0", "g": "cpu"}
    assert node.function("f").limiter == "mps"


def test_a_changed_share_is_loaded_beside_what_serves(start_gpu_node, gpu: FakeGpu) -> None:
    node = start_gpu_node({"f": on_gpu(share="25%")}, devices=MPS)
    before = node.worker_pids("f")
    with Traffic(node, "f", clients=4) as traffic:
        traffic.wait_answers(20)
        stages = load(node, "f", on_gpu(share="75%"))
        traffic.wait_answers(20)
    traffic.assert_each_answered_once()
    assert "swap" in stages
    found = node.function("f")
    assert found.share_effective_percent == pytest.approx(100 * 98 / 132)
    assert node.worker_pids("f") != before


def test_another_function_takes_a_part_of_an_auto_share(start_gpu_node, gpu: FakeGpu) -> None:
    node = start_gpu_node({"a": on_gpu()}, devices=MPS)
    assert node.function("a").share_effective_percent == 100
    with Traffic(node, "a", clients=4) as traffic:
        traffic.wait_answers(10)
        stages = load(node, "b", on_gpu(share="40%"))
        assert stages[-1] == "done", events(node)
        node.wait_function("a", lambda f: f.share_effective_percent < 61)
        traffic.wait_answers(10)
    traffic.assert_each_answered_once()
    assert node.function("a").share_effective_percent == pytest.approx(100 * 78 / 132)
    assert node.function("a").share_granted_percent == 60


def test_instances_have_equal_parts(start_gpu_node, gpu: FakeGpu) -> None:
    node = start_gpu_node({"f": on_gpu(share="50%", instances=2)}, devices=MPS)
    found = node.function("f")
    assert len(found.workers) == 2
    assert found.share_effective_percent == pytest.approx(100 * 64 / 132)


# ---- memory --------------------------------------------------------------------------------------


def test_memory_of_functions_is_measured_and_limited(start_gpu_node, gpu: FakeGpu) -> None:
    limits = {"limiter": "mps", "limits": {"memory": "4GiB"}}
    node = start_gpu_node(
        {"small": on_gpu(args={"weight_bytes": GIB}), "cpu": on_gpu("OnGpu", share="1%")},
        devices={"cuda:0": limits},
    )
    assert node.function("small").device_memory_bytes >= GIB
    stages = load(node, "large", on_gpu(args={"weight_bytes": 5 * GIB}, share="10%"))
    assert stages[-1] == "failed"
    large = node.function("large")
    assert large.state == "FAILED"
    assert "cuMemAlloc_v2 failed with 2" in large.reason
    assert node.client().infer("small", numbers(1))["y"].tolist() == [[1]]


def test_a_share_that_cannot_change_stays(start_gpu_node, gpu: FakeGpu) -> None:
    devices = {"cuda:0": {"limiter": "mps", "limits": {"memory": "5GiB"}}}
    node = start_gpu_node({"a": on_gpu(args={"weight_bytes": 3 * GIB})}, devices=devices)
    (pid,) = node.worker_pids("a")
    load(node, "b", on_gpu(share="40%"))
    node.wait_status(lambda _: "keeps its share of 100%" in events(node))
    found = node.function("a")
    assert (found.state, found.share_granted_percent) == ("READY", 60)
    assert found.share_effective_percent == 100
    assert node.worker_pids("a") == [pid]
    assert node.client().infer("a", numbers(1))["y"].tolist() == [[1]]


def test_a_load_that_fails_gives_the_gpu_back_in_order(start_gpu_node, gpu: FakeGpu) -> None:
    gpu.fail("cuMemHostAlloc", 2, total=1, process="gslice.worker")
    node = start_gpu_node({"f": on_gpu(instances=2)}, devices=MPS)
    assert node.function("f").state == "FAILED"
    workers = [gpu.counters(pid) for pid in gpu.pids()]
    workers = [counted for counted in workers if "cuMemHostAlloc" in counted]
    assert len(workers) == 2
    for counted in workers:
        assert counted["cuDevicePrimaryCtxRelease_v2"] == counted["cuDevicePrimaryCtxRetain"]


# ---- deaths, adoption, end -----------------------------------------------------------------------


def test_a_killed_worker_is_replaced(start_gpu_node, gpu: FakeGpu) -> None:
    node = start_gpu_node({"f": on_gpu(share="25%"), "g": on_gpu(share="25%")}, devices=MPS)
    (other,) = node.worker_pids("g")
    with Traffic(node, "f", clients=2) as traffic:
        traffic.wait_answers(10)
        (pid,) = node.worker_pids("f")
    kill_and_wait(pid)  # with nothing in flight: the fixture minds clients that leave work behind
    node.wait_function("f", lambda f: f.state == "READY" and len(f.workers) == 1)
    assert node.client().infer("f", numbers(7))["y"].tolist() == [[7]]
    assert node.worker_pids("g") == [other]


def test_a_hung_worker_is_taken_out_of_mps_first(start_gpu_node, gpu: FakeGpu, gate) -> None:
    body = on_gpu("GateOnGpu", args={"gate": str(gate.path)})
    node = start_gpu_node({"f": body}, devices=MPS, node={"hang_timeout": "1s"})
    before = node.worker_pids("f")
    client = node.client()
    call = in_background(lambda: client.infer("f", numbers(-5)))
    node.wait_function("f", lambda f: [w.pid for w in f.workers] not in ([], before))
    gate.open()
    assert call.result(WAIT_S)["y"].tolist() == [[-5]]
    log = (node.state_dir / "log/mps-0.log").read_text()
    assert f"Terminating client {before[0]}" in log


def test_a_hung_lane_costs_its_own_function_alone(start_gpu_node, gpu: FakeGpu) -> None:
    node = start_gpu_node(
        {"f": on_gpu(share="25%"), "g": on_gpu(share="25%")},
        devices=MPS,
        node={"hang_timeout": "1s"},
    )
    hung, other = node.worker_pids("f"), node.worker_pids("g")
    client = node.client()
    with gpu.hold("d2h", total=1):
        call = in_background(lambda: client.infer("f", numbers(-5)))
        node.wait_function("f", lambda f: [w.pid for w in f.workers] not in ([], hung))
        assert call.result(WAIT_S)["y"].tolist() == [[-5]]
    assert node.worker_pids("g") == other
    assert "reached every function" not in events(node)


def test_the_next_daemon_adopts_workers_and_mps(start_gpu_node, gpu: FakeGpu) -> None:
    node = start_gpu_node({"f": on_gpu(share="25%")}, devices=MPS)
    workers, control = node.worker_pids("f"), mps_pid(node)
    node.kill_daemon()
    node.start()
    assert node.worker_pids("f") == workers
    assert mps_pid(node) == control
    found = node.function("f")
    assert found.share_effective_percent == pytest.approx(100 * 32 / 132)
    assert node.client().infer("f", numbers(3))["y"].tolist() == [[3]]
    load(node, "f", on_gpu(share="50%"))
    assert node.function("f").share_effective_percent == 50
    assert "adopted an MPS control daemon" in events(node)


def test_workers_whose_mps_died_with_the_daemon_are_replaced(start_gpu_node, gpu: FakeGpu) -> None:
    node = start_gpu_node({"f": on_gpu(share="25%")}, devices=MPS)
    workers, control = node.worker_pids("f"), mps_pid(node)
    node.kill_daemon()
    kill_and_wait(control)
    node.start()
    node.wait_function("f", lambda f: f.state == "READY" and [w.pid for w in f.workers] != workers)
    assert node.client().infer("f", numbers(3))["y"].tolist() == [[3]]


def test_mps_that_dies_is_started_again_with_its_clients(start_gpu_node, gpu: FakeGpu) -> None:
    node = start_gpu_node({"f": on_gpu(share="25%"), "g": on_gpu(share="25%")}, devices=MPS)
    workers, control = node.worker_pids("f") + node.worker_pids("g"), mps_pid(node)
    kill_and_wait(control)
    for name in ("f", "g"):
        node.wait_function(
            name, lambda f: f.state == "READY" and not {w.pid for w in f.workers} & {*workers}
        )
        assert node.client().infer(name, numbers(3))["y"].tolist() == [[3]]
    assert mps_pid(node) != control
    assert "the end of its MPS control daemon reached every function" in events(node)


def test_the_operator_s_mps_is_used_and_left_running(
    start_gpu_node, gpu: FakeGpu, tmp_path: Path
) -> None:
    pipe = gpu.directory / "pipe"
    environment = {
        **os.environ,
        "CUDA_MPS_PIPE_DIRECTORY": str(pipe),
        "CUDA_MPS_LOG_DIRECTORY": str(tmp_path),
    }
    subprocess.run(["nvidia-cuda-mps-control", "-d"], env=environment, check=True)
    node = start_gpu_node(
        {"f": on_gpu(share="25%")}, devices={"cuda:0": {"limiter": "mps", "mps_pipe": str(pipe)}}
    )
    assert node.function("f").share_effective_percent == pytest.approx(100 * 32 / 132)
    node.stop()
    subprocess.run(
        ["nvidia-cuda-mps-control"], env=environment, input="quit\n", text=True, check=True
    )


# ---- what is said of it --------------------------------------------------------------------------


def test_status_and_metrics_show_the_gpu(start_gpu_node, gpu: FakeGpu) -> None:
    node = start_gpu_node({"f": on_gpu(args={"weight_bytes": GIB})}, devices=MPS)
    (device,) = node.status().devices
    assert (device.kind, device.limiter, device.problem) == ("cuda", "mps", "")
    assert (device.gpu.name, device.gpu.sms) == (gpu.gpus[0].name, 132)
    assert device.gpu.uuid == gpu.gpus[0].uuid
    assert (device.gpu.pcie_generation, device.gpu.pcie_width, device.gpu.numa_node) == (5, 16, 0)
    assert device.memory_bytes == gpu.gpus[0].memory_bytes
    assert device.gpu.power_w == 250
    status = node.wait_status(lambda s: s.devices[0].memory_used_bytes >= GIB)
    assert status.functions[0].device_memory_bytes >= GIB
    _, page = node.http(status.metrics_address, "/metrics")
    assert 'gslice_gpu_sms{device="cuda:0"} 132.0' in page
    assert 'gslice_gpu_power_watts{device="cuda:0"} 250.0' in page
    assert 'gslice_gpu_faults_total{device="cuda:0"} 0.0' in page
    assert 'gslice_device_memory_bytes{function="f"}' in page
    shown = subprocess.run(
        [sys.executable, "-m", "gslice", "status", "--state-dir", str(node.state_dir)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "cuda:0: NVIDIA H100 80GB HBM3, 132 SMs" in shown
