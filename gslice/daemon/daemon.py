"""The daemon itself: what it does when it starts, when somebody asks, and when it stops."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from typing import TYPE_CHECKING, TypeVar

from gslice import __version__
from gslice.control.demand import Policy
from gslice.control.plan import Planner
from gslice.core.config import share_from_yaml
from gslice.core.errors import GsliceError
from gslice.core.events import EventKind
from gslice.daemon.applying import Applying
from gslice.daemon.audit import AuditLog, look
from gslice.daemon.controller import Controller
from gslice.daemon.desired import Desired
from gslice.daemon.events import EventLog
from gslice.daemon.handover import Handover
from gslice.daemon.http import HttpServer, hand_over, pages, serve_pages
from gslice.daemon.loads import Loads
from gslice.daemon.moves import Moves
from gslice.daemon.observations import Observations
from gslice.daemon.profiles import Profiles
from gslice.daemon.repository import Repository
from gslice.daemon.sources import Sources
from gslice.daemon.status import Addresses, StatusReader
from gslice.daemon.upgrade import Upgrade
from gslice.daemon.versions import Versions
from gslice.supervise.adoption import end_strays
from gslice.supervise.logs import DAEMON_LOG_NAME
from gslice.supervise.news import unheard
from gslice.supervise.node import Node
from gslice.supervise.reclaim import reclaim
from gslice.supervise.supervisor import Supervisor
from gslice.supervise.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence

    from gslice.core.config import Config
    from gslice.core.types import FunctionSpec
    from gslice.daemon.applying import ConfigSource
    from gslice.daemon.control_api import ControlServer
    from gslice.daemon.desired import Saved
    from gslice.daemon.store import Store
    from gslice.supervise.resize import Resized

_SAMPLE_PERIOD_S = 1.0
_STOP_GRACE_S = 1.0  # for calls of the control API
_HANDOVER_GRACE_S = 0.1
_T = TypeVar("_T")


class Daemon:
    """The node's daemon. Made on a running event loop, run once.

    Args:
        config: node.yaml as read.
        store: The node's memory.
        command: What started this process; empty: nothing that an upgrade could run again.
        before: What the daemon in whose place this one runs left; None: there was none.
        source: Where `config` was read; None: from nothing that could change.

    Attributes:
        supervisor: What runs.
        moves: Carries functions from device to device.
        controller: Keeps its SLOs.
        desired: What should.
        events: What happened.
        reader: What it looks like.
        sources: What they name by a URL.
        versions: Of the functions.
        profiles: Likewise.
        upgrade: The newest one.
        audit: Who ordered what.
        applying: Has the node follow node.yaml when that has changed.
        handover: After `run`: what the code on disk gets, which takes this one's place; None: it
            was stopped.
    """

    def __init__(
        self,
        config: Config,
        store: Store,
        command: Sequence[str] = (),
        before: Handover | None = None,
        source: ConfigSource | None = None,
    ) -> None:
        self._accepting = self._loaded = self._draining = False
        self._config = config
        self.events = EventLog(store)
        self.node = Node.open(config.node, config.devices, self.events.record)
        self.sources = Sources(config.node, lambda: self.supervisor.specs)
        self.versions = Versions(store, self.events.record, self.sources)
        self.profiles = Profiles(store, self.node)
        self.node.times_wanted = self.profiles.lacks
        observations = Observations(store)
        self.supervisor = Supervisor(
            self.node, Repository(self).called, observations.recall, self.versions
        )
        self.desired = Desired(config, store, self.events.record)
        kept = (observations, self.profiles, self.sources)
        self._loads = Loads(self.supervisor, self.desired, *kept)
        self.moves = Moves(self.supervisor, store, self._loads.move)
        planner = Planner(Policy(packing=config.node.packing, turns=True))
        self.controller = Controller(self.supervisor, self.profiles.model, planner, self.moves)
        self._addresses = Addresses()
        decided = self.controller.decisions, self.controller.allotments
        self.reader = StatusReader(self.supervisor, self._addresses, self.events.counts, *decided)
        self._drain_s = config.node.drain_timeout_us / 1e6
        self._stop_asked = asyncio.Event()
        self._hurry = asyncio.Event()
        self._tasks = Tasks(DAEMON_LOG_NAME, self.events.record)
        self.upgrade = Upgrade(self.supervisor, command)
        self.applying = Applying(self, self._loads, source)
        self.handover: Handover | None = None
        self.audit = AuditLog(config.node.state_dir, lambda subject: look(self, subject), command)
        self._before = before or Handover()
        self._http: dict[str, HttpServer] = {}
        self._control: ControlServer | None = None

    @property
    def state(self) -> str:
        """`STARTING` until clients can connect and every load has ended, `SERVING`, `DRAINING`."""
        if self._draining:
            return "DRAINING"
        return "SERVING" if self._accepting and self._loaded else "STARTING"

    # ---- life ------------------------------------------------------------------------------

    async def run(self, on_ready: Callable[[Daemon], None]) -> None:
        """Starts, serves until a stop is asked for, stops.

        Args:
            on_ready: Called once, when clients can connect; functions may still be loading.

        Raises:
            GsliceError: it could not start. What an earlier daemon left runs on, and nothing else.
        """
        start = asyncio.create_task(self._start())
        stop = asyncio.create_task(self._stop_asked.wait())
        try:
            await asyncio.wait({start, stop}, return_when=asyncio.FIRST_COMPLETED)
            if start.done():
                start.result()
                on_ready(self)
            await stop
        finally:
            failed = start.done() and start.exception() is not None
            start.cancel()
            stop.cancel()
            await asyncio.gather(start, stop, return_exceptions=True)
            self._draining = self.handover is None
            ends = "stops" if self._draining else "hands over"
            self._tell(EventKind.DAEMON, ends)
            self.audit.own(ends)
            self.node.changes.notify()
            try:
                if failed:
                    await self._fail()
                elif self.handover is not None:
                    await self._hand_over(self.handover)
                else:
                    await self._stop()
            finally:
                await self._close()

    def stop(self, drain_s: float | None = None) -> None:
        """Asks for the staged stop; asked again, for a quick one."""
        if self.handover is not None:
            self.handover.stop = True
        elif self._stop_asked.is_set():
            self._hurry.set()
        if drain_s is not None:
            self._drain_s = drain_s
        self._stop_asked.set()

    async def _start(self) -> None:
        self._tell(EventKind.DAEMON, f"gslice {__version__} starts, pid {os.getpid()}")
        self.audit.own("start")
        if self._before.upgrade:
            self.upgrade.resume(self._before.upgrade)
        # First what can fail: a wrong port must not cost the children of an earlier daemon. But
        # where its sockets listen, whoever asks waits rather than being told that this one starts.
        if not self._before.listeners:
            self._start_http()
        wanted = self.desired.functions
        await self.supervisor.adopt(wanted)
        self.sources.settle()
        for function in list(self.supervisor.functions.values()):
            function.source = self.desired.source(function.name)
            await self.versions.record_adopted(function.spec)
        reclaim(self.node)
        for gpu in self.node.gpus.values():
            self.background(gpu.care())
        # They start up while this process imports gRPC.
        frontends = asyncio.create_task(self.supervisor.frontends.start())
        self.background(self._load_wanted(wanted))
        try:
            await asyncio.sleep(0)
            await self._start_control()
            await frontends
        except BaseException:
            frontends.cancel()
            await asyncio.gather(frontends, return_exceptions=True)
            raise
        self._accepting = True
        if not self._http:
            self._start_http()
        self.node.changes.notify()
        self.background(self.supervisor.care())
        self.background(self.supervisor.keep_spares())
        self.background(self._sample())
        self.background(self.moves.run())
        self.background(self.applying.watch())
        self.background(self.controller.run(decides=self._config.node.controller == "auto"))
        if self._before.upgrade:
            self.background(self.upgrade.finish())
        if self._before.stop:
            self.stop()

    def _start_http(self) -> None:
        frontends = self.supervisor.frontends
        applications = pages(
            lambda: self.state == "SERVING",
            self.reader.reading,
            lambda: frontends.access.now,
            triton=self._config.node.metrics_triton,
        )
        self._http = serve_pages(self._config.node, applications, self._before)
        self._addresses.metrics = self._http["metrics"].address

    async def _start_control(self) -> None:
        from gslice.daemon.control_api import ControlServer

        control = ControlServer(self, self._config.node.control_path)
        await control.start()
        self._control = control

    async def _load_wanted(self, wanted: dict[str, FunctionSpec]) -> None:
        """Loads what does not run as wanted already, side by side."""
        await self._loads.load_missing(wanted.values(), self.versions.likely)
        self._loaded = True
        self.node.changes.notify()

    async def _stop(self) -> None:
        """The staged stop, until somebody is in a hurry; then the end of what is left."""
        drain = asyncio.create_task(self._drain())
        hurry = asyncio.create_task(self._hurry.wait())
        await asyncio.wait({drain, hurry}, return_when=asyncio.FIRST_COMPLETED)
        drain.cancel()
        hurry.cancel()
        drained, _ = await asyncio.gather(drain, hurry, return_exceptions=True)
        await self.supervisor.kill()
        await end_strays(self.node)
        if isinstance(drained, Exception):
            raise drained

    async def _drain(self) -> None:
        await self._tasks.cancel()
        await self.supervisor.stop(self._drain_s)

    async def _fail(self) -> None:
        """Ends what was begun; but what an earlier daemon left goes on, for the next one."""
        if self.supervisor.inherited:
            await self._tasks.cancel()
            await self.supervisor.leave()
        else:
            await self._drain()

    async def _hand_over(self, handover: Handover) -> None:
        """Lets everything run on for the next daemon, which takes this one's place."""
        handover.listeners = await hand_over(self._http)
        self._http.clear()
        await self._tasks.cancel()
        await self.supervisor.leave()
        handover.upgrade = self.upgrade.to_json()

    async def _close(self) -> None:
        for server in self._http.values():
            await asyncio.to_thread(server.close)
        self.events.close()
        self.sources.close()
        if self._control is not None:
            await self._control.stop(_STOP_GRACE_S if self.handover is None else _HANDOVER_GRACE_S)
        reclaim(self.node)
        self.audit.close()
        self.node.run_dir.close()

    # ---- orders ------------------------------------------------------------------------------

    async def load(self, spec: FunctionSpec, stage: Callable[[str, str], None]) -> None:
        """Loads a function on somebody's order; it stays wanted from then on.

        Raises:
            GsliceError: it could not be loaded, and what was wanted before still is.
        """
        await self._loads.load(spec, stage, anew=True)
        self.desired.put(spec)
        self.supervisor.function(spec.name).source = self.desired.source(spec.name)
        stage("done", "")

    def begin_upgrade(self, *, workers: bool = False) -> None:
        """Puts the code on disk in this daemon's place, in the background: see `upgrade`.

        Args:
            workers: They are replaced, too.

        Raises:
            FailedPrecondition: it cannot be begun now.
        """
        self.upgrade.begin(self.state, workers=workers)
        self.background(self._upgrade())

    async def resize(self, name: str, share: str, stage: Callable[[str, str], None]) -> Resized:
        """Changes a function's share on somebody's order; it stays wanted from then on.

        Args:
            name: The function's.
            share: YAML, as under functions.<name>.share.
            stage: Told of each stage.

        Raises:
            GsliceError: as `Supervisor.resize`; what was wanted before still is.
        """
        try:
            resized = await self.supervisor.resize(name, share_from_yaml(name, share), stage)
        except GsliceError as error:
            self.node.event(name, EventKind.FAILED, f"not resized: {error.message}")
            raise
        function = self.supervisor.function(name)
        declared = self.desired.declared(name)  # what serves may be another version
        self.desired.put(dataclasses.replace(declared, share=function.spec.share))
        function.source = self.desired.source(name)
        text = f"{resized.share_granted_percent:g}% granted ({resized.path})"
        self.node.event(name, EventKind.SHARE, text)
        return resized

    async def unload(self, name: str, stage: Callable[[str, str], None]) -> None:
        """Unloads a function on somebody's order.

        Raises:
            NotFound: there is none of that name.
        """
        await self._loads.unload(name, stage)
        self.desired.remove(name)
        self.node.event(name, EventKind.UNLOAD, "unloaded")
        stage("done", "")

    async def save(self) -> Saved:
        """Writes what is wanted into node.yaml, and follows that where it wins: `Desired.save`."""
        saved = self.desired.save()
        for function in self.supervisor.functions.values():
            function.source = "file"
        self._tell(EventKind.CONFIG, f"{len(saved.changes)} change(s) saved to {saved.path}")
        self.node.changes.notify()
        await self._follow_desired(saved.overruled)
        return saved

    async def discard(self) -> Saved:
        """Drops the overlay, and goes back to what node.yaml says."""
        dropped = self.desired.discard()
        await self._follow_desired({*self.supervisor.functions, *self.desired.functions})
        self._tell(EventKind.CONFIG, f"{len(dropped.changes)} run-time change(s) dropped")
        return dropped

    def background(self, work: Coroutine[None, None, _T]) -> asyncio.Task[_T]:
        """Runs something that ends with the daemon at the latest."""
        return self._tasks.start(work)

    # ---- parts -----------------------------------------------------------------------------

    async def _follow_desired(self, names: Iterable[str]) -> None:
        """Of these functions, unloads what is not wanted and loads what does not run as wanted."""
        wanted = self.desired.functions
        for name in self.supervisor.functions.keys() & names - wanted.keys():
            await self._loads.unload(name, unheard)
        await self._load_wanted({name: wanted[name] for name in wanted.keys() & names})

    async def _upgrade(self) -> None:
        if await self.upgrade.prepare():
            self.handover = Handover(stop=self._stop_asked.is_set())
            self._stop_asked.set()

    async def _sample(self) -> None:
        while True:
            self.reader.sample()
            await self.supervisor.frontends.access.refresh(self.supervisor.frontends)
            await asyncio.sleep(_SAMPLE_PERIOD_S)

    def _tell(self, kind: EventKind, text: str) -> None:
        self.node.event(DAEMON_LOG_NAME, kind, text)
