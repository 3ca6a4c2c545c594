"""Functions that are loaded when a request comes, and unloaded when none does, or for others."""

from __future__ import annotations

import contextlib
import itertools
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from gslice.client import Client
from gslice.core.errors import GsliceError, Unavailable
from gslice.protos import message
from gslice.protos.rpc import Stub
from tests.fakes.gpu import GIB, FakeGpu
from tests.node import WAIT_S, Node, in_background
from tests.process.gpu import events, load, numbers, on_gpu

COLD: dict[str, Any] = {"residency": "cold", "idle_after": "100ms"}
ADDRESSES = dict.fromkeys(("grpc", "http", "metrics"), "127.0.0.1:0")


def wait_cold(node: Node, name: str) -> Any:
    """Waits until a function rests, and its workers are gone."""
    return node.wait_function(name, lambda f: f.state == "COLD" and not f.workers)


def states(node: Node) -> dict[str, str]:
    return {function.name: function.state for function in node.status().functions}


def last_used_ms(client: Client, name: str) -> int:
    (entry,) = client.statistics(name)
    return int(entry["last_inference"])


@pytest.fixture
def memory_mib(start_node, identity) -> int:
    """What an identity function takes."""
    node = start_node({"a": identity})
    taken = node.function("a").memory
    return (taken.process_bytes + taken.model_bytes + taken.workspace_bytes) >> 20


# ---- cold ----------------------------------------------------------------------------------------


def test_a_request_loads_what_rests(start_node, zoo) -> None:
    node = start_node({"f": zoo("Echo", **COLD), "warm": zoo("Echo", idle_after="100ms")})
    found = wait_cold(node, "f")
    assert found.reason == "no request for 100ms; the next one loads it"
    assert (found.residency, found.cold_starts, found.memory.process_bytes) == ("cold", 0, 0)
    assert found.segment_bytes > 0
    client = node.client()
    assert client.ready("f")
    assert {entry.name: entry.state for entry in client.index()} == {"f": "COLD", "warm": "READY"}
    assert client.infer("f", numbers(5))["y"].tolist() == [[5]]
    assert node.function("f").cold_starts == 1
    assert node.function("f").state in ("READY", "COLD")
    _, page = node.http(node.status().metrics_address, "/metrics")
    assert 'gslice_cold_starts_total{function="f"} 1.0' in page
    assert node.function("warm").state == "READY"
    assert "a request came: serves after" in events(node)


def test_what_has_no_time_is_told_when_to_come_again(start_node, zoo) -> None:
    node = start_node({"f": zoo("Echo", **{**COLD, "idle_after": "1s"})})
    wait_cold(node, "f")
    request = message("inference.ModelInferRequest")(model_name="f")
    request.inputs.add(name="x", datatype="INT64", shape=[1, 1])
    request.raw_input_contents.append(np.array([7], np.int64).tobytes())
    request.parameters["timeout"].int64_param = 1000  # us
    with grpc.insecure_channel(node.grpc_address) as channel:
        stub = Stub(channel, "inference.GRPCInferenceService")
        with pytest.raises(grpc.RpcError) as raised:
            stub.ModelInfer(request, timeout=WAIT_S)
        assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
        told = re.search(r"takes another ([\d.]+) (ms|s), longer", raised.value.details())
        assert told, raised.value.details()
        pushback = dict(raised.value.trailing_metadata())["grpc-retry-pushback-ms"]
        assert 1 <= int(pushback) < WAIT_S * 1000
        node.wait_function("f", lambda f: f.cold_starts == 1)  # it is loaded all the same
        request.parameters["timeout"].int64_param = int(WAIT_S * 1e6)
        answer = stub.ModelInfer(request, timeout=WAIT_S)
        assert np.frombuffer(answer.raw_output_contents[0], np.int64) == 7


def test_no_request_is_lost_between_loads_and_unloads(start_node, zoo) -> None:
    settings = {"hang_timeout": "2s"}  # a quarter of that later, one without work is noticed
    node = start_node({"f": zoo("Echo", **COLD)}, node=settings)
    client, stop, counter = node.client(), threading.Event(), itertools.count()
    answers: list[tuple[int, int]] = []

    together = threading.Barrier(2)

    def ask() -> None:
        """In step with the other, so that it rests; some come while it is about to."""
        pauses = itertools.cycle((0.0, 0.1, 0.9, 0.3, 1.3, 0.05))
        while not stop.wait(next(pauses)):
            number = next(counter)
            answers.append((number, int(client.infer("f", numbers(number))["y"][0, 0])))
            with contextlib.suppress(threading.BrokenBarrierError):
                together.wait(WAIT_S)

    askers = [in_background(ask) for _ in range(2)]
    node.wait_function("f", lambda f: f.cold_starts >= 3)
    stop.set()
    together.abort()
    for asker in askers:
        asker.result(WAIT_S)
    assert len(answers) == next(counter)
    assert all(asked == answered for asked, answered in answers)


def test_many_requests_wait_for_one_load(start_node, zoo) -> None:
    node = start_node({"f": zoo("Echo", **{**COLD, "idle_after": "500ms"})})
    wait_cold(node, "f")
    client = node.client()
    calls = [in_background(lambda n=n: client.infer("f", numbers(n))) for n in range(8)]
    assert [call.result(WAIT_S)["y"].tolist() for call in calls] == [[[n]] for n in range(8)]
    assert node.function("f").cold_starts == 1


def test_a_load_that_fails_answers_what_waits_and_is_tried_again(
    start_node, zoo, tmp_path: Path
) -> None:
    marker = tmp_path / "broken"
    node = start_node({"f": zoo("Breakable", args={"marker": str(marker)}, **COLD)})
    wait_cold(node, "f")
    marker.touch()
    client = node.client()
    with pytest.raises(Unavailable, match=r"function f: could not be loaded: .*it is broken"):
        client.infer("f", numbers(1))
    found = node.function("f")
    assert (found.state, found.cold_starts) == ("COLD", 0)
    marker.unlink()
    assert client.infer("f", numbers(2))["y"].tolist() == [[2]]
    wait_cold(node, "f")
    marker.touch()
    for _ in range(5):
        with pytest.raises(Unavailable, match="it is broken"):
            client.infer("f", numbers(3))
    assert node.wait_function("f", lambda f: f.state == "FAILED").reason


def test_a_known_function_rests_from_the_start(start_node, zoo) -> None:
    node = start_node({"f": zoo("Echo", **COLD)})
    wait_cold(node, "f")
    node.stop()
    node.start()
    found = node.function("f")
    assert (found.state, list(found.workers)) == ("COLD", [])
    assert found.reason == "the first request loads it"
    assert node.client().infer("f", numbers(5))["y"].tolist() == [[5]]
    assert node.function("f").cold_starts == 1


def test_what_rests_outlives_its_daemon(start_node, zoo) -> None:
    node = start_node({"f": zoo("Echo", **COLD)})
    wait_cold(node, "f")
    node.kill_daemon()
    client = node.client()
    with pytest.raises(Unavailable, match="not loaded, and the daemon is away"):
        client.infer("f", numbers(1))
    node.start()
    assert client.infer("f", numbers(5))["y"].tolist() == [[5]]
    assert "crash" not in events(node)


def test_an_operator_s_load_and_unload_find_what_rests(start_node, zoo) -> None:
    node = start_node({"f": zoo("Echo", **COLD)})
    wait_cold(node, "f")
    assert load(node, "f", zoo("Echo", **COLD, share="30%")) == ["plan", "done"]
    found = node.function("f")
    assert (found.state, found.share_granted_percent) == ("COLD", 30)
    assert load(node, "f", zoo("Echo", residency="warm", share="30%"))[-1] == "done"
    assert node.function("f").state == "READY"
    (pid,) = node.worker_pids("f")
    assert load(node, "f", zoo("Echo", **COLD, share="30%")) == ["plan", "done"]
    wait_cold(node, "f")
    assert pid not in node.worker_pids("f")
    with node.control() as control:
        assert [s.name for s in control.unload("f")][-1] == "done"


# ---- eviction ------------------------------------------------------------------------------------


@pytest.fixture
def crowded(start_node, identity, memory_mib: int) -> Iterator[Any]:
    """Starts a node on which two functions of the three fit; all have been loaded before."""

    def start(residency: str) -> Node:
        node = start_node(dict.fromkeys("abc", identity))
        node.stop()
        functions = {name: {**identity, "residency": residency} for name in "ab"}
        limits = {"cpu": {"limits": {"memory": f"{memory_mib * 5 // 2}MiB"}}}
        node.write_config(functions, {**ADDRESSES, "state_dir": "./state"}, limits)
        return node.start()

    return start


def test_what_was_used_longest_ago_makes_room(crowded, identity) -> None:
    node = crowded("warm")
    client = node.client()
    client.infer("b", numbers(1))
    used_ms = {"a": 0, "b": last_used_ms(client, "b")}
    while used_ms["a"] <= used_ms["b"]:  # in the same millisecond is as long ago
        client.infer("a", numbers(1))
        used_ms["a"] = last_used_ms(client, "a")
    assert load(node, "c", identity)[-1] == "done"
    assert states(node) == {"a": "READY", "b": "COLD", "c": "READY"}
    assert node.function("b").reason == "its memory went to c; the next request loads it"
    client.infer("c", numbers(1))
    assert client.infer("b", numbers(7))["x"].tolist() == [[7]]
    assert states(node) == {"a": "COLD", "b": "READY", "c": "READY"}


def test_what_is_pinned_stays(crowded, identity) -> None:
    node = crowded("pinned")
    before = node.worker_pids("a"), node.worker_pids("b")
    assert load(node, "c", identity)[-1] == "failed"
    assert re.search(r"needs .* MiB \(process .*\); cpu has", node.function("c").reason)
    assert (node.worker_pids("a"), node.worker_pids("b")) == before


def test_what_nobody_loaded_before_makes_room_once_it_is_measured(
    start_node, identity, memory_mib: int
) -> None:
    limits = {"cpu": {"limits": {"memory": f"{memory_mib * 3 // 2}MiB"}}}
    node = start_node({"a": identity}, devices=limits)
    assert load(node, "b", identity)[-1] == "done"
    assert states(node) == {"a": "COLD", "b": "READY"}


def test_a_request_that_finds_no_room_is_told_so(crowded, identity, zoo, gate) -> None:
    node = crowded("warm")
    client = node.client()
    client.infer("b", numbers(1))
    assert load(node, "c", identity)[-1] == "done"
    assert load(node, "b", {**identity, "residency": "pinned"}) == ["plan", "done"]
    assert load(node, "c", {**identity, "residency": "pinned"}) == ["plan", "done"]
    with pytest.raises(GsliceError, match=r"function a: could not be loaded: needs .* cpu has"):
        client.infer("a", numbers(1))
    assert states(node) == {"a": "COLD", "b": "READY", "c": "READY"}


def test_memory_of_a_gpu_is_made_free_for_another(start_gpu_node, gpu: FakeGpu) -> None:
    devices = {"cuda:0": {"limiter": "mps", "limits": {"memory": "5GiB"}}}
    body = on_gpu(args={"weight_bytes": 2 * GIB}, share="20%")
    node = start_gpu_node({"c": body}, devices=devices)
    with node.control() as control:
        list(control.unload("c"))
    for name in ("a", "b"):
        assert load(node, name, body)[-1] == "done"
    client = node.client()
    for name in ("b", "a"):
        client.infer(name, numbers(1))
    assert load(node, "c", body)[-1] == "done"
    assert states(node) == {"a": "READY", "b": "COLD", "c": "READY"}
    client.infer("c", numbers(1))
    assert client.infer("b", numbers(3))["y"].tolist() == [[3]]
    assert states(node) == {"a": "COLD", "b": "READY", "c": "READY"}
