"""Plans, which is what TensorRT builds of a model, on disk: one for each thing that changes them.

A plan holds for the content of the model's files, the library's version, the GPU and the shapes
that it was built for. Whoever needs one looks here first; who finds none builds it, alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from gslice.core.digests import digest_of
from gslice.core.onnx_files import external_files
from gslice.core.sources import plain_path

LIBRARIES = ("tensorrt", "tensorrt_rtx")
"""The Python packages that build and run plans; engines are called like them."""

_PLAN_SUFFIXES = (".plan", ".engine")
_RECIPE = 1  # goes up when the same key would be built otherwise
_PLAN, _TOLD, _LOCK, _COMPILED = ".plan", ".json", ".lock", ".jit"


def is_plan(path: str | None) -> bool:
    """Whether a model is a plan already."""
    return path is not None and plain_path(path).endswith(_PLAN_SUFFIXES)


@dataclass(frozen=True)
class PlanKey:
    """What a plan holds for.

    Attributes:
        model: Path of the model, for people.
        content: Digest of its files.
        library: With its version.
        gpu: What it is built for.
        settings: Of the function, as far as they change it.
    """

    model: str
    content: str
    library: str
    gpu: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Another for each difference, but for the path."""
        told = [_RECIPE, self.content, self.library, self.gpu, self.settings]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Plan:
    """A plan on disk.

    Attributes:
        name: Its key's.
        model: Path of the model when it was built.
        library: With its version.
        gpu: What it was built for.
        built_s: When, in seconds since the epoch.
        took_s: How long that took.
        size_bytes: On disk, with what was compiled of it.
        used_s: When it was last loaded, or built.
        digest: Of its content, when it was built.
    """

    name: str
    model: str = ""
    library: str = ""
    gpu: str = ""
    built_s: float = 0.0
    took_s: float = 0.0
    size_bytes: int = 0
    used_s: float = 0.0
    digest: str = ""


@dataclass(frozen=True)
class PlanCache:
    """The plans in a directory.

    Attributes:
        directory: Made when the first is kept; only its owner may write there.
    """

    directory: Path = field(default_factory=lambda: default_cache_dir(os.environ) / "tensorrt")

    @contextlib.contextmanager
    def alone(self, key: PlanKey) -> Iterator[None]:
        """Inside, nobody else builds this plan.

        Raises:
            OSError: The directory cannot be written to.
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self._path(key.name, _LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def read(self, key: PlanKey) -> bytes | None:
        """A plan that is there whole, from now on the one used last; None: it is not."""
        try:
            if not self._path(key.name, _TOLD).is_file():
                return None
            plan = self._path(key.name, _PLAN).read_bytes()
        except OSError:
            return None
        with contextlib.suppress(OSError):  # somebody else's, who lets us read it
            os.utime(self._path(key.name, _PLAN))
        return plan

    def keep(self, key: PlanKey, plan: bytes | memoryview, took_s: float) -> None:
        """Writes a plan, and then what tells of it: one without the other is none.

        Raises:
            OSError: There is no room, or no right to.
        """
        path = self._path(key.name, _PLAN)
        self._write(path, plan)
        told = Plan(
            *(key.name, key.model, key.library, key.gpu),
            built_s=time.time(),
            took_s=took_s,
            digest=digest_of(path),
        )
        self._write(self._path(key.name, _TOLD), json.dumps(dataclasses.asdict(told)).encode())

    def is_damaged(self, key: PlanKey) -> bool:
        """Whether a plan is not what was written, or tells nothing of itself."""
        told = self._plan(self._path(key.name, _TOLD))
        return told is None or digest_of(self._path(key.name, _PLAN)) != told.digest

    def compiled(self, key: PlanKey, gpu: str) -> Path:
        """Where what a library compiles of a plan on one kind of GPU is kept."""
        kind = hashlib.sha256(gpu.encode()).hexdigest()[:8]
        return self._path(f"{key.name}.{kind}", _COMPILED)

    def keep_compiled(self, path: Path, content: bytes | memoryview) -> None:
        """Writes what a library has compiled, to where `compiled` says.

        Raises:
            OSError: As of `keep`.
        """
        self._write(path, content)

    def drop(self, name: str) -> int:
        """Takes a plan away, and what was compiled of it; whoever has loaded it keeps it.

        Returns:
            The bytes that are free now.
        """
        freed = 0
        for path in (self._path(name, _TOLD), *self._parts(name)):
            with contextlib.suppress(FileNotFoundError):
                freed += path.stat().st_size
                path.unlink()
        return freed

    def plans(self) -> list[Plan]:
        """All of them, the one used last first."""
        found = [self._plan(path) for path in self.directory.glob(f"*{_TOLD}")]
        known = [plan for plan in found if plan is not None]
        return sorted(known, key=lambda plan: (-plan.used_s, plan.name))

    def prune(self, unneeded: Callable[[Sequence[Plan]], Sequence[Plan]]) -> list[Plan]:
        """Takes away those that are chosen of all, and leavings of builds that were cut off.

        Returns:
            What is gone.
        """
        gone = list(unneeded(self.plans()))
        for plan in gone:
            self.drop(plan.name)
        kept = {plan.name for plan in self.plans()}
        for path in self.directory.glob("*"):
            if path.name.partition(".")[0] not in kept:
                self._sweep(path)
        return gone

    def _sweep(self, path: Path) -> None:
        """Takes away what belongs to no plan, unless that is being built."""
        lock_path = self._path(path.name.partition(".")[0], _LOCK)
        with contextlib.suppress(OSError):
            lock = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)
                lock_path.unlink(missing_ok=True)
            finally:
                os.close(lock)

    def _plan(self, told: Path) -> Plan | None:
        name = told.name.removesuffix(_TOLD)
        try:
            plan = Plan(**json.loads(told.read_bytes()))
            sizes = [path.stat().st_size for path in self._parts(name)]
            used_s = self._path(name, _PLAN).stat().st_mtime
        except (OSError, ValueError, TypeError):  # pruned meanwhile, or written by another gslice
            return None
        return dataclasses.replace(plan, size_bytes=sum(sizes), used_s=used_s)

    def _parts(self, name: str) -> list[Path]:
        return [self._path(name, _PLAN), *self.directory.glob(f"{name}.*{_COMPILED}")]

    def _path(self, name: str, suffix: str) -> Path:
        return self.directory / f"{name}{suffix}"

    def _write(self, path: Path, content: bytes | memoryview) -> None:
        """All of it, or nothing."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            part.write_bytes(content)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def default_cache_dir(environ: Mapping[str, str]) -> Path:
    """Where what can be made again is kept: $GSLICE_CACHE_DIR, else the user's cache."""
    if given := environ.get("GSLICE_CACHE_DIR"):
        return Path(given).absolute()
    home = environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
    return Path(home).absolute() / "gslice"


def content_of(model: str) -> str:
    """The digest of a model's file and of those beside it that hold its weights.

    Raises:
        OSError: One of them cannot be read.
    """
    path = Path(model)
    files = [path, *(path.parent / name for name in external_files(path))]
    return hashlib.sha256("".join(map(digest_of, files)).encode()).hexdigest()


class Kept(Protocol):
    """What a cache holds."""

    @property
    def used_s(self) -> float:
        """When it was last used, in seconds since the epoch."""

    @property
    def size_bytes(self) -> int:
        """On disk."""


_Kept = TypeVar("_Kept", bound=Kept)


def unused(kept: Sequence[_Kept], older_than_s: float, now_s: float) -> list[_Kept]:
    """Those that nobody has used for so long."""
    return [each for each in kept if now_s - each.used_s > older_than_s]


def beyond(kept: Sequence[_Kept], size_bytes: int) -> list[_Kept]:
    """Those that were used longest ago, until the rest fits.

    Args:
        kept: The one used last first.
        size_bytes: What may stay.
    """
    gone, total = [], 0
    for each in kept:
        total += each.size_bytes
        if total > size_bytes:
            gone.append(each)
    return gone
