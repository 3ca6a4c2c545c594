"""The MPS control daemon of one GPU: ours, started or found running, or the operator's.

Ours runs in the foreground as a child with directories of its own, so that nobody else's clients
come in and a fault stays on its GPU. It outlives a daemon that dies, as workers do; the next
daemon of the same state directory takes it over. A control daemon that an operator names is used,
and never started or ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from gslice.core.errors import FailedPrecondition, GsliceError, NotFound
from gslice.device.mps import MpsControl, MpsPaths, culprits_of, find_control, tells_fault
from gslice.device.users import owned_by
from gslice.ipc.process import owner_of, start_ticks
from gslice.supervise.logs import last_line, rotate
from gslice.supervise.mps_log import ServerLog
from gslice.supervise.process import Process, spawn

if TYPE_CHECKING:
    from collections.abc import Collection, Container

    from gslice.core.users import User

FAULT, ACTIVE = "FAULT", "ACTIVE"
START_TIMEOUT_S = 20.0
QUIT_TIMEOUT_S = 10.0
CLIENT_END_TIMEOUT_S = 5.0
FAULT_TIMEOUT_S = 1.0  # a client may notice a fault before its server says so
RECOVERY_TIMEOUT_S = 30.0
CALM_S = 0.2  # a server without clients that is about to notice their fault does so in less
SERVER_END_TIMEOUT_S = 2.0
_POLL_S = 0.02  # MPS has no event to wait for, only commands to ask with
_POLL_MAX_S = 1.0


class Mps:
    """See the module.

    Args:
        directory: Of our control daemon: pipes, logs, and a note of its process.
        given_pipe: Pipe directory of the operator's; empty: ours.
        log: What our control daemon prints.
        user: Whose clients it is for, which it runs as: it serves one user. None: we are that.

    Attributes:
        owned: It is ours.
        paths: Where clients find it.
        log: As given.
        ours: Process ids of the clients that matter to us; `Clients` sets it.
    """

    def __init__(
        self, directory: Path, given_pipe: str, log: Path, user: User | None = None
    ) -> None:
        self.owned = not given_pipe
        self._user = user if self.owned else None
        self.paths = (
            MpsPaths(directory / "pipe", directory / "log")
            if self.owned
            else MpsPaths(Path(given_pipe), None)
        )
        self._note = directory / "control.pid"
        self.log = log
        self.ours: Container[int] = ()
        self._met: set[int] = set()  # process ids that were in its lists
        self._servers: dict[int, int] = {}  # their start ticks by process id
        self._count = 0  # of clients, when it was asked last
        self._process: Process | None = None
        self._control = MpsControl("", self.paths)
        files = [log, self.paths.server_log] if self.paths.server_log else []
        self._server_log = ServerLog(*files)

    @property
    def alive(self) -> bool:
        """False: our control daemon has ended. What became of the operator's shows when asked."""
        return not self.owned or (self._process is not None and self._process.alive)

    # ---- life ------------------------------------------------------------------------------

    async def open(self, uuid: str, library: str) -> str:
        """Makes sure that a control daemon answers.

        Args:
            uuid: Of its GPU.
            library: The path of libcuda.

        Returns:
            How, for an event: `started`, `adopted` or `found`.

        Raises:
            FailedPrecondition: no program, or it does not start; the message has its words.
            Unavailable: the operator's does not answer.
        """
        self._control = MpsControl(find_control(library), self.paths, self._user)
        if not self.owned:
            await self._ask("get_server_list")
            return "found"
        if await self._adopted():
            return "adopted"
        await self._start(uuid)
        return "started"

    async def close(self) -> None:
        """Ends our control daemon and its server; clients must have gone."""
        if not self.owned or self._process is None:
            return
        if self._process.alive:
            with contextlib.suppress(GsliceError):  # it is killed then
                await self._ask("quit")
        if not await self._process.wait(QUIT_TIMEOUT_S):
            await self._process.kill()
        await self._end_servers()
        self._note.unlink(missing_ok=True)

    async def _adopted(self) -> bool:
        try:
            pid, started = map(int, self._note.read_text().split())
            process = Process(pid, started)
        except (FileNotFoundError, ValueError, NotFound):
            return False
        self._process = process
        if owner_of(pid) != (os.geteuid() if self._user is None else self._user.uid):
            await process.kill()  # its clients are other users now, and would wait for ever
            return False
        try:
            await self._await_answer(process)  # a busy one is worth waiting for: it has clients
        except FailedPrecondition:
            await process.kill()
            return False
        if await self.status() != FAULT:  # one that came while no daemon looked is to be dealt with
            self._server_log.read(self._server_log.news())
        return True

    async def _start(self, uuid: str) -> None:
        self.paths.check()
        environment = {
            **self._control.environment(),
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            "CUDA_VISIBLE_DEVICES": uuid,
        }
        try:
            self._tidy()
            self._process = spawn(
                [self._control.program, "-f"], environment, self.log, user=self._user
            )
        except OSError as error:
            raise FailedPrecondition(f"MPS cannot be started: {error}") from error
        try:
            self._note.write_text(f"{self._process.pid} {self._process.started}\n")
            await self._await_answer(self._process)
        except BaseException:
            await self._process.kill()
            self._note.unlink(missing_ok=True)
            raise
        self._server_log.read(self._server_log.news())

    def _tidy(self) -> None:
        """Removes the sockets of a dead control daemon, and makes room for a new one's logs."""
        assert self.paths.log is not None
        shutil.rmtree(self.paths.pipe, ignore_errors=True)
        for directory in (self.paths.pipe, self.paths.log):
            owned_by(directory, self._user)
        if self._user is not None:
            self.paths.pipe.parent.chmod(0o711)
        for log in (self.log, *self.paths.log.glob("*.log")):
            rotate(log)

    async def _await_answer(self, process: Process) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not await process.wait(_POLL_S):
            try:
                await self._ask("get_server_list")
            except GsliceError as error:
                if time.monotonic() > deadline:
                    raise FailedPrecondition(
                        f"MPS did not answer within {START_TIMEOUT_S:g} s: {error.message}"
                    ) from None
            else:
                return
        how = process.death.result()
        said = last_line(self.log) or "it said nothing"
        raise FailedPrecondition(f"MPS does not start: {self._control.program} {how}: {said}")

    def bound_log(self) -> None:
        """Keeps what our control daemon prints from growing without an end.

        Raises:
            OSError: it could not be moved away.
        """
        self._server_log.bound()

    # ---- clients ---------------------------------------------------------------------------

    async def clients(self) -> set[int]:
        """Process ids of all clients.

        Raises:
            GsliceError: the control daemon does not answer.
        """
        return await asyncio.to_thread(self._clients)

    async def status(self) -> str:
        """`FAULT` if a server of ours is in it, else a server's status; empty without one."""
        return await asyncio.to_thread(self._status)

    async def end_client(self, pid: int, timeout_s: float = CLIENT_END_TIMEOUT_S) -> bool:
        """Sees to it that a client's work on the GPU is over: takes it out, if it is still in.

        An operator's MPS may know it by the id of another pid namespace; then it is over when there
        is a client less.

        Returns:
            True: it is no client any more, so nothing of it can write to memory.
        """
        deadline = time.monotonic() + timeout_s
        known, count = self.owned or pid in self._met, self._count
        asked, pause_s = not known, _POLL_S
        while time.monotonic() < deadline:
            try:
                clients = await self.clients()
                if (pid not in clients) if known else (len(clients) < count):
                    self._met.discard(pid)
                    return True
                if not asked:
                    asked = True
                    await asyncio.to_thread(self._terminate, pid)
            except GsliceError:
                if not self.alive:
                    await self._end_servers()
                    return True
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _POLL_MAX_S)
        return False

    # ---- faults ----------------------------------------------------------------------------

    async def faulted(self) -> bool:
        """Whether a server is in FAULT or was since the last one, or nothing answers any more.

        Cheap where the server's log is ours to read: without a new line, nothing happened.
        """
        if not self.alive:
            return True
        news = self._server_log.news()
        if self._server_log.heard and not news.lines:
            return False
        # A server that has lost all its clients recovers at once, and tells it in its log only.
        fault = tells_fault(news.lines) or await self.status() == FAULT
        if not fault:  # else the lines are still to be read for who did it
            self._server_log.read(news)
        return fault

    async def shows_fault(self) -> bool:
        """Whether a fault shows soon, after a client lost its device."""
        deadline = time.monotonic() + FAULT_TIMEOUT_S
        while time.monotonic() < deadline:
            if await self.faulted():
                return True
            await asyncio.sleep(_POLL_S)
        return False

    def culprits(self, clients: Collection[int]) -> list[int]:
        """Whom the server's log blames since the last look, of those that were clients."""
        news = self._server_log.news()
        self._server_log.read(news)
        return culprits_of(news.lines, clients)

    async def recovered(self) -> bool:
        """Waits until the server takes clients again; all of its clients must have ended."""
        deadline = time.monotonic() + RECOVERY_TIMEOUT_S
        fault_seen, calm_since = False, None
        while self.alive and time.monotonic() < deadline:
            with contextlib.suppress(GsliceError):
                status = await self.status()
                fault_seen = fault_seen or status == FAULT
                if not status or (status == ACTIVE and fault_seen):
                    return True
                # It may have recovered already, or not have noticed yet.
                if status != ACTIVE or await self.clients():
                    calm_since = None
                elif calm_since is None:
                    calm_since = time.monotonic()
                elif time.monotonic() - calm_since > CALM_S:
                    return True
            await asyncio.sleep(_POLL_S)
        return False

    # ---- parts -----------------------------------------------------------------------------

    async def _ask(self, command: str) -> str:
        return await asyncio.to_thread(self._control.ask, command)

    def _clients(self) -> set[int]:
        found = {pid for clients in self._lists().values() for pid in clients}
        self._met |= found
        self._count = len(found)
        return found

    def _lists(self) -> dict[int, list[int]]:
        lists = {server: self._control.clients(server) for server in self._control.servers()}
        if self.owned:
            for server in lists.keys() - self._servers.keys():
                with contextlib.suppress(NotFound):  # it has ended meanwhile
                    self._servers[server] = start_ticks(server)
        return lists

    async def _end_servers(self) -> None:
        """Ends what servers a dead control daemon has left; what clients had there is over then."""
        for pid, started in list(self._servers.items()):
            with contextlib.suppress(NotFound):
                server = Process(pid, started)
                if not await server.wait(SERVER_END_TIMEOUT_S):
                    await server.kill()
            self._servers.pop(pid, None)

    def _status(self) -> str:
        servers = self._control.servers()
        if not self.owned:  # a fault of another user's server is not ours
            lists = self._lists().items()
            servers = [s for s, pids in lists if any(p in self.ours for p in pids)] or servers
        found = [self._control.status(server) for server in servers]
        return FAULT if FAULT in found else next(iter(found), "")

    def _terminate(self, pid: int) -> None:
        for server in self._control.servers():
            if pid in self._control.clients(server):
                self._control.terminate(server, pid)
