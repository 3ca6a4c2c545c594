"""Functions whose models are fetched: pinned, kept, bounded, and ready only when samples ran."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import models
from tests.fakes.stores import Store, serving
from tests.node import Node, in_background
from tests.process.gpu import events

Stages = list[tuple[str, str]]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Serves two models of one signature, and samples for them."""
    first = models.identity(tmp_path, "INT64", ("N", 1)).read_bytes()
    with serving(Store()) as store:
        store.objects["/a.onnx"] = first
        store.objects["/b.onnx"] = first + b"\x1a\x01b"  # doc_string: "b"
        yield store


def sha256(store: Store, path: str) -> str:
    return hashlib.sha256(store.objects[path]).hexdigest()


def load(node: Node, body: dict[str, Any] | None = None, name: str = "f") -> Stages:
    with node.control() as control:
        text = json.dumps(body) if body else ""
        return [(stage.name, stage.detail) for stage in control.load(name, text)]


def answer(node: Node) -> int:
    return int(node.client().infer("f", {"x": np.full((1, 1), 7, np.int64)})["y"][0, 0])


def cached(node: Node) -> set[str]:
    return {path.stem for path in (node.directory / "models").glob("*.json")}


def test_a_model_is_fetched_kept_and_pinned(start_node, store: Store) -> None:
    url, first, second = f"{store.url}/a.onnx", *(sha256(store, f"/{n}.onnx") for n in "ab")
    cache = {"model_cache": {"dir": "models", "max": "64KiB"}}
    node = start_node({"f": {"model": url}}, node=cache)
    assert answer(node) == 7
    found = node.function("f")
    assert (found.fetched_from, found.fetched_sha256) == (url, first)

    # A restart needs no server, and what is there now does not matter.
    asked = len(store.asked)
    node.stop()
    store.objects["/a.onnx"] = store.objects["/b.onnx"]
    node.start()
    assert (answer(node), node.function("f").version) == (7, "1")
    assert len(store.asked) == asked

    # An order takes what is there now, as another version; a rollback needs no server.
    assert [stage for stage, _ in load(node)][:3] == ["plan", "fetch", "start"]
    assert (node.function("f").version, node.function("f").fetched_sha256) == ("2", second)
    with node.control() as control:
        assert [v.sha256 for v in control.versions("f").versions] == [second, first]
        asked = len(store.asked)
        assert list(control.rollback("f"))[-1].name == "done"
    assert (answer(node), node.function("f").fetched_sha256) == (7, first)
    assert len(store.asked) == asked
    with node.control() as control:
        assert list(control.rollback("f", "latest"))[-1].name == "done"
        changed = {change.path for change in control.diff().changes}
    assert changed == set()  # the file's URL is what is wanted

    # Another content than is pinned is refused, and the old one serves on.
    for pin, outcome in (("0" * 64, "failed"), (second, "done")):
        stages = load(node, {"model": f"{url}#sha256={pin}"})
        assert stages[-1][0] == outcome, stages
        assert answer(node) == 7
    assert f"sha256 {second}, not {'0' * 64}" in events(node)

    # The bound is kept, and what serves stays.
    for size_kib, outcome in ((20, "done"), (30, "done"), (25, "done"), (45, "failed")):
        padding = size_kib << 10
        store.objects["/c.onnx"] = padded(store.objects["/b.onnx"], padding)
        stages = load(node, {"model": f"{store.url}/c.onnx"})
        assert stages[-1][0] == outcome, stages
        assert (node.function("f").state, answer(node)) == ("READY", 7)
        assert sum(p.stat().st_size for p in (node.directory / "models").rglob("*.onnx")) <= 65_536
    assert "raise node.model_cache.max" in stages[-1][1]
    assert first not in cached(node)
    leftovers = [*(node.directory / "models").glob("*.part")]
    assert leftovers == []


def padded(model: bytes, size: int) -> bytes:
    """The same model with a doc_string that is so long."""
    length, varint = size, b""
    while length:
        varint += bytes([(length & 0x7F) | (0x80 if length >> 7 else 0)])
        length >>= 7
    return model + b"\x32" + varint + b" " * size


def test_what_is_gone_must_come_again_as_it_was(start_node, store: Store) -> None:
    url, first = f"{store.url}/a.onnx", sha256(store, "/a.onnx")
    node = start_node({"f": {"model": url}}, node={"model_cache": {"dir": "models"}})
    node.stop()
    for path in (node.directory / "models").glob("*.json"):
        path.unlink()
    store.objects["/a.onnx"] = store.objects["/b.onnx"]
    node.start()
    found = node.function("f")
    assert (found.state, "not what was loaded before" in found.reason) == ("FAILED", True)
    assert f"not {first}" in found.reason
    assert load(node)[-1][0] == "done"
    assert node.function("f").fetched_sha256 == sha256(store, "/a.onnx")


def test_loads_share_a_download_and_its_progress_is_seen(start_node, store: Store) -> None:
    store.objects["/a.onnx"] = padded(store.objects["/a.onnx"], 20 << 20)
    size = len(store.objects["/a.onnx"])
    gate, began = threading.Event(), threading.Event()

    def hold(asked: str) -> None:
        if asked == "GET /a.onnx" and store.fetched("/a.onnx") == 2:  # the second block
            began.set()
            assert gate.wait(60)

    store.on_request = hold
    node = start_node({}, node={"model_cache": {"dir": "models"}})
    body = {"model": f"{store.url}/a.onnx"}
    loads = [in_background(lambda name=name: load(node, body, name)) for name in ("f", "g")]
    assert began.wait(60)
    shown = node.wait_function("g", lambda found: "of 20.0 MiB" in found.reason)
    assert re.search(r"fetches http://.*/a.onnx: 8.0 MiB of 20.0 MiB, 40%", shown.reason)
    node.wait_function("f", lambda found: "of 20.0 MiB" in found.reason)
    gate.set()
    assert [done.result(60)[-1][0] for done in loads] == ["done", "done"]
    assert store.fetched("/a.onnx") == -(-size // (8 << 20))


def test_a_function_is_ready_when_its_samples_have_run(
    start_node, store: Store, zoo, tmp_path: Path
) -> None:
    samples = {f"{n}/x": np.full((1, 1), n, np.int64) for n in range(3)}
    np.savez(tmp_path / "good.npz", **samples)
    np.savez(tmp_path / "bad.npz", **samples, **{"3/x": np.full((1, 1), -1, np.int64)})
    for name in ("good", "bad"):
        store.objects[f"/{name}.npz"] = (tmp_path / f"{name}.npz").read_bytes()
    body = zoo("Raises", warmup=f"{store.url}/good.npz")
    node = start_node({"f": body}, node={"model_cache": {"dir": "models"}})
    assert node.function("f").state == "READY"
    stages = load(node, {**body, "warmup": f"{store.url}/bad.npz"})
    assert stages[-1][0] == "failed"
    assert re.search(r"function f fails with sample 4 of .*bad.npz: ValueError: ", stages[-1][1])
    assert node.function("f").state == "READY"
    counted = {"samples": f"{store.url}/bad.npz", "count": 3}
    assert load(node, {**body, "warmup": counted})[-1][0] == "done"
