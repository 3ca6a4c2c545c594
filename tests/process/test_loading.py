"""Loading and unloading while others serve, good models and bad ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gslice.core.errors import Internal, InvalidArgument, NotFound, Unavailable
from tests import models
from tests.node import WAIT_S, in_background, kill_and_wait, wait_counts
from tests.process.traffic import Traffic


def numbers(*values: int) -> dict[str, np.ndarray]:
    return {"x": np.array(values, np.int64).reshape(-1, 1)}


def stages(node, name: str, body: str = "") -> list[str]:
    with node.control() as control:
        return [stage.name for stage in control.load(name, body)]


@pytest.fixture
def bad_models(tmp_path: Path) -> dict[str, Path]:
    good = models.affine(tmp_path).read_bytes()
    paths = {name: tmp_path / f"{name}.onnx" for name in ("missing", "empty", "corrupt", "other")}
    paths["empty"].write_bytes(b"")
    paths["corrupt"].write_bytes(good[: len(good) // 2])
    paths["other"].write_text("not a model at all\n" * 100)
    return paths


def test_bad_models_fail_with_their_reason_and_the_rest_serves(
    start_node, zoo, bad_models: dict[str, Path]
) -> None:
    functions = {name: {"model": str(path)} for name, path in bad_models.items()}
    node = start_node({**functions, "echo": zoo("Echo")})
    found = {f.name: f for f in node.status().functions}
    for name, path in bad_models.items():
        assert found[name].state == "FAILED", name
        assert str(path) in found[name].reason, found[name].reason
        assert list(found[name].workers) == []
        with pytest.raises(Unavailable):
            node.client().infer(name, numbers(1))
    assert node.client().infer("echo", numbers(5))["y"].tolist() == [[5]]
    assert found["echo"].share_granted_percent == 100
    with node.control() as control:
        lines = [line for line in control.logs("daemon", 100) if " missing: " in line]
    assert len(lines) == 1, lines
    assert "ERROR missing: not loaded: " in lines[0]
    assert "function missing" not in lines[0]


def test_a_failed_model_is_loaded_once_it_is_right(start_node, tmp_path: Path) -> None:
    path = tmp_path / "affine.onnx"
    node = start_node({"affine": {"model": str(path)}})
    assert node.function("affine").state == "FAILED"
    models.affine(tmp_path)
    assert stages(node, "affine")[-1] == "done"
    x = np.ones((2, 8), np.float32)
    expected = models.reference(path, {"x": x})["y"]
    answer = node.client().infer("affine", {"x": x})["y"]
    np.testing.assert_allclose(answer, expected, rtol=1e-6)


def test_a_python_function_that_raises_fails_that_batch_only(start_node, zoo) -> None:
    node = start_node({"raises": zoo("Raises")})
    client, (pid,) = node.client(), node.worker_pids("raises")
    with pytest.raises(Internal, match="negative: -3"):
        client.infer("raises", numbers(-3))
    assert client.infer("raises", numbers(3))["y"].tolist() == [[3]]
    assert node.worker_pids("raises") == [pid]


def test_load_and_unload_at_run_time(start_node, zoo, identity) -> None:
    node = start_node({"echo": zoo("Echo")})
    client = node.client()
    with pytest.raises(NotFound):
        client.infer("same", numbers(1))
    body = "{identity: {inputs: [{name: x, dtype: INT64, dims: [-1, 1]}]}}"
    assert stages(node, "same", body) == [
        "plan",
        "start",
        "load",
        "warm",
        "swap",
        "done",
    ]
    assert client.infer("same", numbers(1))["x"].tolist() == [[1]]
    assert node.function("same").source == "overlay"
    with node.control() as control:
        assert [change.path for change in control.diff().changes] == ["functions.same"]
        assert [stage.name for stage in control.unload("same")] == ["drain", "exit", "done"]
        assert list(control.diff().changes) == []
    with pytest.raises(NotFound):
        client.infer("same", numbers(1))
    with node.control() as control, pytest.raises(NotFound):
        list(control.unload("same"))


def test_clients_can_load_and_unload_too(start_node, zoo) -> None:
    node = start_node({"echo": zoo("Echo"), "other": zoo("Echo")})
    client = node.client()
    client.unload("other")
    with pytest.raises(NotFound):
        client.ready("other")
    client.load("other")
    assert client.infer("other", numbers(1))["y"].tolist() == [[1]]
    with pytest.raises(NotFound):
        client.load("unheard-of")


def test_reloading_under_load_loses_nothing(start_node, zoo) -> None:
    node = start_node({"echo": zoo("Echo")})
    with Traffic(node, "echo") as traffic:
        for _ in range(2):
            before = node.worker_pids("echo")
            traffic.wait_answers(50)
            assert stages(node, "echo")[-3:] == ["drain", "exit", "done"]
            assert node.worker_pids("echo") != before
            traffic.wait_answers(50)
    traffic.assert_each_answered_once()


def test_reloading_what_waits_for_a_new_worker_loses_nothing(start_node, zoo) -> None:
    node = start_node({"echo": zoo("Echo")})
    with Traffic(node, "echo") as traffic:
        for _ in range(2):
            traffic.wait_answers(50)
            kill_and_wait(node.worker_pids("echo")[0])
            assert stages(node, "echo")[-3:] == ["drain", "exit", "done"]
            traffic.wait_answers(50)
    traffic.assert_each_answered_once()


def test_unloading_answers_what_waits_for_a_new_worker(start_node, zoo, gate) -> None:
    node = start_node({"gate": zoo("Gate", args={"gate": str(gate.path)})})
    client = node.client()
    call = in_background(lambda: client.infer("gate", {"x": np.array([-1], np.int64)}))
    wait_counts(node.segment("gate"), lambda counts: counts["claimed"] == 1)
    kill_and_wait(node.worker_pids("gate")[0])
    unload = in_background(lambda: client.unload("gate"))
    gate.open()  # only a second run opens its other end
    assert call.result(WAIT_S)["y"].tolist() == [-1]
    unload.result(WAIT_S)


def test_a_reload_that_fails_leaves_the_old_one_serving(start_node, zoo, tmp_path) -> None:
    node = start_node({"echo": zoo("Echo")})
    before = node.worker_pids("echo")
    with Traffic(node, "echo", clients=4) as traffic:
        traffic.wait_answers(20)
        missing = tmp_path / "missing.onnx"
        assert stages(node, "echo", f"{{model: {missing}}}")[-1] == "failed"
        traffic.wait_answers(20)
    traffic.assert_each_answered_once()
    assert node.function("echo").state == "READY"
    assert node.worker_pids("echo") == before
    with node.control() as control:
        assert list(control.diff().changes) == []


def test_unload_answers_what_was_accepted(start_node, zoo) -> None:
    node = start_node({"echo": zoo("Echo")})
    with Traffic(node, "echo", clients=4) as traffic:
        traffic.wait_answers(20)
        with node.control() as control:
            list(control.unload("echo"))
    assert {type(error) for error in traffic.errors} <= {NotFound, Unavailable}
    assert traffic.answers.total() + len(traffic.errors) == traffic.sent
    assert set(traffic.answers.values()) == {1}


def test_orders_about_one_function_come_one_after_the_other(start_node, zoo) -> None:
    node = start_node({"echo": zoo("Echo")})
    orders = [in_background(lambda: stages(node, "echo")[-1]) for _ in range(3)]
    assert [order.result(WAIT_S) for order in orders] == ["done"] * 3
    assert len(node.worker_pids("echo")) == 1


def test_a_wrong_body_names_the_key(start_node) -> None:
    node = start_node({})
    with pytest.raises(InvalidArgument, match="shar"):
        stages(node, "f", "{model: /m.onnx, shar: 40%}")
    with node.control() as control:
        *_, last = control.load("daemon", "{model: /m.onnx}")
    assert (last.name, "taken by a log" in last.detail) == ("failed", True)


def test_run_time_changes_are_kept_saved_and_dropped(start_node, zoo) -> None:
    node = start_node({"echo": zoo("Echo")})
    body = "{identity: {inputs: [{name: x, dtype: INT64, dims: [-1, 1]}]}, share: 20%}"
    stages(node, "same", body)
    node.signal_daemon(15)
    assert node.wait_exit() == 0
    node.start()
    assert sorted(f.name for f in node.status().functions) == ["echo", "same"]
    with node.control() as control:
        reply = control.save()
        assert [change.path for change in reply.changes] == ["functions.same"]
        assert "same:" in node.config_path.read_text()
        list(control.unload("echo"))
        control.save(discard_overlay=True)
    node.wait_function("echo", lambda f: f.state == "READY")
    assert node.function("same").source == "file"


def test_a_python_class_that_fails_in_setup_says_why(start_node, zoo) -> None:
    node = start_node({"echo": zoo("Echo", args={"unknown": 1}), "none": zoo("Nobody")})
    assert "unexpected keyword argument 'unknown'" in node.function("echo").reason
    assert "no class 'Nobody'" in node.function("none").reason


def test_a_device_memory_limit_refuses_what_does_not_fit(start_node, identity) -> None:
    node = start_node({"same": identity}, devices={"cpu": {"limits": {"memory": "1MiB"}}})
    found = node.function("same")
    assert found.state == "FAILED"
    assert "more than its memory limit of 1.0 MiB" in found.reason
