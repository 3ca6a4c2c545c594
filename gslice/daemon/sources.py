"""Has what functions name by a URL in the model cache, and keeps there what they use.

Downloads are another process's (`gslice.fetch`): this one starts it, hears how far it is, and ends
it when nobody waits any more, or when nothing comes.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from gslice.core.errors import Internal, Unavailable, from_code
from gslice.core.figures import megabytes
from gslice.core.model_cache import ModelCache, digest_in
from gslice.core.plans import LIBRARIES, is_plan
from gslice.core.sources import Source, is_remote
from gslice.ipc.codec import from_json, to_json
from gslice.ipc.fetching import Fetched, FetchNews, FetchOrder
from gslice.supervise.process import spawn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from gslice.core.config import NodeConfig
    from gslice.core.types import FunctionSpec
    from gslice.supervise.versions import Fetch

    Tell = Callable[[str], None]

SILENT_S = 150.0  # longer than the pauses between all tries, and than a connection may take
_COMMAND = (sys.executable, "-P", "-m", "gslice.fetch")
_SETTINGS = ("model", "warmup")
_WITH_DATA = ("onnxruntime", *LIBRARIES)
_LOG_NAME = "_fetch.log"  # no function is called so
_LINE_BYTES = 1 << 20


class Sources:
    """Fetches what functions name by a URL.

    Args:
        config: Of the node.
        in_use: The functions that are there, as they run or are kept.
    """

    def __init__(self, config: NodeConfig, in_use: Callable[[], Iterable[FunctionSpec]]) -> None:
        self.cache = ModelCache(config.model_cache.directory)
        self._max_bytes = config.model_cache.max_bytes
        self._log = config.state_dir / "log" / _LOG_NAME
        self._in_use = in_use
        self._held: dict[str, int] = {}
        self._coming: dict[str, set[str]] = {}  # by function, for a load that has not ended
        self._running: dict[FetchOrder, _Running] = {}

    async def fetched(
        self, spec: FunctionSpec, known: FunctionSpec | None, fetch: Fetch
    ) -> FunctionSpec:
        """A function with files in place of its URLs.

        Args:
            spec: As declared, or as it came from here before.
            known: As it was fetched before, which it is again; None: as it is there now.
            fetch: How.

        Raises:
            GsliceError: it cannot be had, or is not what it must be.
        """
        declared = spec.as_declared
        paths = {}
        coming = set[str]()
        if not fetch.planned:
            self._coming[spec.name] = coming
        for setting in _SETTINGS:
            url = getattr(declared, setting)
            if is_remote(url):
                before = getattr(known, setting) if known and setting in known.sources else ""
                paths[setting] = await self._path(declared, setting, before, fetch)
                coming.add(digest_in(str(paths[setting])))
        sources = {setting: getattr(declared, setting) for setting in paths}
        files: dict[str, Any] = {setting: str(path) for setting, path in paths.items()}
        return replace(declared, sources=sources, **files)

    def settle(self, name: str = "") -> None:
        """Keeps what functions use, and nothing else; called when that has changed.

        Args:
            name: Of a function whose load has ended.
        """
        self._coming.pop(name, None)
        self._hold_in_use()

    def close(self) -> None:
        """Keeps nothing any more."""
        for descriptor in self._held.values():
            os.close(descriptor)
        self._held.clear()

    # ---- parts -----------------------------------------------------------------------------

    async def _path(self, spec: FunctionSpec, setting: str, before: str, fetch: Fetch) -> Path:
        source = Source.parse(getattr(spec, setting))
        wanted = source.digest or (digest_in(before) if before else "")
        if not wanted and source.scheme == "oci" and source.oci.fixed:
            wanted = await asyncio.to_thread(self.cache.from_source, source.key)
        if wanted and (path := await self._take(wanted)):
            return path
        if fetch.planned:
            raise Unavailable(f"{source.shown} is not in the model cache")
        order = FetchOrder(
            url=source.url,
            digest=wanted,
            pinned=bool(source.digest),
            with_data=setting == "model" and _keeps_data_beside(spec),
            directory=str(self.cache.directory),
            max_bytes=self._max_bytes,
        )
        fetch.tell(source.shown)
        self._hold_in_use()
        done = await self._shared(order, fetch.tell)
        if path := await self._take(done.digest):
            return path
        raise Unavailable(f"{source.shown} was taken out of the model cache", hint="try again")

    async def _take(self, digest: str) -> Path | None:
        """The model of an entry, which stays from now on."""
        if digest not in self._held:
            if (held := self.cache.hold(digest)) is None:
                return None
            self._held[digest] = held
        path = await asyncio.to_thread(self.cache.find, digest)
        if path is None and digest in self._held:  # what comes in its place is another directory
            os.close(self._held.pop(digest))
        return path

    def _hold_in_use(self) -> None:
        used = {digest for spec in self._in_use() for digest in _digests(spec)}
        coming = {digest for digests in self._coming.values() for digest in digests}
        for digest in self._held.keys() - used - coming:
            os.close(self._held.pop(digest))
        for digest in used - self._held.keys():
            if (held := self.cache.hold(digest)) is not None:
                self._held[digest] = held

    async def _shared(self, order: FetchOrder, tell: Tell) -> Fetched:
        """One download for all who wait for the same."""
        running = self._running.get(order)
        if running is None:
            if not self._running:  # what it says is of interest when it has broken
                self._log.unlink(missing_ok=True)
            running = self._running[order] = _Running(order, self._log)
            running.task = asyncio.create_task(running.run())
        assert running.task is not None
        running.listeners.append(tell)
        try:
            return await asyncio.shield(running.task)
        finally:
            running.listeners.remove(tell)
            if not running.listeners:
                self._running.pop(order, None)
                running.task.cancel()
                await asyncio.gather(running.task, return_exceptions=True)


@dataclass
class _Running:
    """A download, and who waits for it."""

    order: FetchOrder
    log: Path
    listeners: list[Tell] = field(default_factory=list)
    task: asyncio.Task[Fetched] | None = None

    async def run(self) -> Fetched:
        """Has it done by a process.

        Raises:
            GsliceError: it was not done.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            # Never by a fork: what gRPC does around one costs the daemon its connections.
            process = spawn(list(_COMMAND), dict(os.environ), self.log, theirs)
        try:
            reader, writer = await asyncio.open_connection(sock=ours, limit=_LINE_BYTES)
            try:
                writer.write(json.dumps(to_json(self.order)).encode() + b"\n")
                done = await self._listen(reader)
            finally:
                writer.close()
        finally:
            await process.kill()
        if done.code:
            error = from_code(done.code, done.message)
            error.hint = done.hint
            raise error
        return done

    async def _listen(self, reader: asyncio.StreamReader) -> Fetched:
        try:
            while line := await asyncio.wait_for(reader.readline(), SILENT_S):
                message = json.loads(line)
                if "done" in message:
                    return from_json(Fetched, message["done"])
                self._tell(from_json(FetchNews, message["news"]))
        except TimeoutError:
            raise Unavailable(f"{self._url}: nothing came for {SILENT_S:.0f} s") from None
        except (ConnectionError, ValueError):  # it broke, perhaps in the middle of a line
            pass
        raise Internal(f"{self._url}: the process that fetches it broke", hint=f"see {self.log}")

    @property
    def _url(self) -> str:
        return Source(self.order.url).shown

    def _tell(self, news: FetchNews) -> None:
        text = f"{self._url}: {_how_far(news)}"
        if news.trouble:
            text += f"; trying again: {news.trouble}"
        for tell in list(self.listeners):
            tell(text)


def _how_far(news: FetchNews) -> str:
    if not news.size_bytes:
        return f"{megabytes(news.done_bytes)} so far"
    percent = 100 * news.done_bytes / news.size_bytes
    return f"{megabytes(news.done_bytes)} of {megabytes(news.size_bytes)}, {percent:.0f}%"


def _keeps_data_beside(spec: FunctionSpec) -> bool:
    return spec.engine in _WITH_DATA and not is_plan(spec.model)


def _digests(spec: FunctionSpec) -> Iterable[str]:
    return (digest_in(getattr(spec, setting)) for setting in spec.sources)
