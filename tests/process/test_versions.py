"""Versions of a function: swapped under load, kept warm, rolled back to, and never mixed up."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from gslice.core.errors import FailedPrecondition, GsliceError, NotFound
from tests import models
from tests.fakes.gpu import GIB, FakeGpu
from tests.node import Node, kill_and_wait
from tests.process.gpu import MPS, events, numbers, on_gpu
from tests.process.traffic import Traffic

KEPT_SWAP = ["plan", "swap", "drain", "keep", "done"]
LOADED = ["plan", "start", "load", "warm", "swap", "drain", "exit", "done"]


def load(node: Node, body: dict[str, Any], name: str = "f") -> list[str]:
    with node.control() as control:
        return [stage.name for stage in control.load(name, json.dumps(body))]


def rollback(node: Node, version: str = "", name: str = "f") -> list[str]:
    with node.control() as control:
        return [stage.name for stage in control.rollback(name, version)]


def states(node: Node, name: str = "f") -> dict[str, str]:
    with node.control() as control:
        return {version.number: version.state for version in control.versions(name).versions}


def tag(node: Node) -> int:
    return int(node.client().infer("f", numbers(1))["tag"][0, 0])


def answered(client: triton.InferenceServerClient, version: str = "") -> tuple[str, int]:
    """The version that an answer names, and the one that computed it."""
    x = triton.InferInput("x", [1, 1], "INT64")
    x.set_data_from_numpy(np.ones((1, 1), np.int64))
    answer = client.infer("f", [x], model_version=version)
    return answer.get_response().model_version, int(answer.as_numpy("tag")[0, 0])


def counted(page: str) -> float:
    """What Prometheus hears of answers: neither less nor more after a swap."""
    found = re.search(r'gslice_requests_total\{function="f",outcome="ok"\} (\S+)', page)
    assert found
    return float(found[1])


@pytest.fixture
def tagged(zoo) -> Any:
    """The body of a function whose every tag is another model."""

    def body(tag: int, keep: int = 2, **settings: Any) -> dict[str, Any]:
        return zoo("Tagged", args={"tag": tag}, versions={"keep": keep}, **settings)

    return body


@pytest.fixture
def two_models(tmp_path: Path) -> tuple[Path, Path]:
    """Models with one signature and different content."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    first, second = (models.identity(tmp_path / n, "INT64", ("N", 1)) for n in ("a", "b"))
    second.write_bytes(second.read_bytes() + b"\x1a\x01b")  # doc_string: "b"
    return first, second


# ---- swaps -------------------------------------------------------------------------------------


def test_a_new_version_and_a_rollback_lose_nothing_under_load(start_node, tagged) -> None:
    node = start_node({"f": tagged(1)})
    first = node.worker_pids("f")
    with Traffic(node, "f") as traffic:
        traffic.wait_answers(50)
        assert load(node, tagged(2)) == [*LOADED[:-2], "keep", "done"]
        traffic.wait_answers(50)
        assert (traffic.tags.keys(), tag(node)) == ({1, 2}, 2)
        assert rollback(node) == KEPT_SWAP
        assert tag(node) == 1
        traffic.wait_answers(50)
        assert rollback(node) == KEPT_SWAP  # there and back again
        traffic.wait_answers(50)
        assert rollback(node, "1") == KEPT_SWAP
        traffic.wait_answers(50)
    traffic.assert_each_answered_once()
    assert traffic.tags.total() == traffic.sent
    found = node.function("f")
    assert (found.version, [kept.version for kept in found.kept]) == ("1", ["2"])
    assert [worker.pid for worker in found.workers] == first
    assert states(node) == {"2": "kept", "1": "serving"}
    assert found.memory.kept_bytes > 10 << 20
    told = events(node)
    for line in (
        r"f: version 2 serves: zoo:Tagged, [0-9a-f]{12}\n",
        r"f: rollback: version 1 for version 2: it is warm and takes over at once\n",
        r"f: version 1 serves again: ",
    ):
        assert re.search(line, told), (line, told)
    _, page = node.http(node.status().metrics_address, "/metrics")
    assert 'gslice_function_version{function="f"} 1.0' in page
    assert 'gslice_kept_versions{function="f"} 1.0' in page
    assert counted(page) == traffic.sent + 2


def test_clients_hear_of_the_version_that_serves(start_node, tagged) -> None:
    node = start_node({"f": tagged(1)})
    load(node, tagged(2))
    with triton.InferenceServerClient(node.grpc_address) as client:
        assert answered(client, "2") == ("2", 2)
        with pytest.raises(InferenceServerException, match=r"no version .1., only .2.") as told:
            answered(client, "1")
        assert told.value.status() == "StatusCode.NOT_FOUND"
        assert list(client.get_model_metadata("f").versions) == ["2"]
        rollback(node)
        assert answered(client, "1") == answered(client) == ("1", 1)
        with pytest.raises(InferenceServerException, match=r"no version .2., only .1."):
            answered(client, "2")
        (told,) = client.get_model_repository_index().models
        assert told.version == "1"


def test_a_version_that_does_not_load_leaves_the_old_one(start_node, tagged, zoo) -> None:
    node = start_node({"f": tagged(1)})
    with Traffic(node, "f", clients=4) as traffic:
        traffic.wait_answers(20)
        assert load(node, zoo("Tagged", versions={"keep": 2}))[-1] == "failed"
        traffic.wait_answers(20)
    traffic.assert_each_answered_once()
    assert traffic.tags.keys() == {1}
    assert states(node) == {"1": "serving"}
    found = node.function("f")
    assert (found.version, found.state, list(found.kept)) == ("1", "READY", [])
    with node.control() as control, pytest.raises(FailedPrecondition, match="no version served"):
        list(control.rollback("f"))
    assert load(node, tagged(3))[-1] == "done"
    assert states(node) == {"2": "serving", "1": "kept"}


def test_a_version_that_keeps_dying_is_rolled_back(start_node, tagged, zoo) -> None:
    node = start_node({"f": tagged(1)})
    load(node, zoo("Dies", versions={"keep": 2}))
    client = node.client()
    while node.function("f").state != "FAILED":
        with contextlib.suppress(GsliceError):
            client.infer("f", numbers(-1))
    assert states(node) == {"2": "recorded", "1": "kept"}
    assert rollback(node) == ["plan", "swap", "drain", "exit", "done"]
    assert (tag(node), node.function("f").share_granted_percent) == (1, 100)


# ---- numbers -----------------------------------------------------------------------------------


def test_only_another_model_is_another_version(start_node, two_models) -> None:
    first, second = map(str, two_models)
    node = start_node({"f": {"model": first}})
    load(node, {"model": first, "batch": {"max": 4}, "queue": {"max": 8}})
    assert node.function("f").version == "1"
    load(node, {"model": second})
    assert node.function("f").version == "2"
    load(node, {"model": first, "slo": {"p99": "1s"}})
    assert node.function("f").version == "1"
    shutil.copyfile(second, first)  # another model in the same place
    load(node, {"model": first})
    assert states(node) == {"3": "serving", "2": "recorded", "1": "recorded"}


def test_versions_outlive_the_daemon_and_a_pin_is_kept(start_node, tagged) -> None:
    node = start_node({"f": tagged(1)})
    load(node, tagged(2))
    rollback(node)
    node.stop()
    node.start()
    assert (tag(node), node.function("f").source) == (1, "overlay")
    assert states(node) == {"2": "recorded", "1": "serving"}
    with node.control() as control:
        changes = {c.path: c.running_value for c in control.diff().changes}
        assert changes["functions.f.versions.serve"] == "1"
        assert rollback(node, "latest") == [*LOADED[:-2], "keep", "done"]
        assert tag(node) == 2
        changes = {c.path: c.running_value for c in control.diff().changes}
        assert changes == {"functions.f.args.tag": "2"}
        control.save()
    assert "tag: 2" in node.config_path.read_text()


def test_a_resize_of_a_pinned_function_pins_nothing_else(start_node, tagged) -> None:
    node = start_node({"f": tagged(1, share="40%")})
    load(node, tagged(2, share="40%"))
    rollback(node)
    with node.control() as control:
        list(control.resize("f", "60%"))
        changes = {c.path: c.running_value for c in control.diff().changes}
    assert changes.keys() == {
        *("functions.f.args.tag", "functions.f.share", "functions.f.versions.serve")
    }
    assert rollback(node, "2") == KEPT_SWAP  # a kept version may have had another share
    found = node.function("f")
    assert (tag(node), found.share_granted_percent) == (2, 60)
    node.wait_function(
        "f", lambda f: abs(f.share_effective_percent - 60) < 5 or f.limiter != "cgroup"
    )


def test_what_is_not_warm_is_loaded_again_if_it_is_what_it_was(start_node, two_models) -> None:
    first, second = two_models
    node = start_node({"f": {"model": str(first)}})
    load(node, {"model": str(second)})
    with node.control() as control:
        (plan,) = control.rollback("f", dry_run=True)
    assert plan.detail == f"version 1 for version 2: loads {first}"
    assert node.function("f").version == "2"
    assert rollback(node) == LOADED
    assert node.function("f").version == "1"
    second.write_bytes(first.read_bytes())
    with node.control() as control:
        with pytest.raises(FailedPrecondition, match="version 2 cannot be loaded again"):
            list(control.rollback("f", "2"))
        with pytest.raises(NotFound, match="has no version 7"):
            list(control.rollback("f", "7"))
    with Traffic(node, "f", clients=1) as traffic:
        traffic.wait_answers(1)
    # A file that vanished is no obstacle for what is loaded, but for the next daemon.
    first.unlink()
    node.stop()
    node.start()
    found = node.function("f")
    assert found.state == "FAILED"
    assert f"the files of {first} have changed or are gone" in found.reason


def test_what_would_go_anyway_goes_before_a_load_that_nobody_knows(start_node, tagged, zoo) -> None:
    node = start_node({"f": tagged(1)})
    load(node, tagged(2))
    assert load(node, zoo("Tagged", versions={"keep": 2}))[-1] == "failed"  # it never loaded
    assert states(node) == {"2": "serving", "1": "recorded"}
    load(node, tagged(1))  # it did: there is room for all
    assert load(node, zoo("Raises", versions={"keep": 3}))[-1] == "done"
    assert states(node) == {"3": "serving", "2": "kept", "1": "kept"}


# ---- what is kept ------------------------------------------------------------------------------


def test_a_kept_worker_that_dies_takes_its_version_along(start_node, tagged) -> None:
    node = start_node({"f": tagged(1, instances=2)})
    load(node, tagged(2, instances=2))
    (kept,) = node.function("f").kept
    kill_and_wait(kept.pids[0])
    found = node.wait_function("f", lambda f: not f.kept)
    assert (found.version, found.state, len(found.workers)) == ("2", "READY", 2)
    assert "f: version 1 is not kept warm any more: its worker killed by SIGKILL" in events(node)
    assert rollback(node) == [*LOADED[:-2], "keep", "done"]
    assert tag(node) == 1


def test_no_more_are_kept_than_asked_for(start_node, tagged) -> None:
    node = start_node({"f": tagged(1, keep=3)})
    load(node, tagged(2, keep=3))
    load(node, tagged(3, keep=3))
    load(node, tagged(4, keep=3))
    assert states(node) == {"4": "serving", "3": "kept", "2": "kept", "1": "recorded"}
    assert load(node, tagged(4, keep=2)) == ["plan", "done"]
    assert states(node) == {"4": "serving", "3": "kept", "2": "recorded", "1": "recorded"}
    load(node, tagged(4, keep=1))
    assert list(node.function("f").kept) == []


def test_what_rests_keeps_nothing(start_node, tagged) -> None:
    cold = {"residency": "cold", "idle_after": "300ms"}
    node = start_node({"f": tagged(1, **cold)})
    load(node, tagged(2, **cold))
    node.wait_function("f", lambda f: f.state == "COLD" and not f.workers and not f.kept)
    assert "version 1 is not kept warm any more: the function rests" in events(node)
    assert tag(node) == 2
    assert rollback(node)[-1] == "done"
    assert tag(node) == 1


def test_a_kept_version_with_other_settings_is_loaded_anew(start_node, tagged) -> None:
    node = start_node({"f": tagged(1)})
    load(node, tagged(2, batch={"max": 2}))
    assert rollback(node) == [*LOADED[:-2], "keep", "done"]
    found = node.function("f")
    assert (tag(node), [kept.version for kept in found.kept]) == (1, ["2"])


def test_the_next_daemon_adopts_what_is_kept(start_node, tagged) -> None:
    node = start_node({"f": tagged(1, share="50%")})
    load(node, tagged(2, share="50%"))
    before = node.function("f")
    with Traffic(node, "f", clients=4) as traffic:
        traffic.wait_answers(20)
        node.kill_daemon()
        traffic.wait_answers(20)
        node.start()
        traffic.wait_answers(20)
        after = node.function("f")
        assert after.version == "2"
        assert [w.pid for w in after.workers] == [w.pid for w in before.workers]
        assert [list(k.pids) for k in after.kept] == [list(k.pids) for k in before.kept]
        assert after.share_granted_percent == 50
        assert rollback(node) == KEPT_SWAP
        traffic.wait_answers(20)
        node.kill_daemon()  # what serves was loaded before what is kept
        node.start()
        traffic.wait_answers(20)
        assert states(node) == {"2": "kept", "1": "serving"}
    traffic.assert_each_answered_once()
    _, page = node.http(node.status().metrics_address, "/metrics")
    assert counted(page) == traffic.sent


def test_a_front_end_that_comes_later_reaches_what_was_kept(start_node, tagged) -> None:
    node = start_node({"f": tagged(1)})
    load(node, tagged(2))
    kill_and_wait(node.frontend_pids()[0])
    node.wait_status(lambda s: [f.state for f in s.frontends] == ["SERVING"])
    with Traffic(node, "f", clients=2) as traffic:
        traffic.wait_answers(10)
        rollback(node)
        traffic.wait_answers(10)
    traffic.assert_each_answered_once()
    assert traffic.tags.keys() == {1, 2}


def test_what_is_kept_goes_before_anything_that_serves(start_node, tagged, zoo) -> None:
    node = start_node({"f": tagged(1), "other": zoo("Echo", residency="pinned")})
    load(node, tagged(2))
    mib = node.function("f").memory.kept_bytes * 13 // 5 >> 20  # two of them fit, three do not
    node.stop()
    settings = dict.fromkeys(("grpc", "http", "metrics"), "127.0.0.1:0")
    functions = {"f": tagged(1), "other": zoo("Echo")}
    devices = {"cpu": {"limits": {"memory": f"{mib}MiB"}}}
    node.write_config(functions, {**settings, "state_dir": "./state", "spares": 0}, devices)
    node.start()
    with node.control() as control:
        list(control.unload("other"))
    load(node, tagged(3))
    assert states(node)["2"] == "kept"
    with node.control() as control:
        assert [stage.name for stage in control.load("other")][-1] == "done"
    assert states(node)["2"] == "recorded"
    assert "version 2 is not kept warm any more: its memory went to other" in events(node)
    assert [f.state for f in node.status().functions] == ["READY", "READY"]


# ---- a GPU ---------------------------------------------------------------------------------------


def test_a_version_is_kept_on_a_gpu_until_a_fault(
    start_gpu_node, gpu: FakeGpu, tmp_path: Path
) -> None:
    def body(name: str, **args: Any) -> dict[str, Any]:
        return on_gpu(name, args=args, versions={"keep": 2}, share="50%")

    node = start_gpu_node({"f": body("OnGpu", weight_bytes=GIB)}, devices=MPS)
    first = node.worker_pids("f")
    with Traffic(node, "f", clients=2) as traffic:
        traffic.wait_answers(10)
        load(node, body("Faults", marker=str(tmp_path / "marker")))
        found = node.function("f")
        assert [list(kept.pids) for kept in found.kept] == [first]
        assert found.memory.device_kept_bytes >= GIB
        assert node.status().devices[0].share_used_percent == found.share_effective_percent
        assert rollback(node) == KEPT_SWAP
        assert node.worker_pids("f") == first
        assert rollback(node) == KEPT_SWAP
        assert node.client().infer("f", numbers(-1))["y"].tolist() == [[-1]]  # it runs again
        found = node.wait_function("f", lambda f: not f.kept and f.state == "READY")
        traffic.wait_answers(10)
    traffic.assert_each_answered_once()
    assert "version 1 is not kept warm any more: its worker" in events(node)
