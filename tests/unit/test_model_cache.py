"""The cache of fetched models: whole entries only, the oldest go first, what is used stays."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from gslice.core.errors import ResourceExhausted
from gslice.core.model_cache import CachedModel, ModelCache, digest_in, file_digest
from gslice.core.sources import content_digest
from tests.cli import gslice


@pytest.fixture
def cache(tmp_path: Path) -> ModelCache:
    return ModelCache(tmp_path / "models")


def keep(cache: ModelCache, files: dict[str, bytes], used_s_ago: float = 0.0) -> str:
    """Puts an entry into the cache, as a download does."""
    with cache.part("key") as part:
        for name, data in files.items():
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            (part / name).write_bytes(data)
        digests = {name: file_digest(part / name) for name in files}
        digest, size = content_digest(digests), sum(map(len, files.values()))
        origins = {"key": dict.fromkeys(files, "etag")}
        cache.adopt(
            part, CachedModel(digest, "s3://b/m", digests, origins=origins, size_bytes=size)
        )
    told = cache.directory / f"{digest}.json"
    used_s = told.stat().st_mtime - used_s_ago
    os.utime(told, (used_s, used_s))
    return digest


def test_an_entry_is_found_by_its_content(cache: ModelCache) -> None:
    assert cache.models() == []
    assert cache.find("0" * 64) is None
    digest = keep(cache, {"m.onnx": b"model", "w/a.bin": b"weights"})
    path = cache.find(digest)
    assert path is not None
    assert path.read_bytes() == b"model"
    assert (path.parent / "w/a.bin").read_bytes() == b"weights"
    assert digest_in(str(path)) == digest
    assert (cache.from_source("key"), cache.from_source("other")) == (digest, "")
    assert keep(cache, {"m.onnx": b"model", "w/a.bin": b"weights"}) == digest
    (entry,) = cache.models()
    assert (entry.size_bytes, list(entry.files)) == (12, ["m.onnx", "w/a.bin"])


def test_the_same_content_may_have_two_names(cache: ModelCache) -> None:
    digest = keep(cache, {"m.onnx": b"model"})
    assert keep(cache, {"other.onnx": b"model"}) == digest
    path = cache.find(digest)
    assert path is not None
    assert path.read_bytes() == b"model"


def test_a_damaged_entry_is_none(cache: ModelCache) -> None:
    digest = keep(cache, {"m.onnx": b"model"})
    path = cache.find(digest)
    assert path is not None
    path.write_bytes(b"model")  # the same again: it is read, and found to be so
    assert cache.find(digest) == path
    path.write_bytes(b"mOdel")
    assert cache.find(digest) is None
    assert cache.models() == []
    assert not path.exists()


def test_a_damaged_entry_in_use_is_replaced(cache: ModelCache) -> None:
    digest = keep(cache, {"m.onnx": b"model"})
    held, path = cache.hold(digest), cache.find(digest)
    assert held is not None
    assert path is not None
    path.write_bytes(b"mOdel")
    assert cache.find(digest) is None
    assert keep(cache, {"m.onnx": b"model"}) == digest
    os.close(held)
    assert cache.find(digest) == path
    assert path.read_bytes() == b"model"


def test_what_is_told_wrong_is_no_entry(cache: ModelCache) -> None:
    digest = keep(cache, {"m.onnx": b"model"})
    (cache.directory / f"{digest}.json").write_text(json.dumps({"other": 1}))
    assert (cache.models(), cache.find(digest)) == ([], None)


def test_what_is_in_use_stays(cache: ModelCache) -> None:
    digest = keep(cache, {"m.onnx": b"model"})
    held = cache.hold(digest)
    assert held is not None
    again = cache.hold(digest)
    assert again is not None
    assert not cache.drop(digest)
    os.close(held)
    assert not cache.drop(digest)
    os.close(again)
    assert cache.drop(digest)
    assert cache.hold(digest) is None
    assert cache.drop(digest)


def test_room_is_made_of_what_was_used_longest_ago(cache: ModelCache) -> None:
    old = keep(cache, {"m": b"o" * 40}, 300)
    older_but_used = keep(cache, {"m": b"u" * 40}, 400)
    new = keep(cache, {"m": b"n" * 10}, 0)
    held = cache.hold(older_but_used)
    assert held is not None
    with cache.alone():
        cache.make_room(10, 100)
        assert {entry.digest for entry in cache.models()} == {old, older_but_used, new}
        cache.make_room(40, 100)
        assert {entry.digest for entry in cache.models()} == {older_but_used, new}
        with pytest.raises(ResourceExhausted, match="takes 100 B: no room for 101 B"):
            cache.make_room(101, 100)
        assert {entry.digest for entry in cache.models()} == {older_but_used, new}
        with pytest.raises(ResourceExhausted, match="of which 40 B is in use: no room for 61 B"):
            cache.make_room(61, 100)
    os.close(held)


def test_every_file_of_an_entry_counts(cache: ModelCache) -> None:
    keep(cache, {"samples.json": b"s" * 40, "w/more.json": b"m" * 5})
    assert cache.size_bytes() == 45


def test_downloads_count_and_leave_nothing(cache: ModelCache) -> None:
    with cache.part("key") as part, cache.alone():
        with (part / "m").open("wb") as file:
            file.truncate(80)
        cache.sweep()  # it is under way
        with pytest.raises(ResourceExhausted):
            cache.make_room(30, 100)
    (cache.directory / "key.1.part").mkdir()
    cache.sweep()
    assert [path.name for path in cache.directory.iterdir()] == ["lock"]


def test_models_are_listed_and_pruned(
    cache: ModelCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GSLICE_CACHE_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    keep(cache, {"m": b"o" * 40}, 10 * 86_400)
    used = keep(cache, {"m": b"u" * 40}, 9 * 86_400)
    keep(cache, {"m": b"n" * 10})
    listed = gslice("cache", "ls").stdout.splitlines()
    assert listed[-1] == f"3 models, 90 B, in {cache.directory}"
    assert len(json.loads(gslice("cache", "ls", "--json").stdout)["models"]) == 3
    held = cache.hold(used)
    assert held is not None
    dry = gslice("cache", "prune", "--unused-for", "72h", "--dry-run").stdout
    assert dry.splitlines()[-1] == "1 model, 40 B would be freed"
    told = gslice("cache", "prune", "--unused-for", "72h").stdout
    assert told.splitlines()[-1] == "1 model, 40 B freed"
    gslice("cache", "prune", "--all")
    assert [entry.digest for entry in cache.models()] == [used]
    os.close(held)
    (tmp_path / "node.yaml").write_text("version: 1\nnode: {model_cache: {dir: other}}\n")
    assert f"0 models, 0 B, in {tmp_path / 'other'}" in gslice("cache", "ls").stdout
