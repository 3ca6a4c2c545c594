"""Models that were fetched, on disk: each content once, under its digest, up to a size.

An entry is a directory of files and a JSON file beside it, which is written last: without it there
is none. Whoever uses an entry holds a shared lock on the directory, so that nobody takes it away.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gslice.core.errors import ResourceExhausted
from gslice.core.figures import megabytes
from gslice.core.files import replace_file

_TOLD, _PART, _LOCK = ".json", ".part", "lock"
_READ_BYTES = 1 << 20


@dataclass(frozen=True)
class CachedModel:
    """An entry.

    Attributes:
        digest: Of its content, see `sources.content_digest`.
        source: Where it came from first, for people.
        files: SHA-256 of each file by its name, the model first.
        states: What the file system says of each since it was last read whole.
        origins: By the key of a source that had it, the version of each file there: an etag, a
            commit, a manifest's digest.
        size_bytes: Of all files.
        fetched_s: When, in seconds since the epoch.
        used_s: When it was last loaded.
    """

    digest: str
    source: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    states: Mapping[str, Sequence[int]] = field(default_factory=dict)
    origins: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    size_bytes: int = 0
    fetched_s: float = 0.0
    used_s: float = 0.0


@dataclass(frozen=True)
class ModelCache:
    """The entries in a directory, which only its owner can open.

    Attributes:
        directory: Made when it is first needed.
    """

    directory: Path

    # ---- looking ---------------------------------------------------------------------------

    def models(self) -> list[CachedModel]:
        """All entries, the one used last first."""
        found = [self._read(path.name.removesuffix(_TOLD)) for path in self._told_files()]
        known = [entry for entry in found if entry is not None]
        return sorted(known, key=lambda entry: (-entry.used_s, entry.digest))

    def find(self, digest: str) -> Path | None:
        """The model of an entry whose files are what they were, from now on the one used last.

        One that is damaged is taken away.
        """
        entry = self._read(digest)
        if entry is None or not entry.files:
            return None
        if not self._is_whole(entry):
            self.drop(digest)
            return None
        with contextlib.suppress(OSError):
            os.utime(self._told(digest))
        return self.directory / digest / next(iter(entry.files))

    def from_source(self, key: str) -> str:
        """The digest of what a source had last; empty: not known."""
        return next((entry.digest for entry in self.models() if key in entry.origins), "")

    # ---- use -------------------------------------------------------------------------------

    def hold(self, digest: str) -> int | None:
        """Keeps an entry from being taken away, until the descriptor is closed.

        Returns:
            The descriptor; None: there is no such entry, or somebody takes it away just now.
        """
        try:
            held = os.open(self.directory / digest, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return None
        told = self._told(digest)
        if told.exists():  # else somebody is at it; who only looks lets go at once
            fcntl.flock(held, fcntl.LOCK_SH)
            if told.exists():
                return held
        os.close(held)
        return None

    def in_use(self, digest: str) -> bool:
        """Whether `drop` would leave an entry."""
        try:
            with self._unused(digest) as unused:
                return not unused
        except FileNotFoundError:
            return False

    def drop(self, digest: str) -> bool:
        """Takes an entry away; False: somebody uses it."""
        try:
            with self._unused(digest) as unused:
                if unused:
                    self._told(digest).unlink(missing_ok=True)
                    shutil.rmtree(self.directory / digest, ignore_errors=True)
                return unused
        except FileNotFoundError:
            self._told(digest).unlink(missing_ok=True)
            return True

    def make_room(self, size_bytes: int, max_bytes: int) -> None:
        """Takes away what was used longest ago until there is room; the caller holds `alone`.

        Args:
            size_bytes: What is to come.
            max_bytes: Of everything together.

        Raises:
            ResourceExhausted: what is in use, or on its way, leaves too little.
        """
        if size_bytes > max_bytes:  # nothing that goes would help
            raise _no_room(size_bytes, max_bytes)
        taken = self.size_bytes()
        for entry in reversed(self.models()):
            if taken + size_bytes <= max_bytes:
                return
            if self.drop(entry.digest):
                taken -= entry.size_bytes
        if taken + size_bytes > max_bytes:
            raise _no_room(size_bytes, max_bytes, taken)

    def size_bytes(self) -> int:
        """What entries, and downloads on their way, take."""
        walked = os.walk(self.directory)  # which minds nothing that goes meanwhile
        next(walked, None)  # what lies beside the directories is small
        return sum(_size(Path(place, name)) for place, _, names in walked for name in names)

    # ---- coming ----------------------------------------------------------------------------

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Inside, nobody else changes which entries there are.

        Raises:
            OSError: The directory cannot be written to.
        """
        self._make()
        lock = os.open(self.directory / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    @contextlib.contextmanager
    def part(self, key: str) -> Iterator[Path]:
        """An empty directory for a download, which nobody else has; it is gone afterwards."""
        self._make()
        path = self.directory / f"{key}.{os.getpid()}{_PART}"
        path.mkdir(mode=0o700)
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)

    def adopt(self, part: Path, entry: CachedModel) -> None:
        """Makes an entry of a download that is whole; of one that is there, only its origins.

        Args:
            part: Its directory.
            entry: What it is; states and times are filled in.
        """
        with self.alone():
            home, there = self.directory / entry.digest, self._read(entry.digest)
            if there is None or not self._is_whole(there):
                there = None
                shutil.rmtree(home, ignore_errors=True)
                part.rename(home)
                _sync(self.directory)
            now_s = time.time()
            there = there or dataclasses.replace(entry, fetched_s=now_s)
            origins = {**there.origins, **entry.origins}
            self._write(dataclasses.replace(there, origins=origins, states=self._states(there)))

    def sweep(self) -> None:
        """Takes away what downloads have left that were cut off."""
        for path in self.directory.glob(f"*{_PART}"):
            with contextlib.suppress(OSError):
                lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path, ignore_errors=True)
                finally:
                    os.close(lock)

    # ---- parts -----------------------------------------------------------------------------

    @contextlib.contextmanager
    def _unused(self, digest: str) -> Iterator[bool]:
        """Whether nobody uses an entry; if so, nobody begins to inside.

        Raises:
            FileNotFoundError: There is no such entry.
        """
        held = os.open(self.directory / digest, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
        finally:
            os.close(held)

    def _make(self) -> None:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _told(self, digest: str) -> Path:
        return self.directory / f"{digest}{_TOLD}"

    def _told_files(self) -> list[Path]:
        return list(self.directory.glob(f"*{_TOLD}"))

    def _read(self, digest: str) -> CachedModel | None:
        told = self._told(digest)
        try:
            entry = CachedModel(**json.loads(told.read_bytes()))
            used_s = told.stat().st_mtime
        except (OSError, ValueError, TypeError):  # taken away, or written by another gslice
            return None
        return dataclasses.replace(entry, used_s=used_s)

    def _write(self, entry: CachedModel) -> None:
        data = json.dumps(dataclasses.asdict(entry)).encode()
        replace_file(self._told(entry.digest), data)

    def _is_whole(self, entry: CachedModel) -> bool:
        """Whether its files are what they were; one that was touched since is read."""
        try:
            states = self._states(entry)
            if states == {name: list(state) for name, state in entry.states.items()}:
                return True
            digests = {n: file_digest(self.directory / entry.digest / n) for n in entry.files}
        except OSError:
            return False
        if digests != dict(entry.files):
            return False
        with contextlib.suppress(OSError):
            self._write(dataclasses.replace(entry, states=states))
        return True

    def _states(self, entry: CachedModel) -> dict[str, list[int]]:
        return {name: _state(self.directory / entry.digest / name) for name in entry.files}


def _no_room(size_bytes: int, max_bytes: int, used_bytes: int = 0) -> ResourceExhausted:
    used = f", of which {megabytes(used_bytes)} is in use" if used_bytes else ""
    return ResourceExhausted(
        f"the model cache takes {megabytes(max_bytes)}{used}: no room for {megabytes(size_bytes)}",
        hint="raise node.model_cache.max, or unload what is not needed",
    )


def digest_in(path: str) -> str:
    """The digest of the entry in which a file is."""
    return Path(path).parent.name


def file_digest(path: Path) -> str:
    """The SHA-256 of a file, as `sha256sum` tells it."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while data := file.read(_READ_BYTES):
            digest.update(data)
    return digest.hexdigest()


def _state(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_size if path.is_file() else 0
    return 0


def _sync(directory: Path) -> None:
    """What was renamed in it stays so, whatever happens to the machine."""
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
