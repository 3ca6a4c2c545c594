"""gslice.v1.Control on a Unix socket that only its owner can open."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
import grpc.aio

from gslice.core.config import share_from_yaml
from gslice.core.errors import GsliceError, InvalidArgument, NotFound, Unavailable
from gslice.core.events import EventKind
from gslice.daemon.apply_api import apply_plan, setting_changes
from gslice.daemon.audit import DAEMON
from gslice.daemon.peers import caller
from gslice.daemon.plan_api import plan_reply
from gslice.daemon.profile_api import profile_steps
from gslice.daemon.record_api import record_steps
from gslice.daemon.replies import event_reply, resized_reply, version_reply
from gslice.daemon.rollback import plan_rollback, roll_back
from gslice.daemon.store import EventFilter
from gslice.protos import message
from gslice.protos.rpc import abort, generic_handler
from gslice.supervise.logs import DAEMON_LOG_NAME, SPARES_LOG_NAME, follow, last_lines
from gslice.supervise.renewal import LOG_NAME
from gslice.supervise.resize import Resized

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from gslice.daemon.daemon import Daemon

SERVICE = "gslice.v1.Control"
LINES_MAX = 10_000
_T = TypeVar("_T")
_WATCH_INTERVAL_MS = 1000
_WATCH_INTERVAL_MIN_MS = 20


class ControlServer:
    """Serves the control API.

    Args:
        daemon: Does what is asked.
        path: Of the socket; its directory must be its owner's alone.
    """

    def __init__(self, daemon: Daemon, path: Path) -> None:
        self._path = path
        self._server = grpc.aio.server()
        self._server.add_generic_rpc_handlers((generic_handler(SERVICE, Servicer(daemon, path)),))

    async def start(self) -> None:
        """Listens; a socket that a dead daemon left is replaced.

        Raises:
            Unavailable: no socket can be made there.
        """
        try:
            self._path.unlink(missing_ok=True)
            self._server.add_insecure_port(f"unix:{self._path}")
            self._path.chmod(0o600)
        except (OSError, RuntimeError) as error:
            raise Unavailable(
                f"cannot listen on {self._path}: {error}", hint="is the state directory ours alone?"
            ) from error
        await self._server.start()

    async def stop(self, grace_s: float) -> None:
        """Ends all calls, after a grace, and removes the socket."""
        await self._server.stop(grace_s)
        self._path.unlink(missing_ok=True)


class Servicer:
    """The calls of gslice.v1.Control.

    Args:
        daemon: Does what is asked.
        path: Of the socket that calls come by.
    """

    def __init__(self, daemon: Daemon, path: Path) -> None:
        self._daemon = daemon
        self._path = path

    async def GetStatus(self, request: Any, context: Any) -> Any:
        """What runs, with figures of the last seconds."""
        return self._status()

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """The status again whenever it changes, and at least every interval."""
        interval_ms = max(_WATCH_INTERVAL_MIN_MS, request.interval_ms or _WATCH_INTERVAL_MS)
        changes, events = self._daemon.node.changes, self._daemon.events.watcher()
        while True:
            seen = changes.version
            status = self._status()
            status.events.extend(map(event_reply, events.news()))
            yield status
            await changes.wait(seen, interval_ms / 1000)

    async def Load(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """Adds a function, or loads a declared one."""
        try:
            spec = self._daemon.desired.read(request.name, request.function_yaml, request.base_dir)
        except GsliceError as error:
            await abort(context, error)
        audited = self._audited(context, "load", request.name)
        async for stage in self._stages(lambda stage: self._daemon.load(spec, stage), audited):
            yield stage

    async def Unload(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """Drains and removes a function."""
        try:
            self._daemon.supervisor.function(request.name)
        except GsliceError as error:
            await abort(context, error)
        audited = self._audited(context, "unload", request.name)
        async for stage in self._stages(
            lambda stage: self._daemon.unload(request.name, stage), audited
        ):
            yield stage

    async def Resize(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """Changes the share of a function that serves, or says what that would do."""
        try:
            plan = await self._daemon.supervisor.plan_resize(
                request.name, share_from_yaml(request.name, request.share)
            )
        except GsliceError as error:
            await abort(context, error)
        if request.dry_run:
            planned = resized_reply(Resized(plan.path, plan.share_percent))
            yield message("gslice.v1.Stage")(name="plan", detail=plan.text, resized=planned)
            return
        resized = Resized()

        async def order(stage: Callable[[str, str], None]) -> None:
            nonlocal resized
            resized = await self._daemon.resize(request.name, request.share, stage)
            stage("done", "")

        audited = self._audited(context, "resize", request.name, request.share)
        async for stage in self._stages(order, audited):
            if stage.name == "done":
                stage.resized.CopyFrom(resized_reply(resized))
            yield stage

    async def Drain(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """Has the functions of a device leave, or lets them come again."""
        moves, device = self._daemon.moves, request.device
        try:
            self._daemon.node.device(device)
        except GsliceError as error:
            await abort(context, error)

        async def undrain(stage: Callable[[str, str], None]) -> None:
            moves.undrain(device)
            stage("done", "")

        order = undrain if request.undo else lambda stage: moves.drain(device, stage)
        audited = self._audited(context, "undrain" if request.undo else "drain", device)
        async for stage in self._stages(order, audited):
            yield stage

    async def Profile(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """Measures a function, or shows what was measured."""
        async with contextlib.aclosing(profile_steps(self._daemon, request)) as steps:
            try:
                async for step in steps:
                    yield step
            except GsliceError as error:
                await abort(context, error)

    async def Record(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """Copies requests of a function's clients."""
        detail = f"{request.requests} requests, {request.duration_us / 1e6:g} s at most"
        try:
            async with (
                self._audited(context, "record", request.name, detail),
                contextlib.aclosing(record_steps(self._daemon, request)) as steps,
            ):
                async for step in steps:
                    yield step
        except GsliceError as error:
            await abort(context, error)

    async def Plan(self, request: Any, context: Any) -> Any:
        """What the controller decides, or would decide."""
        try:
            return plan_reply(self._daemon.controller.what_if(request.what_if))
        except GsliceError as error:
            await abort(context, error)

    async def Rollback(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """Serves another version of a function, or says what that would do."""
        try:
            plan = await plan_rollback(self._daemon, request.name, request.version)
        except GsliceError as error:
            await abort(context, error)
        if request.dry_run:
            yield message("gslice.v1.Stage")(name="plan", detail=plan.text)
            return
        audited = self._audited(context, "rollback", request.name, plan.text)
        async for stage in self._stages(
            lambda stage: roll_back(self._daemon, plan, stage), audited
        ):
            yield stage

    async def Versions(self, request: Any, context: Any) -> Any:
        """The versions of a function that have served."""
        try:
            function = self._daemon.supervisor.functions.get(request.name)
            versions = self._daemon.versions.listed(request.name, function)
        except GsliceError as error:
            await abort(context, error)
        return message("gslice.v1.VersionsReply")(
            versions=[version_reply(*each) for each in versions]
        )

    async def Events(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """What happened, then what happens."""
        wanted = EventFilter(request.subject, tuple(request.kinds))
        try:
            self._check_filter(wanted)
            async for event in self._daemon.events.read(
                wanted, request.limit, follow=request.follow
            ):
                yield event_reply(event)
        except GsliceError as error:
            await abort(context, error)

    async def Diff(self, request: Any, context: Any) -> Any:
        """How what is wanted differs from node.yaml."""
        changes = setting_changes(self._daemon.desired.diff())
        return message("gslice.v1.DiffReply")(changes=changes)

    async def Save(self, request: Any, context: Any) -> Any:
        """Writes the overlay into node.yaml, or drops it."""
        try:
            discards = request.discard_overlay
            order = self._daemon.discard() if discards else self._daemon.save()
            audited = self._audited(context, "discard" if discards else "save", DAEMON)
            # It must not stop half-way when the caller leaves.
            saved = await asyncio.shield(self._daemon.background(_within(audited, order)))
        except GsliceError as error:
            await abort(context, error)
        return message("gslice.v1.SaveReply")(
            path=str(saved.path or ""),
            changes=setting_changes(saved.changes),
            overruled=saved.overruled,
        )

    async def PlanApply(self, request: Any, context: Any) -> Any:
        """How what runs differs from what node.yaml says by now."""
        try:
            return apply_plan(await self._daemon.applying.plan(), self._daemon.desired.path)
        except GsliceError as error:
            await abort(context, error)

    async def Apply(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """Has the node follow node.yaml as it is by now."""
        applying = self._daemon.applying
        audited = self._audited(context, "apply", DAEMON, str(self._daemon.desired.path))
        async for stage in self._stages(
            lambda stage: applying.carry_out(request.digest, stage), audited
        ):
            yield stage

    async def Logs(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """The last log lines of a process, then what follows."""
        line = message("gslice.v1.LogLine")
        known = {LOG_NAME, DAEMON_LOG_NAME, SPARES_LOG_NAME, *self._daemon.supervisor.functions}
        known.update(self._daemon.node.hosts.log_names)
        if request.name not in known:
            error = NotFound(
                f"nothing called {request.name!r} keeps a log", hint=", ".join(sorted(known))
            )
            await abort(context, error)
        path = self._daemon.node.log_path(request.name)
        if not request.follow:
            for text in last_lines(path, min(request.lines, LINES_MAX)):
                yield line(text=text)
            return
        async for text in follow(path, min(request.lines, LINES_MAX)):
            yield line(text=text)

    async def Upgrade(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """Puts the code on disk in this daemon's place; or goes on with its stages."""
        upgrade = self._daemon.upgrade
        if not request.follow:
            try:
                async with self._audited(context, "upgrade", DAEMON):
                    self._daemon.begin_upgrade(workers=request.workers)
            except GsliceError as error:
                await abort(context, error)
        async for passed in upgrade.follow():
            yield message("gslice.v1.Stage")(**vars(passed))

    async def Shutdown(self, request: Any, context: Any) -> Any:
        """Asks for the staged stop, and answers before it ends."""
        drain_s = request.drain_timeout_ms / 1000 if request.drain_timeout_ms else None
        async with self._audited(context, "stop", DAEMON):
            self._daemon.stop(drain_s)
        return message("gslice.v1.ShutdownReply")()

    def _check_filter(self, wanted: EventFilter) -> None:
        """What can never be found is a mistake, for which nobody should wait.

        Raises:
            InvalidArgument: there is no such kind.
            NotFound: nothing of that name is here, nor was.
        """
        for kind in wanted.kinds:
            if kind not in set(EventKind):
                raise InvalidArgument(f"no kind of event is {kind!r}", hint=", ".join(EventKind))
        daemon, subject = self._daemon, wanted.subject
        known = {LOG_NAME, DAEMON_LOG_NAME, *daemon.node.gpus}
        known |= {*daemon.supervisor.functions, *daemon.desired.functions}
        if subject and subject not in known and not daemon.events.known(subject):
            raise NotFound(
                f"nothing is or was called {subject!r} here", hint=", ".join(sorted(known))
            )

    def _status(self) -> Any:
        path = self._daemon.desired.path
        empty = message("gslice.v1.Status")()
        return self._daemon.reader.status(empty, self._daemon.state, str(path or ""))

    def _audited(
        self, context: Any, what: str, subject: str, detail: str = ""
    ) -> AbstractAsyncContextManager[None]:
        frontends = [each.child.process.pid for each in self._daemon.supervisor.frontends.all()]
        who = caller(self._path, context, frontends)
        return self._daemon.audit.action(who, what, subject, detail)

    async def _stages(
        self,
        order: Callable[[Callable[..., None]], Coroutine[None, None, None]],
        audited: AbstractAsyncContextManager[None],
    ) -> AsyncIterator[Any]:
        """Carries an order out and yields its stages; it goes on if the caller leaves."""
        stage = message("gslice.v1.Stage")
        begun_s = time.monotonic()
        passed: asyncio.Queue[Any] = asyncio.Queue()
        done: list[Any] = []  # told when it stands in the audit log

        def pass_on(name: str, detail: str, subject: str = "") -> None:
            elapsed_ms = (time.monotonic() - begun_s) * 1000
            told = stage(name=name, detail=detail, elapsed_ms=elapsed_ms, subject=subject)
            (done.append if name == "done" and not subject else passed.put_nowait)(told)

        async def carry_out() -> None:
            try:
                await _within(audited, order(pass_on))
                for told in done:
                    passed.put_nowait(told)
            except GsliceError as error:
                pass_on("failed", str(error))
            except asyncio.CancelledError:
                pass_on("failed", "the daemon is stopping")
                raise
            except Exception as error:
                pass_on("failed", f"{type(error).__name__}: {error}")
                raise
            finally:
                passed.put_nowait(None)

        self._daemon.background(carry_out())
        while (item := await passed.get()) is not None:
            yield item


async def _within(
    audited: AbstractAsyncContextManager[None], order: Coroutine[None, None, _T]
) -> _T:
    async with audited:
        return await order
