"""What a daemon records of versions, and how it tells one model's files from another's."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from gslice.control.versions import restored
from gslice.core import digests
from gslice.core.digests import digest_of
from gslice.core.errors import FailedPrecondition, NotFound
from gslice.core.onnx_files import external_files
from gslice.core.types import FunctionSpec, VersionPolicy
from gslice.daemon import fingerprint
from gslice.daemon import store as store_module
from gslice.daemon.fingerprint import Fingerprints
from gslice.daemon.store import SCHEMA_VERSION, Store
from gslice.daemon.versions import Versions
from gslice.supervise.versions import Resolved
from tests import models

SPEC = FunctionSpec("f", engine="identity")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "gslice.db") as opened:
        yield opened


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def versions(store: Store, told: list[str]) -> Versions:
    return Versions(store, lambda subject, kind, text: told.append(text))


def serve(versions: Versions, spec: FunctionSpec) -> str:
    resolved = asyncio.run(versions.resolve(spec, lambda _: False))
    versions.served(resolved)
    return resolved.spec.version


def fingerprint_of(store: Store, spec: FunctionSpec) -> str:
    return asyncio.run(Fingerprints(store).of(spec))


# ---- records -----------------------------------------------------------------------------------


def test_a_model_gets_its_number_again(versions: Versions, tmp_path: Path, told: list[str]) -> None:
    path = tmp_path / "m"
    path.write_text("one")
    spec = dataclasses.replace(SPEC, model=str(path))
    assert [serve(versions, spec), serve(versions, spec)] == ["1", "1"]
    path.write_text("two")
    assert serve(versions, spec) == "2"
    path.write_text("one")
    assert serve(versions, spec) == "1"
    assert [text.partition(":")[0] for text in told] == [
        *("version 1 serves", "version 2 serves", "version 1 serves again")
    ]


def test_a_model_gets_its_own_number_unless_another_has_it(
    versions: Versions, tmp_path: Path, told: list[str]
) -> None:
    path = tmp_path / "m"
    path.write_text("one")
    own = dataclasses.replace(SPEC, model=str(path), versions=VersionPolicy(number=3))
    assert [serve(versions, own), serve(versions, own)] == ["3", "3"]
    path.write_text("two")
    assert serve(versions, own) == "4"
    assert told[-1].endswith("; its own number, 3, is another model's")
    assert serve(versions, dataclasses.replace(SPEC, model=str(path))) == "4"
    path.write_text("one")
    assert serve(versions, own) == "3"


def test_what_only_was_resolved_has_not_served(versions: Versions) -> None:
    resolved = asyncio.run(versions.resolve(SPEC, lambda _: False))
    assert not versions.has_served(resolved.spec)
    assert versions.recorded("f") == []


def test_a_pin_brings_the_recorded_model_back(versions: Versions, tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_text("one")
    first = dataclasses.replace(SPEC, model=str(path))
    serve(versions, first)
    serve(versions, SPEC)
    pinned = dataclasses.replace(SPEC, batch_max=7, versions=VersionPolicy(1, "1"))
    resolved = asyncio.run(versions.resolve(pinned, lambda _: False))
    assert resolved.spec == restored(pinned, versions.find("f", "1")) == versions.likely(pinned)
    assert (resolved.spec.model, resolved.spec.batch_max) == (str(path), 7)
    path.write_text("changed")
    with pytest.raises(FailedPrecondition, match="version 1 cannot be loaded again") as error:
        asyncio.run(versions.resolve(pinned, lambda _: False))
    assert "gslice versions f" in error.value.hint
    assert asyncio.run(versions.resolve(pinned, lambda _: True)) == resolved
    path.unlink()
    with pytest.raises(FailedPrecondition, match="have changed or are gone"):
        asyncio.run(versions.resolve(pinned, lambda _: False))


def test_a_pin_to_nothing_is_refused(versions: Versions) -> None:
    pinned = dataclasses.replace(SPEC, versions=VersionPolicy(1, "3"))
    with pytest.raises(NotFound, match="function f has no version 3"):
        asyncio.run(versions.resolve(pinned, lambda _: False))
    assert versions.likely(pinned) == pinned


def test_what_is_adopted_without_a_record_gets_one(versions: Versions) -> None:
    adopted = dataclasses.replace(SPEC, version="41")
    asyncio.run(versions.record_adopted(adopted))
    assert [version.number for version in versions.recorded("f")] == [41]
    assert serve(versions, SPEC) == "41"
    assert serve(versions, dataclasses.replace(SPEC, args={"other": 1})) == "42"


def test_records_are_bounded_and_no_number_comes_twice(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "VERSIONS_MAX", 3)
    for number in (1, 2, 3, 4, 5):
        store.put_version(number, SPEC, str(number))
    assert [version.number for version in store.versions("f")] == [5, 4, 3]
    for number in (4, 3, 2):
        store.put_version(number, SPEC, str(number))
    assert [version.number for version in store.versions("f")] == [5, 4, 3, 2]
    first, *_ = store.versions("f")
    assert first.first_served_s == first.served_s
    store.put_version(5, SPEC, "5")
    assert store.versions("f")[0].first_served_s == first.first_served_s
    assert store.versions("f")[0].served_s > first.served_s
    assert store.versions("g") == []


def test_a_database_without_versions_is_brought_up(tmp_path: Path) -> None:
    path = tmp_path / "gslice.db"
    with Store(path) as store:
        store.observe("f", {"of": "kept"})
    with sqlite3.connect(path) as db:
        db.executescript(
            "DROP TABLE version; DROP TABLE digest; DROP TABLE profile; DROP TABLE drained;"
            " PRAGMA user_version = 2"
        )
    with Store(path) as store:
        store.put_version(1, SPEC, "x")
        assert [version.number for version in store.versions("f")] == [1]
        assert store.observations("f") == [{"of": "kept"}]
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)


def test_versions_that_cannot_be_recorded_stop_nothing(
    versions: Versions, store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with sqlite3.connect(tmp_path / "gslice.db") as held:
        held.execute("BEGIN EXCLUSIVE")
        versions.served(Resolved(SPEC, "x"))
        held.rollback()
    assert versions.recorded("f") == []


# ---- fingerprints --------------------------------------------------------------------------------


def test_a_file_is_read_once_for_each_content(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m"
    path.write_bytes(b"a" * 100)
    reads: list[Path] = []

    def counted(path: Path) -> str:
        assert threading.current_thread() is not threading.main_thread()
        reads.append(path)
        return digest_of(path)

    monkeypatch.setattr(fingerprint, "digest_of", counted)
    spec = dataclasses.replace(SPEC, model=str(path))
    first = fingerprint_of(store, spec)
    assert fingerprint_of(store, spec) == first
    assert len(reads) == 1
    stat = path.stat()
    path.write_bytes(b"b" * 100)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as some tools do
    assert fingerprint_of(store, spec) != first
    path.write_bytes(b"a" * 100)
    assert fingerprint_of(store, spec) == first
    path.rename(tmp_path / "n")
    (tmp_path / "n").rename(path)
    assert fingerprint_of(store, spec) == first
    assert fingerprint_of(store, dataclasses.replace(spec, args={"tag": 1})) != first
    assert fingerprint_of(store, dataclasses.replace(spec, batch_max=3)) == first


def test_large_files_are_hashed_part_by_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "_PART_BYTES", 1000)
    monkeypatch.setattr(digests, "_READ_BYTES", 300)
    path = tmp_path / "m"
    content = np.random.default_rng(1).bytes(12_345)
    path.write_bytes(content)
    whole = digest_of(path)
    for at in (0, 999, 1000, 5_432, 12_344):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        assert digest_of(path) != whole, at
    path.write_bytes(content[:-1])
    assert digest_of(path) != whole
    path.write_bytes(content)
    assert digest_of(path) == whole


def test_what_is_no_file_is_not_waited_for(store: Store, tmp_path: Path) -> None:
    fifo = tmp_path / "m.onnx"
    os.mkfifo(fifo)
    spec = dataclasses.replace(SPEC, engine="onnxruntime", model=str(fifo))
    of_fifo = fingerprint_of(store, spec)
    fifo.unlink()
    assert of_fifo == fingerprint_of(store, spec)  # as if there were none


@pytest.mark.parametrize("place", ["m.py", "m/__init__.py", "sub/m.py"])
def test_code_is_part_of_it(store: Store, tmp_path: Path, place: str) -> None:
    code = tmp_path / place
    code.parent.mkdir(exist_ok=True)
    code.write_text("one")
    module = "sub.m" if place.startswith("sub") else "m"
    spec = FunctionSpec("f", engine="python", python=f"{module}:C", python_path=str(tmp_path))
    first = fingerprint_of(store, spec)
    code.write_text("two")
    assert fingerprint_of(store, spec) != first


def test_weights_beside_an_onnx_model_are_part_of_it(store: Store, tmp_path: Path) -> None:
    path = models.affine(tmp_path)
    assert external_files(path) == []
    model = onnx.load(path)
    onnx.save(
        model,
        path,
        save_as_external_data=True,
        all_tensors_to_one_file=False,
        size_threshold=0,
    )
    assert external_files(path) == ["bias", "weight"]
    spec = FunctionSpec("f", model=str(path))
    first = fingerprint_of(store, spec)
    data = tmp_path / "weight"
    data.write_bytes(data.read_bytes()[::-1])
    assert fingerprint_of(store, spec) != first


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty"])
def test_what_is_no_onnx_model_has_no_weights(tmp_path: Path, damage: str) -> None:
    path = models.affine(tmp_path)
    content = path.read_bytes()
    wrong: dict[str, Any] = {"cut": content[: len(content) // 2], "garbage": b"\xff" * 99}
    path.write_bytes(wrong.get(damage, b""))
    assert external_files(path) == []
