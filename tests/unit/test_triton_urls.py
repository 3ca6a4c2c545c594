"""Model repositories at a URL: what is fetched of them, and what functions name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from gslice.core.config import load_config
from gslice.core.errors import (
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from gslice.fetch import outline as fetching
from gslice.fetch.outline import Outline
from gslice.triton.node import Repositories, node_config
from gslice.triton.outline import opened
from tests.cli import failing, gslice
from tests.fakes.stores import Store, serving

pytestmark = pytest.mark.usefixtures("here")

CONFIG = b"""max_batch_size: 4
input { name: "x" data_type: TYPE_FP32 dims: 2 }
output { name: "y" data_type: TYPE_FP32 dims: 2 }
model_warmup { inputs { key: "x" value { data_type: TYPE_FP32 dims: 2 input_data_file: "raw" } } }
"""
FILES = {
    "det/config.pbtxt": CONFIG,
    "det/warmup/raw": bytes(range(8)),
    "det/2/model.onnx": b"x" * 1000,
    "det/1/model.onnx": b"old",
    "big model/1/model.onnx": b"its name is no function's",
    "deep/3/model.onnx/model.onnx": b"with weights",
    "deep/3/model.onnx/weights.bin": b"weights",
    "code/1/model.py": b"class A:\n    def infer(self): pass\n",
    "notes.txt": b"no model",
}


@pytest.fixture(scope="module")
def server() -> Iterator[Store]:
    with serving(Store()) as store:
        yield store


@pytest.fixture
def url(server: Store, monkeypatch: pytest.MonkeyPatch) -> str:
    server.objects = {f"/bucket/models/{name}": data for name, data in FILES.items()}
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    return "s3://bucket/models"


def configured(url: str) -> tuple[dict[str, str], Repositories]:
    where = {"XDG_STATE_HOME": os.environ["XDG_STATE_HOME"]}
    config, read = node_config([url], None, find_gpus=tuple, environ=where)
    return {name: spec.model for name, spec in config.functions.items()}, read


def test_models_are_functions_with_urls(
    url: str, server: Store, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, read = configured(f"{url}/")
    assert models == {
        "deep": "s3://bucket/models/deep/3/model.onnx/model.onnx",
        "det": "s3://bucket/models/det/2/model.onnx",
    }
    assert state_dir.stat().st_mode & 0o777 == 0o700
    (sample,) = read.samples["det"]
    assert sample["x"].tobytes() == bytes(range(8))
    refused = {each.model: each.reason for each in read.refused}
    assert refused.keys() == {"big model", "code"}
    assert refused["code"] == "s3://bucket/models/code/1/model.py is code, and no code is fetched"
    assert not any(server.fetched(path) for path in server.objects if path.endswith(".onnx"))

    # The place is out of reach: a restart goes by what was there.
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    again, read = configured(url)
    assert again == models
    assert "its models are those of" in read.stale[0]
    with pytest.raises(Unavailable):
        configured("s3://bucket/others")


def test_import_writes_urls(url: str, here: Path) -> None:
    shown = gslice("import", "triton", url).stdout
    assert shown.splitlines()[-1] == "wrote node.yaml with 2 functions"
    functions = load_config(here / "node.yaml", environ={}).functions
    assert functions["det"].model == "s3://bucket/models/det/2/model.onnx"
    assert functions["det"].warmup == str(here / "warmup/det.npz")
    assert failing("import", "triton", "s3://bucket/none", "-o", "other.yaml")[0].startswith(
        "error: there is no s3://bucket/none"
    )


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("https://host/models", "nobody there tells which models there are"),
        ("oci://host/models", "nobody there tells"),
        (f"s3://bucket/models#sha256={'0' * 64}", "a pin is of one file"),
        ("s3://user:key@bucket/models", "holds credentials"),
        ("ftp://host/models", "nothing is fetched from there"),
    ],
)
def test_urls_that_are_no_repositories(place: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=told):
        opened(place, tmp_path, pytest.fail)


# ---- what is fetched -----------------------------------------------------------------------------


@pytest.fixture
def outline(tmp_path: Path) -> Outline:
    memory = fsspec.filesystem("memory", skip_instance_cache=True)
    memory.store, memory.pseudo_dirs = {}, [""]  # of its own: those of the class are everybody's
    folder = tmp_path / "outline"
    folder.mkdir()
    return Outline(memory, "memory://models", folder)


def put(outline: Outline, name: str, data: bytes = b"") -> None:
    outline.filesystem.pipe_file(f"/models/{name}", data)


def test_an_outline_has_names_and_what_is_read(outline: Outline) -> None:
    for name, data in FILES.items():
        put(outline, name, data)
    put(outline, "det/.git/config", b"hidden")
    put(outline, "det/extra/file", b"not of the layout")
    outline.make()
    found = {
        path.relative_to(outline.folder).as_posix(): path.read_bytes()
        for path in outline.folder.rglob("*")
        if path.is_file()
    }
    assert found == {
        "det/config.pbtxt": CONFIG,
        "det/warmup/raw": bytes(range(8)),
        "det/2/model.onnx": b"",
        "det/1/model.onnx": b"",
        "big model/1/model.onnx": b"",
        "deep/3/model.onnx/model.onnx": b"",
        "deep/3/model.onnx/weights.bin": b"",
        "code/1/model.py": b"",
    }


def test_what_is_no_repository_ends_early(
    outline: Outline, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(outline, "det/config.pbtxt", bytes((1 << 20) + 1))
    with pytest.raises(ResourceExhausted, match="larger than is read of a repository"):
        outline.make()
    monkeypatch.setattr(fetching, "_ENTRIES_MAX", 1)
    again = outline.folder / "again"
    again.mkdir()
    with pytest.raises(ResourceExhausted, match="more than 1 files"):
        Outline(outline.filesystem, outline.url, again).make()


def test_errors_say_where(outline: Outline) -> None:
    with pytest.raises(NotFound, match="there is no memory://models"):
        outline.make()
