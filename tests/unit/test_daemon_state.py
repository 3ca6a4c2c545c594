"""Desired state, store and lock of the daemon."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

import pytest

from gslice.core.config import config_for_model, load_config
from gslice.core.errors import FailedPrecondition, NotFound, Unavailable
from gslice.core.events import EventKind
from gslice.core.types import FunctionSpec
from gslice.daemon import store as store_module
from gslice.daemon.desired import Desired
from gslice.daemon.lock import StateLock
from gslice.daemon.store import OBSERVATIONS_MAX, OverlayEntry, Store

NODE = """\
version: 1
functions:
  # the one that matters
  a: {identity: {inputs: [{name: x, dtype: FP32, dims: [-1, 4]}]}, share: 40%}
  b: {model: ./b.onnx}
"""


@pytest.fixture
def store(tmp_path: Path):
    with Store(tmp_path / "gslice.db") as store:
        yield store


@pytest.fixture
def node_yaml(tmp_path: Path) -> Path:
    path = tmp_path / "node.yaml"
    path.write_text(NODE)
    return path


def desired(node_yaml: Path, store: Store) -> Desired:
    return Desired(load_config(node_yaml, environ={}), store, store.add_event)


def changed(spec: FunctionSpec, **changes: object) -> FunctionSpec:
    return FunctionSpec(**{**vars(spec), **changes})


def test_without_an_overlay_the_file_is_wanted(node_yaml: Path, store: Store) -> None:
    wanted = desired(node_yaml, store)
    assert list(wanted.functions) == ["a", "b"]
    assert wanted.diff() == []
    assert wanted.source("a") == "file"


def test_run_time_changes_outlive_the_daemon(node_yaml: Path, store: Store) -> None:
    first = desired(node_yaml, store)
    first.put(changed(first.functions["a"], queue_max=7))
    first.put(FunctionSpec("c", model="/c.onnx"))
    first.remove("b")
    second = desired(node_yaml, store)
    assert second.functions == first.functions
    assert list(second.functions) == ["a", "c"]
    assert [change.path for change in second.diff()] == [
        "functions.a.queue.max",
        "functions.b",
        "functions.c",
    ]
    assert second.source("a") == second.source("c") == "overlay"


def test_where_both_changed_the_file_wins_and_an_event_says_so(
    node_yaml: Path, store: Store
) -> None:
    first = desired(node_yaml, store)
    first.put(changed(first.functions["a"], queue_max=7))
    first.remove("b")
    node_yaml.write_text(NODE.replace("40%", "50%"))
    second = desired(node_yaml, store)
    assert second.functions["a"].queue_max == 256
    assert second.functions["a"].share.min_percent == 50
    assert "b" not in second.functions
    (event,) = store.events(0, 10)
    assert event.kind == "config"
    assert (event.subject, "node.yaml wins" in event.text) == ("a", True)
    assert list(store.overlay()) == ["b"]


def test_a_change_back_to_the_file_is_no_change(node_yaml: Path, store: Store) -> None:
    wanted = desired(node_yaml, store)
    original = wanted.functions["a"]
    wanted.put(changed(original, queue_max=7))
    wanted.put(original)
    wanted.remove("b")
    wanted.put(wanted.declared("b"))
    assert store.overlay() == {}


def with_gpus(node_yaml: Path, store: Store, *gpus: str) -> Desired:
    config = load_config(node_yaml, environ={}, find_gpus=lambda: gpus)
    return Desired(config, store, store.add_event)


def test_auto_is_the_same_wish_whatever_devices_there_are(node_yaml: Path, store: Store) -> None:
    node_yaml.write_text(NODE + "  t: {torch: m:f}\n")
    first = with_gpus(node_yaml, store, "cuda:0")
    first.put(changed(first.functions["t"], queue_max=7))
    first.put(FunctionSpec("u", engine="torch", devices=("cuda:0", "cpu"), device="cuda:0"))
    for gpus in (("cuda:0", "cuda:1"), (), ("cuda:1",)):
        now = with_gpus(node_yaml, store, *gpus)
        assert now.functions["t"].queue_max == 7, "the overlay holds"
        several = (*gpus, "cpu") if gpus else ()
        for name in ("t", "u"):
            spec = now.functions[name]
            assert (spec.device, spec.devices) == ((*gpus, "cpu")[0], several)
        assert [change.path for change in now.diff()] == ["functions.t.queue.max", "functions.u"]


def test_a_device_that_was_named_meanwhile_is_an_edit(node_yaml: Path, store: Store) -> None:
    node_yaml.write_text(NODE + "  t: {torch: m:f}\n")
    first = with_gpus(node_yaml, store, "cuda:0", "cuda:1")
    first.put(changed(first.functions["t"], queue_max=7))
    node_yaml.write_text(NODE + "  t: {torch: m:f, device: cuda:1}\n")
    assert with_gpus(node_yaml, store, "cuda:0", "cuda:1").changed == []


def test_declared_is_the_overlay_then_the_file(node_yaml: Path, store: Store) -> None:
    wanted = desired(node_yaml, store)
    wanted.put(changed(wanted.functions["a"], queue_max=7))
    wanted.remove("b")
    assert wanted.declared("a").queue_max == 7
    assert wanted.declared("b").name == "b"
    with pytest.raises(NotFound, match=r"no function x is declared.*a, b"):
        wanted.declared("x")


def test_save_writes_the_overlay_into_the_file_with_its_comments(
    node_yaml: Path, store: Store
) -> None:
    wanted = desired(node_yaml, store)
    wanted.put(changed(wanted.functions["a"], queue_max=7))
    wanted.remove("b")
    before = wanted.functions
    saved = wanted.save()
    assert (saved.path, saved.overruled) == (node_yaml, [])
    assert [change.path for change in saved.changes] == ["functions.a.queue.max", "functions.b"]
    assert "# the one that matters" in node_yaml.read_text()
    assert wanted.diff() == []
    assert store.overlay() == {}
    assert desired(node_yaml, store).functions == before


def test_discard_goes_back_to_the_file(node_yaml: Path, store: Store) -> None:
    wanted = desired(node_yaml, store)
    wanted.remove("b")
    assert [change.path for change in wanted.discard().changes] == ["functions.b"]
    assert "b" in wanted.functions
    assert store.overlay() == {}


def test_save_keeps_what_was_edited_meanwhile_and_an_event_says_so(
    node_yaml: Path, store: Store
) -> None:
    wanted = desired(node_yaml, store)
    wanted.put(changed(wanted.functions["a"], queue_max=7))
    wanted.put(FunctionSpec("c", model="/c.onnx"))
    node_yaml.write_text(NODE.replace("40%", "50%"))
    saved = wanted.save()
    assert saved.overruled == ["a"]
    assert [change.path for change in saved.changes] == ["functions.c"]
    assert "share: 50%" in node_yaml.read_text()
    assert "queue" not in node_yaml.read_text()
    (event,) = store.events(0, 10)
    assert event.kind == "config"
    assert (event.subject, "node.yaml wins" in event.text) == ("a", True)
    assert wanted.functions == load_config(node_yaml, environ={}).functions
    assert wanted.diff() == []
    assert store.overlay() == {}


def test_save_keeps_that_a_function_was_deleted_meanwhile(node_yaml: Path, store: Store) -> None:
    wanted = desired(node_yaml, store)
    wanted.put(changed(wanted.functions["a"], queue_max=7))
    node_yaml.write_text("version: 1\nfunctions: {b: {model: ./b.onnx}}\n")
    assert wanted.save().overruled == ["a"]
    assert list(wanted.functions) == ["b"]


def test_save_into_a_file_that_is_gone_changes_nothing(node_yaml: Path, store: Store) -> None:
    wanted = desired(node_yaml, store)
    wanted.remove("b")
    node_yaml.unlink()
    with pytest.raises(NotFound, match=f"{node_yaml}: No such file"):
        wanted.save()
    assert list(store.overlay()) == ["b"]


def test_save_into_a_file_that_cannot_be_replaced_names_it(
    node_yaml: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    wanted = desired(node_yaml, store)
    wanted.remove("b")
    monkeypatch.setattr("tempfile.mkstemp", denied)
    with pytest.raises(FailedPrecondition, match=f"cannot write {node_yaml}: Permission denied"):
        wanted.save()
    assert list(store.overlay()) == ["b"]


def test_without_a_file_the_command_line_wins_over_its_overlay(store: Store) -> None:
    def served(name: str) -> Desired:
        return Desired(config_for_model(Path(f"/{name}.onnx"), environ={}), store, store.add_event)

    first = served("m")
    first.remove("m")
    first.put(FunctionSpec("b", model="/b.onnx"))
    second = served("m")
    assert list(second.functions) == ["m", "b"]
    assert second.changed == ["b"]
    assert [event.subject for event in store.events(0, 10)] == ["m"]


def test_save_without_a_file_says_so(store: Store) -> None:
    wanted = Desired(load_config(None, environ={}), store, store.add_event)
    with pytest.raises(FailedPrecondition, match=r"started without a node\.yaml"):
        wanted.save()


def test_the_store_keeps_a_bounded_past(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "EVENTS_MAX", 3)
    for number in range(OBSERVATIONS_MAX + 5):
        store.observe("a", {"number": number})
    store.observe("b", {"number": -1})
    kept = [observation["number"] for observation in store.observations("a")]
    assert kept == list(range(OBSERVATIONS_MAX + 4, 4, -1))
    assert len(store.observations("b")) == 1
    for number in range(5):
        store.add_event("a", EventKind.OTHER, str(number))
    assert [event.text for event in store.events(0, 10)] == ["2", "3", "4"]


def test_specs_survive_the_store(store: Store) -> None:
    spec = FunctionSpec("a", args={"list": [1, {"x": None}]}, environment={"K": "v"})
    store.put_overlay("a", OverlayEntry(spec, None))
    assert store.overlay() == {"a": OverlayEntry(spec, None)}


def test_a_copy_has_all_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "gslice.db"
    with Store.copied(path) as empty:
        assert empty.drained() == set()
    assert list(tmp_path.iterdir()) == []
    with Store(path) as store:
        store.put_drained("cpu")
        live = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
        assert "gslice.db-wal" in live  # where it still is
        with Store.copied(path) as copy:
            assert copy.drained() == {"cpu"}
            copy.drop_drained("cpu")
        assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == live
    path.unlink()
    path.mkdir()
    with pytest.raises(FailedPrecondition, match=r"gslice\.db: Is a directory"), Store.copied(path):
        pass


def test_a_later_schema_and_garbage_are_refused(tmp_path: Path) -> None:
    later, garbage = tmp_path / "later.db", tmp_path / "garbage.db"
    database = sqlite3.connect(later)
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(FailedPrecondition, match=r"later gslice \(schema 99"):
        Store(later)
    garbage.write_bytes(b"not a database, however long it may be" * 100)
    with pytest.raises(FailedPrecondition, match="move the file away"):
        Store(garbage)


def test_a_change_that_cannot_be_kept_is_refused(node_yaml: Path, store: Store) -> None:
    wanted = desired(node_yaml, store)
    other = sqlite3.connect(node_yaml.parent / "gslice.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match=r"gslice\.db: database is locked"):
        wanted.remove("b")
    assert "b" in wanted.functions
    other.close()
    wanted.remove("b")
    assert "b" not in wanted.functions


def test_a_state_directory_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FailedPrecondition, match=r"cannot keep state in .*file/state: Not a dir"):
        StateLock(tmp_path / "file" / "state")


def test_one_daemon_a_state_directory(tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    with StateLock(state_dir):
        assert state_dir.stat().st_mode & 0o777 == 0o700
        with pytest.raises(FailedPrecondition, match=r"another daemon \(pid \d+\) runs in"):
            StateLock(state_dir)
    with StateLock(state_dir):
        pass
