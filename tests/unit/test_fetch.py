"""Downloads: whole and as they must be, from each kind of place, however the server behaves."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from gslice.core.errors import (
    FailedPrecondition,
    GsliceError,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
    from_code,
)
from gslice.core.model_cache import ModelCache
from gslice.core.sources import Source
from gslice.fetch.__main__ import fetch
from gslice.fetch.download import TRIES, Download
from gslice.fetch.remote import open_remote
from gslice.ipc.codec import to_json
from gslice.ipc.fetching import Fetched, FetchNews, FetchOrder
from tests.fakes.stores import Store, serving

DATA = bytes(range(256)) * 40
DIGEST = hashlib.sha256(DATA).hexdigest()
MAX_BYTES = 1 << 20


@pytest.fixture(scope="module")
def server() -> Iterator[Store]:
    with serving(Store()) as store:
        yield store


@pytest.fixture
def store(server: Store) -> Store:
    """The one server, with nothing in it."""
    fresh = Store(address=server.address)
    vars(server).update(vars(fresh))
    return server


class Fetcher:
    """Carries orders out in this process, without waiting between tries."""

    def __init__(self, directory: Path) -> None:
        self.cache = ModelCache(directory)
        self.news: list[FetchNews] = []
        self.waited: list[float] = []

    def __call__(self, url: str, digest: str = "", **order: Any) -> Fetched:
        source = Source.parse(url)
        wanted = {"pinned": bool(source.digest), "with_data": True, "max_bytes": MAX_BYTES}
        wanted |= {"digest": digest or source.digest, **order}
        made = FetchOrder(source.url, directory=str(self.cache.directory), **wanted)
        download = Download(made, source, open_remote(source), self.news.append, self.waited.append)
        return download.run()

    def read(self, digest: str) -> bytes:
        path = self.cache.find(digest)
        assert path is not None
        return path.read_bytes()

    @property
    def left(self) -> list[str]:
        """What lies in the cache beside whole entries."""
        known = {entry.digest for entry in self.cache.models()}
        names = {path.name.removesuffix(".json") for path in self.cache.directory.iterdir()}
        return sorted(names - known - {"lock"})


@pytest.fixture
def fetcher(tmp_path: Path) -> Fetcher:
    return Fetcher(tmp_path / "models")


# ---- over HTTP ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ranges", [True, False])
def test_a_file_comes_whole(store: Store, fetcher: Fetcher, ranges: bool) -> None:
    store.ranges = ranges
    store.objects["/m.bin"] = DATA
    done = fetcher(f"{store.url}/m.bin")
    assert (done, fetcher.read(DIGEST)) == (Fetched(DIGEST), DATA)
    assert fetcher.news[-1] == FetchNews(len(DATA), len(DATA))
    assert fetcher.left == []
    path = fetcher.cache.find(DIGEST)
    assert path is not None
    assert (path.name, path.stat().st_mode & 0o777) == ("m.bin", 0o444)


def test_what_has_not_changed_is_not_fetched_again(store: Store, fetcher: Fetcher) -> None:
    store.objects["/m.bin"] = DATA
    url = f"{store.url}/m.bin"
    fetcher(url)
    gets = store.fetched("/m.bin")
    assert fetcher(url) == Fetched(DIGEST, was_there=True)
    assert store.fetched("/m.bin") == gets
    store.objects["/m.bin"] = DATA + b"more"
    changed = fetcher(url)
    assert (changed.was_there, fetcher.read(changed.digest)) == (False, DATA + b"more")
    store.objects["/m.bin"] = DATA
    assert fetcher(url).digest == DIGEST
    store.etags = False
    assert not fetcher(f"{store.url}/m.bin").was_there


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_download_goes_on(store: Store, fetcher: Fetcher, ranges: bool) -> None:
    store.ranges = ranges
    store.objects["/m.bin"] = DATA
    store.on_request = lambda asked: (
        store.cut_after.append(5000) if asked.startswith("GET") and not fetcher.waited else None
    )
    assert fetcher(f"{store.url}/m.bin") == Fetched(DIGEST)
    assert fetcher.waited
    assert any(news.trouble for news in fetcher.news)


def test_tries_have_an_end(store: Store, fetcher: Fetcher) -> None:
    store.objects["/m.bin"] = DATA
    store.statuses = [503] * 100
    with pytest.raises(Unavailable, match=r"/m.bin cannot be fetched now: .*503"):
        fetcher(f"{store.url}/m.bin")
    assert len(fetcher.waited) == TRIES - 1
    assert all(0 < wait < 6 for wait in fetcher.waited)


@pytest.mark.parametrize(
    ("status", "kind"), [(403, PermissionDenied), (401, PermissionDenied), (404, NotFound)]
)
def test_what_will_not_get_better_is_not_tried_again(
    store: Store, fetcher: Fetcher, status: int, kind: type[GsliceError]
) -> None:
    store.statuses = [status] * 2
    with pytest.raises(kind, match=r"m.bin"):
        fetcher(f"{store.url}/m.bin?token=secret")
    assert fetcher.waited == []


def test_no_secret_is_told(store: Store, fetcher: Fetcher) -> None:
    store.statuses = [500] * 100
    with pytest.raises(Unavailable) as told:
        fetcher(f"{store.url}/m.bin?token=secret")
    assert "secret" not in str(told.value)
    assert not any("secret" in news.trouble for news in fetcher.news)


def test_another_content_than_pinned_is_refused(store: Store, fetcher: Fetcher) -> None:
    store.objects["/m.bin"] = DATA + b"!"
    with pytest.raises(FailedPrecondition, match=rf"not what it is pinned to: .*, not {DIGEST}"):
        fetcher(f"{store.url}/m.bin#sha256={DIGEST}")
    with pytest.raises(FailedPrecondition, match="not what was loaded before") as told:
        fetcher(f"{store.url}/m.bin", digest=DIGEST)
    assert "gslice load" in told.value.hint
    assert fetcher.cache.models() == []
    assert fetcher.left == []


def test_the_bound_is_kept(store: Store, fetcher: Fetcher) -> None:
    for name in ("a", "b", "c"):
        store.objects[f"/{name}.bin"] = name.encode() * 400
    digests = [fetcher(f"{store.url}/{name}.bin", max_bytes=900).digest for name in ("a", "b", "c")]
    assert {entry.digest for entry in fetcher.cache.models()} == set(digests[1:])
    held = fetcher.cache.hold(digests[1]), fetcher.cache.hold(digests[2])
    with pytest.raises(ResourceExhausted, match=r"800 B is in use: no room for 400 B"):
        fetcher(f"{store.url}/a.bin", max_bytes=900)
    for descriptor in held:
        assert descriptor is not None
        os.close(descriptor)
    assert fetcher.left == []


def test_weights_come_along(store: Store, fetcher: Fetcher, tmp_path: Path) -> None:
    weights = np.arange(600, dtype=np.float32)
    tensor = onnx.numpy_helper.from_array(weights, "w")
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [value("x", onnx.TensorProto.FLOAT, [600])],
        [value("y", onnx.TensorProto.FLOAT, [600])],
        [tensor],
    )
    onnx.save_model(
        onnx.helper.make_model(graph),
        str(tmp_path / "m.onnx"),
        save_as_external_data=True,
        location="m.data",
        size_threshold=0,
    )
    for name in ("m.onnx", "m.data"):
        store.objects[f"/v1/{name}"] = (tmp_path / name).read_bytes()
    url = f"{store.url}/v1/m.onnx"
    done = fetcher(url)
    path = fetcher.cache.find(done.digest)
    assert path is not None
    assert (path.parent / "m.data").read_bytes() == (tmp_path / "m.data").read_bytes()
    assert fetcher(url).was_there
    store.objects["/v1/m.data"] = bytes(2400)  # other weights under the same model
    again = fetcher(url)
    assert (again.was_there, again.digest != done.digest) == (False, True)
    del store.objects["/v1/m.data"]
    with pytest.raises(NotFound, match=r"m.data"):
        fetcher(url)


def test_weights_elsewhere_are_refused(
    store: Store, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.objects["/m.onnx"] = DATA
    monkeypatch.setattr("gslice.fetch.download.external_files", lambda path: ["../../secret"])
    with pytest.raises(FailedPrecondition, match=r"keeps weights in '../../secret', outside"):
        fetcher(f"{store.url}/m.onnx")
    assert fetcher.left == []


# ---- other places ------------------------------------------------------------------------------


def test_s3(store: Store, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.url)
    store.objects["/bucket/a/m.bin"] = DATA
    assert fetcher("s3://bucket/a/m.bin") == Fetched(DIGEST)
    assert fetcher("s3://bucket/a/m.bin").was_there
    with pytest.raises(NotFound, match=r"there is no s3://bucket/a/other"):
        fetcher("s3://bucket/a/other")


def test_hugging_face(store: Store, tmp_path: Path) -> None:
    store.publish("org/repo", {"m.bin": DATA})
    answer = in_process(tmp_path, "hf://org/repo/m.bin", HF_ENDPOINT=store.url, HF_HUB_OFFLINE="0")
    assert answer == Fetched(DIGEST)
    fixed = "hf://org/repo@" + "c" * 40 + "/m.bin"
    assert in_process(tmp_path, fixed, HF_ENDPOINT=store.url).digest == DIGEST
    missing = in_process(tmp_path, "hf://org/repo/no.bin", HF_ENDPOINT=store.url)
    assert isinstance(from_code(missing.code, missing.message), NotFound)


def test_a_registry(store: Store, fetcher: Fetcher) -> None:
    digest = store.push("models/a", "v1", {"m.onnx": DATA, "readme.md": b"hello"})
    at = f"oci://{store.address}/models/a"
    assert fetcher(f"{at}:v1") == Fetched(DIGEST)
    assert fetcher(f"{at}@{digest}") == Fetched(DIGEST)
    assert fetcher(f"{at}@{digest}").was_there
    assert fetcher(f"{at}:v1/readme.md").digest == hashlib.sha256(b"hello").hexdigest()
    with pytest.raises(NotFound, match=r"has no file other.onnx .*files: m.onnx, readme.md"):
        fetcher(f"{at}:v1/other.onnx")
    with pytest.raises(NotFound, match="no its manifest"):
        fetcher(f"{at}:v2")
    store.push("models/a", "two", {"m.onnx": DATA, "n.onnx": DATA})
    with pytest.raises(FailedPrecondition, match=r"holds 2 models: say which .*/FILE"):
        fetcher(f"{at}:two")


def test_a_registry_that_sends_something_else(store: Store, fetcher: Fetcher) -> None:
    digest = store.push("models/a", "v1", {"m.onnx": DATA})
    at = f"oci://{store.address}/models/a"
    store.objects[f"/v2/models/a/blobs/sha256:{DIGEST}"] = bytes(len(DATA))
    with pytest.raises(FailedPrecondition, match=r"m\.onnx came damaged"):
        fetcher(f"{at}:v1")
    store.objects[f"/v2/models/a/manifests/{digest}"] += b" "
    with pytest.raises(FailedPrecondition, match="its manifest came damaged"):
        fetcher(f"{at}@{digest}")
    assert fetcher.left == []


@pytest.mark.parametrize(
    ("url", "package", "extra"),
    [
        ("s3://b/m.onnx", "s3fs", "s3"),
        ("gs://b/m.onnx", "gcsfs", "gcs"),
        ("hf://o/r/m.onnx", "huggingface_hub", "hf"),
        ("oci://h/m:v", "oras", "oci"),
        ("https://h/m.onnx", "fsspec", "https"),
    ],
)
def test_a_missing_package_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str, package: str, extra: str
) -> None:
    registry = importlib.import_module("fsspec.registry")
    monkeypatch.delitem(registry._registry, url.partition(":")[0], raising=False)
    for name in {package, *(n for n in sys.modules if n.partition(".")[0] == package)}:
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("gslice.fetch.filesystem", "gslice.fetch.oci"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    order = FetchOrder(url, "", False, False, str(tmp_path), MAX_BYTES)
    answer = fetch(order, lambda news: None)
    assert answer.hint == f"pip install 'gslice[{extra}]'"
    assert answer.message.startswith(f"{url.partition(':')[0]}:// needs ")


# ---- the process -------------------------------------------------------------------------------


def in_process(directory: Path, url: str, **environment: str) -> Fetched:
    """Fetches by a process of its own, as the daemon does."""
    source = Source.parse(url)
    order = FetchOrder(source.url, source.digest, True, False, str(directory), MAX_BYTES)
    with ordered(order, **environment) as (process, ours), ours.makefile() as lines:
        said = lines.readlines()
        assert process.wait(60) == 0
    return Fetched(**json.loads(said[-1])["done"])


@contextlib.contextmanager
def ordered(
    order: FetchOrder, **environment: str
) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
    """A process that has got an order, and our end of its socket."""
    ours, theirs = socket.socketpair()
    command = shlex.join([sys.executable, "-P", "-m", "gslice.fetch"])
    with theirs:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command} 3<&{theirs.fileno()}"],
            pass_fds=[theirs.fileno()],
            env={**os.environ, **environment},
        )
    with process, ours:
        ours.sendall(json.dumps(to_json(order)).encode() + b"\n")
        yield process, ours


def test_it_ends_with_its_daemon(store: Store, tmp_path: Path) -> None:
    store.objects["/m.bin"] = DATA
    asked, gone = threading.Event(), threading.Event()

    def hold(_asked: str) -> None:
        asked.set()
        assert gone.wait(60)

    store.on_request = hold
    order = FetchOrder(f"{store.url}/m.bin", "", False, False, str(tmp_path), MAX_BYTES)
    with ordered(order) as (process, ours):
        assert asked.wait(60)
        ours.close()
        assert process.wait(60) == 1
    gone.set()
