"""Loading and unloading while others serve, good models and bad ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gslice.core.errors import Internal, InvalidArgument, NotFound, Unavailable
from tests import models
from tests.node import WAIT_S, Node, in_background, kill_and_wait, wait_counts
from tests.process.traffic import Traffic


def numbers(*values: int) -> dict[str, np.ndarray]:
    return {"x": np.array(values, np.int64).reshape(-1, 1)}


def stages(node, name: str, body: str = "") -> list[str]:
    with node.control() as control:
        return [stage.name for stage in control.load(name, body)]


def changes(node: Node) -> list[str]:
    with node.control() as control:
        return [change.path for change in control.diff().changes]


@pytest.fixture(scope="module")
def bad_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    good = models.affine(folder).read_bytes()
    paths = {name: folder / f"{name}.onnx" for name in ("missing", "empty", "corrupt", "text")}
    paths["empty"].write_bytes(b"")
    paths["corrupt"].write_bytes(good[: len(good) // 2])
    paths["text"].write_text("not a model at all\n" * 100)
    return paths


@pytest.fixture(scope="module")
def late_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not there yet when the node starts."""
    return tmp_path_factory.mktemp("late") / "affine.onnx"


@pytest.fixture(scope="module")
def node(start_shared_node, zoo, bad_models: dict[str, Path], late_model: Path) -> Node:
    """With all kinds of functions; `echo` and `twin` serve."""
    return start_shared_node(
        {
            **{name: {"model": str(path)} for name, path in bad_models.items()},
            "late": {"model": str(late_model)},
            "argument": zoo("Echo", args={"unknown": 1}),
            "nobody": zoo("Nobody"),
            "raises": zoo("Raises"),
            "twin": zoo("Echo"),
            "echo": zoo("Echo"),
        }
    )


# ---- one node --------------------------------------------------------------------------------


def test_bad_models_fail_with_their_reason_and_the_rest_serves(
    node, bad_models: dict[str, Path]
) -> None:
    found = {f.name: f for f in node.status().functions}
    for name, path in bad_models.items():
        assert found[name].state == "FAILED", name
        assert str(path) in found[name].reason, found[name].reason
        assert list(found[name].workers) == []
        with pytest.raises(Unavailable):
            node.client().infer(name, numbers(1))
    assert node.client().infer("echo", numbers(5))["y"].tolist() == [[5]]
    assert sum(found[name].share_granted_percent for name in ("raises", "twin", "echo")) == (
        pytest.approx(100)
    )
    with node.control() as control:
        lines = [line for line in control.logs("daemon", 100) if " missing: " in line]
    assert len(lines) == 1, lines
    assert "ERROR missing: not loaded: " in lines[0]
    assert "function missing" not in lines[0]


def test_a_failed_model_is_loaded_once_it_is_right(node, late_model: Path) -> None:
    assert node.function("late").state == "FAILED"
    models.affine(late_model.parent)
    assert stages(node, "late")[-1] == "done"
    x = np.ones((2, 8), np.float32)
    expected = models.reference(late_model, {"x": x})["y"]
    answer = node.client().infer("late", {"x": x})["y"]
    np.testing.assert_allclose(answer, expected, rtol=1e-6)


def test_a_python_function_that_raises_fails_that_batch_only(node) -> None:
    client, (pid,) = node.client(), node.worker_pids("raises")
    with pytest.raises(Internal, match="negative: -3"):
        client.infer("raises", numbers(-3))
    assert client.infer("raises", numbers(3))["y"].tolist() == [[3]]
    assert node.worker_pids("raises") == [pid]


def test_load_and_unload_at_run_time(node) -> None:
    client, before = node.client(), changes(node)
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
    assert sorted(changes(node)) == sorted([*before, "functions.same"])
    with node.control() as control:
        assert [stage.name for stage in control.unload("same")] == ["drain", "exit", "done"]
    assert changes(node) == before
    with pytest.raises(NotFound):
        client.infer("same", numbers(1))
    with node.control() as control, pytest.raises(NotFound):
        list(control.unload("same"))


def test_clients_can_load_and_unload_too(node) -> None:
    client = node.client()
    client.unload("twin")
    with pytest.raises(NotFound):
        client.ready("twin")
    client.load("twin")
    assert client.infer("twin", numbers(1))["y"].tolist() == [[1]]
    with pytest.raises(NotFound):
        client.load("unheard-of")


def test_reloading_under_load_loses_nothing(node) -> None:
    with Traffic(node, "echo") as traffic:
        for _ in range(2):
            before = node.worker_pids("echo")
            traffic.wait_answers(50)
            assert stages(node, "echo")[-3:] == ["drain", "exit", "done"]
            assert node.worker_pids("echo") != before
            traffic.wait_answers(50)
    traffic.assert_each_answered_once()


def test_a_reload_that_fails_leaves_the_old_one_serving(node, tmp_path) -> None:
    before, changed = node.worker_pids("echo"), changes(node)
    with Traffic(node, "echo", clients=4) as traffic:
        traffic.wait_answers(20)
        missing = tmp_path / "missing.onnx"
        assert stages(node, "echo", f"{{model: {missing}}}")[-1] == "failed"
        traffic.wait_answers(20)
    traffic.assert_each_answered_once()
    assert node.function("echo").state == "READY"
    assert node.worker_pids("echo") == before
    assert changes(node) == changed


def test_orders_about_one_function_come_one_after_the_other(node) -> None:
    orders = [in_background(lambda: stages(node, "echo")[-1]) for _ in range(3)]
    assert [order.result(WAIT_S) for order in orders] == ["done"] * 3
    assert len(node.worker_pids("echo")) == 1


def test_a_wrong_body_names_the_key(node) -> None:
    with pytest.raises(InvalidArgument, match="shar"):
        stages(node, "f", "{model: /m.onnx, shar: 40%}")
    with node.control() as control:
        *_, last = control.load("daemon", "{model: /m.onnx}")
    assert (last.name, "taken by a log" in last.detail) == ("failed", True)


def test_a_python_class_that_fails_in_setup_says_why(node) -> None:
    assert "unexpected keyword argument 'unknown'" in node.function("argument").reason
    assert "no class 'Nobody'" in node.function("nobody").reason


# ---- nodes of their own ------------------------------------------------------------------------


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


def test_unload_answers_what_was_accepted(start_node, zoo) -> None:
    node = start_node({"echo": zoo("Echo")})
    with Traffic(node, "echo", clients=4) as traffic:
        traffic.wait_answers(20)
        with node.control() as control:
            list(control.unload("echo"))
    assert {type(error) for error in traffic.errors} <= {NotFound, Unavailable}
    assert traffic.answers.total() + len(traffic.errors) == traffic.sent
    assert set(traffic.answers.values()) == {1}


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


def test_a_device_memory_limit_refuses_what_does_not_fit(start_node, identity) -> None:
    node = start_node({"same": identity}, devices={"cpu": {"limits": {"memory": "1MiB"}}})
    found = node.function("same")
    assert found.state == "FAILED"
    assert "more than its memory limit of 1.0 MiB" in found.reason
