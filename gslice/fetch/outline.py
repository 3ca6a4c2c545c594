"""`python -m gslice.fetch.outline`: which models a repository has, and what it says of them.

Reads `{"url", "directory"}` from its input, writes `{"code", "message", "hint"}`. Configurations
and samples of warm-up come along; models become empty files of their names, and code likewise.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

from gslice.core.errors import GsliceError, Internal, ResourceExhausted
from gslice.core.figures import megabytes
from gslice.core.sources import is_file_name, redacted
from gslice.fetch.filesystem import explained
from gslice.fetch.remote import needed

_CONFIG, _SAMPLES = "config.pbtxt", "warmup"
_VERSION = re.compile(r"[0-9]+")
_ENTRIES_MAX = 20_000
_CONFIG_MAX_BYTES = 1 << 20
_BYTES_MAX = 256 << 20  # of all samples and configurations


@dataclass
class Outline:
    """Makes one.

    Attributes:
        filesystem: Of fsspec.
        url: Of the repository.
        folder: An empty directory for it.
    """

    filesystem: Any
    url: str
    folder: Path
    _entries: int = 0
    _bytes: int = 0

    def make(self) -> None:
        """Lists the repository, and takes along what is read of it.

        Raises:
            GsliceError: it cannot be read, or is too large.
        """
        scheme = self.url.partition(":")[0]
        try:
            root = self.filesystem._strip_protocol(self.url)
            for name, path, info in self._entries_of(root):
                if _is_folder(info):
                    self._model(path, self.folder / name)
                elif name == _CONFIG:  # of a single model: whoever reads it tells
                    (self.folder / name).touch()
        except Exception as error:
            raise explained(error, redacted(self.url), scheme) from error

    def _model(self, path: str, folder: Path) -> None:
        folder.mkdir()
        for name, inside, info in self._entries_of(path):
            if not _is_folder(info):
                if name == _CONFIG:
                    self._copy(inside, info, folder / name, _CONFIG_MAX_BYTES)
            elif name == _SAMPLES:
                (folder / name).mkdir()
                for file, sample, told in self._entries_of(inside):
                    if not _is_folder(told):
                        self._copy(sample, told, folder / name / file, _BYTES_MAX)
            elif _VERSION.fullmatch(name):
                self._names(inside, folder / name, deeper=True)

    def _names(self, path: str, folder: Path, *, deeper: bool) -> None:
        """Of what is in a version: a model may be a directory with its file in it."""
        folder.mkdir()
        for name, inside, info in self._entries_of(path):
            if not _is_folder(info):
                (folder / name).touch()
            elif deeper:
                self._names(inside, folder / name, deeper=False)

    def _entries_of(self, path: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """What is in a directory: name, path, and what is told of it."""
        for info in self.filesystem.ls(path, detail=True):
            inside = str(info["name"]).rstrip("/")
            name = inside.rpartition("/")[2]
            if inside == path.rstrip("/") or not is_file_name(name) or "/" in name:
                continue  # itself, as an empty object; or what no directory here can hold
            self._entries += 1
            if self._entries > _ENTRIES_MAX:
                raise ResourceExhausted(
                    f"{redacted(self.url)} has more than {_ENTRIES_MAX} files; it may be no"
                    " repository"
                )
            yield name, inside, info

    def _copy(self, path: str, info: dict[str, Any], to: Path, most_bytes: int) -> None:
        size = int(info.get("size") or 0)
        self._bytes += size
        if size > most_bytes or self._bytes > _BYTES_MAX:
            raise ResourceExhausted(
                f"{redacted(self.url)}: {path} is larger than is read of a repository,"
                f" {megabytes(min(most_bytes, _BYTES_MAX))}"
            )
        to.write_bytes(self.filesystem.cat_file(path)[: size or None])


def make_outline(url: str, directory: str) -> dict[str, Any]:
    """What is answered to an order."""
    scheme = url.partition("://")[0]
    try:
        with needed(scheme):
            Outline(fsspec.filesystem(scheme), url, Path(directory)).make()
    except GsliceError as error:
        return {"code": error.code, "message": redacted(error.message), "hint": error.hint}
    except OSError as error:
        text = f"{error.filename or directory}: {error.strerror or error}"
        return {"code": Internal.code, "message": redacted(text), "hint": ""}
    return {"code": 0, "message": "", "hint": ""}


def _is_folder(info: dict[str, Any]) -> bool:
    return bool(info.get("type") == "directory")


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    print(json.dumps(make_outline(**json.load(sys.stdin))), flush=True)
    os._exit(0)  # no waiting for threads of libraries
