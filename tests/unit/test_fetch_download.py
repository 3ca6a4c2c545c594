"""A download from a place that misbehaves, without a server."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gslice.core.errors import NotFound, ResourceExhausted, Unavailable
from gslice.core.model_cache import ModelCache
from gslice.core.sources import Source
from gslice.fetch.download import Download
from gslice.fetch.remote import RemoteFile
from gslice.ipc.fetching import Fetched, FetchOrder

DATA = bytes(range(256)) * 40
DIGEST = hashlib.sha256(DATA).hexdigest()


class Here:
    """A place that misbehaves as told."""

    def __init__(self, read: Callable[[int], Iterator[bytes]], size: int | None) -> None:
        self._read = read
        self.file = RemoteFile("m.bin", size, "1")

    def model(self) -> RemoteFile:
        return self.file

    def beside(self, name: str) -> RemoteFile:
        raise NotFound(name)

    def read(self, file: RemoteFile, start: int) -> Iterator[bytes]:
        return self._read(start)


def download(tmp_path: Path, remote: Here, max_bytes: int = 1 << 20) -> Fetched:
    source = Source("https://h/m.bin")
    order = FetchOrder(source.url, "", False, False, str(tmp_path / "models"), max_bytes)
    return Download(order, source, remote, lambda news: None, lambda wait_s: None).run()


def test_it_reads_on_where_it_was(tmp_path: Path) -> None:
    starts = []

    def read(start: int) -> Iterator[bytes]:
        starts.append(start)
        yield DATA[start : start + 4000]

    assert download(tmp_path, Here(read, len(DATA))).digest == DIGEST
    assert starts == [0, 4000, 8000]


def test_what_changes_on_the_way_is_begun_anew(tmp_path: Path) -> None:
    starts = []

    def read(start: int) -> Iterator[bytes]:
        starts.append(start)
        if len(starts) == 1:
            yield b"old"
            remote.file = RemoteFile("m.bin", len(DATA), "2")
            raise ConnectionResetError
        yield DATA[start:]

    remote = Here(read, len(DATA))
    assert download(tmp_path, remote).digest == DIGEST
    assert starts == [0, 0]


def test_what_comes_is_of_one_content(tmp_path: Path) -> None:
    starts = []

    def read(start: int) -> Iterator[bytes]:
        starts.append(start)
        if len(starts) > 1:
            yield DATA
            return
        yield bytes(5000)
        remote.file = RemoteFile("m.bin", len(DATA), "2")  # its reader does not notice
        yield DATA[5000:]

    remote = Here(read, len(DATA))
    assert download(tmp_path, remote).digest == DIGEST
    assert starts == [0, 0]


@pytest.mark.parametrize("size", [100, None])
def test_more_than_was_said_is_refused(tmp_path: Path, size: int | None) -> None:
    def read(start: int) -> Iterator[bytes]:
        while True:
            yield DATA

    kind = Unavailable if size else ResourceExhausted
    with pytest.raises(kind, match=r"more than 100 bytes came|larger than the model cache"):
        download(tmp_path, Here(read, size), max_bytes=50_000)
    assert ModelCache(tmp_path / "models").models() == []
