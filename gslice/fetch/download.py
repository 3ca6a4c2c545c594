"""One download into the cache: whole and as it must be, or not at all."""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from gslice.core.errors import (
    Cancelled,
    FailedPrecondition,
    GsliceError,
    ResourceExhausted,
    Unavailable,
)
from gslice.core.figures import megabytes
from gslice.core.model_cache import CachedModel, ModelCache
from gslice.core.onnx_files import external_files
from gslice.core.sources import content_digest, is_file_name, redacted
from gslice.fetch.remote import RemoteFile, Unseekable
from gslice.ipc.fetching import Fetched, FetchNews

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gslice.core.sources import Source
    from gslice.fetch.remote import Remote
    from gslice.ipc.fetching import FetchOrder

TRIES = 5
_NEWS_S = 0.25
_WAIT_S = 0.5  # before the second try; twice as long before each further one


@dataclass
class Download:
    """Carries an order out.

    Attributes:
        order: What to fetch.
        source: Its URL.
        remote: Where it is.
        tell: Told of the progress.
        wait: Between tries, for some seconds.
    """

    order: FetchOrder
    source: Source
    remote: Remote
    tell: Callable[[FetchNews], None]
    wait: Callable[[float], None] = time.sleep
    _done_bytes: int = 0
    _size_bytes: int = 0
    _told_s: float = 0.0
    _digests: dict[str, str] = field(default_factory=dict)
    _versions: dict[str, str] = field(default_factory=dict)

    def run(self) -> Fetched:
        """Has the content in the cache.

        Raises:
            NotFound: there is no such file.
            PermissionDenied: it is not for us.
            FailedPrecondition: it is not what it must be.
            ResourceExhausted: there is no room for it.
            Unavailable: it could not be fetched, however often it was tried.
        """
        cache = ModelCache(Path(self.order.directory))
        model = self._trying(self.remote.model)
        if there := self._unchanged(cache, model):
            return Fetched(there, was_there=True)
        cache.sweep()
        with cache.part(self.source.key) as part:
            self._fetch(cache, part, self.remote.model)
            if self.order.with_data:
                for name in external_files(part / model.name):
                    self._fetch_beside(cache, part, name)
            digest = content_digest(self._digests)
            self._check(digest)
            entry = CachedModel(
                digest,
                self.source.shown,
                self._digests,
                origins={self.source.key: self._versions} if all(self._versions.values()) else {},
                size_bytes=self._done_bytes,
            )
            cache.adopt(part, entry)
        return Fetched(digest)

    # ---- parts -----------------------------------------------------------------------------

    def _check(self, digest: str) -> None:
        wanted = self.order.digest
        if not wanted or digest == wanted:
            return
        if self.order.pinned:
            raise FailedPrecondition(
                f"{self.source.shown} is not what it is pinned to: its content has sha256 {digest},"
                f" not {wanted}",
                hint="if that is meant, write the new digest",
            )
        raise FailedPrecondition(
            f"{self.source.shown} is not what was loaded before: its content has sha256 {digest},"
            f" not {wanted}",
            hint="`gslice load` takes it as it is now",
        )

    def _unchanged(self, cache: ModelCache, model: RemoteFile) -> str:
        """The digest of what is in the cache and what the place still has; empty: none is both."""
        for entry in cache.models():
            was = dict(entry.origins.get(self.source.key, {}))
            if not model.version or was.get(model.name) != model.version:
                continue
            if self.order.digest not in ("", entry.digest):
                continue
            others = [name for name in was if name != model.name]
            now = (self._trying(functools.partial(self.remote.beside, name)) for name in others)
            if all(was[file.name] == file.version for file in now) and cache.find(entry.digest):
                return entry.digest
        return ""

    def _fetch_beside(self, cache: ModelCache, part: Path, name: str) -> None:
        if not is_file_name(name):
            raise FailedPrecondition(
                f"{self.source.shown} keeps weights in {name!r}, outside of its place"
            )
        self._fetch(cache, part, functools.partial(self.remote.beside, name))

    def _fetch(self, cache: ModelCache, part: Path, look: Callable[[], RemoteFile]) -> None:
        """One file, in as many tries as it takes, each from where the last one came to."""
        file = self._trying(look)
        path, most = part / file.name, self.order.max_bytes
        path.parent.mkdir(parents=True, exist_ok=True)
        with cache.alone():
            cache.make_room(file.size_bytes or 0, most)
            _reserve(path, file.size_bytes or 0)
        self._size_bytes = 0 if file.size_bytes is None else self._done_bytes + file.size_bytes
        piece = _Piece(self, look, file, path)
        file = self._trying(piece.go_on)
        self._digests[file.name] = piece.finish()
        self._versions[file.name] = file.version
        if file.size_bytes is None:
            with cache.alone():
                cache.make_room(0, most)

    def _trying(self, step: Callable[[], RemoteFile]) -> RemoteFile:
        for number in itertools.count(1):
            try:
                return step()
            except (GsliceError, OSError, EOFError) as error:
                if not _may_pass(error) or number == TRIES:
                    raise self._final(error) from error
                self._tell(trouble=redacted(str(error)))
            except ImportError:
                raise
            except Exception as error:  # whatever a library thinks of its server
                if number == TRIES:
                    raise self._final(error) from error
                self._tell(trouble=redacted(f"{type(error).__name__}: {error}"))
            self.wait(_WAIT_S * 2 ** (number - 1) * random.uniform(0.75, 1.25))
        raise AssertionError("the last try raises")

    def _final(self, error: Exception) -> Exception:
        if isinstance(error, GsliceError):
            return error
        text = redacted(f"{type(error).__name__}: {error}".partition("\n")[0])
        return Unavailable(f"{self.source.shown} cannot be fetched now: {text}")

    def came(self, count: int) -> None:
        """So many bytes more are there; or fewer, if it begins anew."""
        self._done_bytes += count
        self._tell()

    def _tell(self, trouble: str = "") -> None:
        now_s = time.monotonic()
        if trouble or now_s - self._told_s >= _NEWS_S or self._done_bytes == self._size_bytes:
            self._told_s = now_s
            self.tell(FetchNews(self._done_bytes, self._size_bytes, trouble))


@dataclass
class _Piece:
    """One file on its way."""

    download: Download
    look: Callable[[], RemoteFile]
    file: RemoteFile
    path: Path
    start: int = 0
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)

    def go_on(self) -> RemoteFile:
        """Reads from where the last try came to, to the end."""
        if self.start:
            self._see_the_same()
        try:
            self._copy(self.download.remote.read(self.file, self.start))
        except Unseekable:
            self._begin_anew()
            self._copy(self.download.remote.read(self.file, 0))
        expected = self.file.size_bytes
        if expected is not None and self.start < expected:
            raise EOFError(f"only {self.start} of {expected} bytes came")
        if not (self.file.digest or self.download.order.digest):
            self._see_one_content()
        return self.file

    def finish(self) -> str:
        """Writes it to the disk. Returns its SHA-256."""
        with self.path.open("r+b") as stream:
            stream.truncate(self.start)
            os.fsync(stream.fileno())
        self.path.chmod(0o444)
        digest = self.digest.hexdigest()
        if self.file.digest and digest != self.file.digest:
            raise FailedPrecondition(
                f"{self.download.source.shown}: {self.file.name} came damaged: its sha256 is"
                f" {digest}, not {self.file.digest}"
            )
        return digest

    def _copy(self, blocks: Iterator[bytes]) -> None:
        with self.path.open("r+b") as stream:
            stream.seek(self.start)
            for data in blocks:
                self._check_length(self.start + len(data))
                stream.write(data)
                self.digest.update(data)
                self.start += len(data)
                self.download.came(len(data))

    def _check_length(self, length: int) -> None:
        expected, most = self.file.size_bytes, self.download.order.max_bytes
        if expected is not None and length > expected:
            raise EOFError(f"more than {expected} bytes came")
        if length > most:
            raise ResourceExhausted(
                f"{self.download.source.shown} is larger than the model cache, {megabytes(most)}",
                hint="raise node.model_cache.max",
            )

    def _see_the_same(self) -> None:
        """What is read on must be what was begun."""
        now = self.look()
        if now != self.file or not now.version:
            self._begin_anew()
            self.file = now

    def _see_one_content(self) -> None:
        """What came in several reads may be of two contents, and no digest would tell."""
        now = self.look()
        if now != self.file:
            self._begin_anew()
            self.file = now
            raise EOFError("it changed while it was read")

    def _begin_anew(self) -> None:
        self.download.came(-self.start)
        self.start, self.digest = 0, hashlib.sha256()


def _reserve(path: Path, size_bytes: int) -> None:
    """Makes a file of that size, so that what is missing on the disk is missed now.

    Raises:
        ResourceExhausted: the disk has no room.
    """
    with path.open("xb") as stream:
        if size_bytes:
            try:
                os.posix_fallocate(stream.fileno(), 0, size_bytes)
            except OSError as error:
                raise ResourceExhausted(
                    f"{path.parent.parent}: no room for {megabytes(size_bytes)}: {error.strerror}"
                ) from error


def _may_pass(error: Exception) -> bool:
    """Whether another try may go better."""
    if isinstance(error, GsliceError):
        return error.retriable and not isinstance(error, (ResourceExhausted, Cancelled))
    return True
