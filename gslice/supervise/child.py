"""A child of the daemon: a process and the control channel to it.

`<state_dir>/run/<name>.sock` exists as long as the child does. A later daemon connects to it again:
that is adoption, and it goes through the same handshake as a start.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import TYPE_CHECKING, TypeVar

from gslice.core.errors import (
    ChannelClosed,
    DeadlineExceeded,
    FailedPrecondition,
    GsliceError,
    NotFound,
    Unavailable,
)
from gslice.ipc.async_channel import AsyncChannel
from gslice.ipc.channel import MAX_FDS, Received
from gslice.ipc.messages import PROTOCOL_VERSION, Exit, Hello, Left, Message, Ok, TakeIn
from gslice.supervise import process
from gslice.supervise.logs import last_line, opened
from gslice.supervise.process import Lodger, Process

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from gslice.supervise.process import Launch
    from gslice.supervise.run_dir import RunDir

HELLO_TIMEOUT_S = 30.0
ADOPT_TIMEOUT_S = 10.0
CLOSED_TIMEOUT_S = 5.0
_A = TypeVar("_A")


class Child:
    """A running child after its handshake. Made by `start` or `adopt`.

    Attributes:
        closed_timeout_s: How long it may take to end once it has closed its channel.
    """

    def __init__(
        self, run_dir: RunDir, name: str, on_call: Callable[[Child, Received], None]
    ) -> None:
        self.name = name
        self.closed_timeout_s = CLOSED_TIMEOUT_S
        self._run_dir = run_dir
        self._on_call = on_call
        self._hello: asyncio.Future[Hello] = asyncio.get_running_loop().create_future()
        self._fds: list[int] = []
        self._process: Process | Lodger | None = None
        self._known: dict[tuple[int, int], Process] = {}
        self._channel: AsyncChannel | None = None
        self._reaper: asyncio.TimerHandle | None = None

    @classmethod
    async def start(
        cls,
        run_dir: RunDir,
        name: str,
        launch: Launch,
        on_call: Callable[[Child, Received], None],
    ) -> Child:
        """Starts a process and shakes hands with it.

        Args:
            run_dir: Where its socket goes.
            name: Of the socket; unique.
            launch: What to start.
            on_call: Takes what the child says on its own account.

        Raises:
            Unavailable: it died or said nothing in time, and the message has its last line; or
                the node is short of processes, descriptors or space.
            FailedPrecondition: it speaks another protocol.
        """
        child = cls(run_dir, name, on_call)
        try:
            with run_dir.listen(name) as listener:
                child._process = process.start(launch, listener)
            child._process.death.add_done_callback(child._gone)
            run_dir.note(name, child._process.pid, child._process.started)
            child._connect()
            await child._shake_hands(HELLO_TIMEOUT_S)
        except (ChannelClosed, DeadlineExceeded, NotFound) as error:
            await child.kill()
            reason = last_line(launch.log) or error.message
            raise Unavailable(
                f"{launch.module} {child.process.death.result()} while starting: {reason}"
            ) from None
        except OSError as error:
            await child.kill()
            run_dir.remove(name)
            raise Unavailable(
                f"{launch.module} cannot be started: {error}",
                hint="the node is short of processes, descriptors or disk space",
            ) from error
        except BaseException:
            await child.kill()
            raise
        return child

    @classmethod
    async def lodge(
        cls,
        run_dir: RunDir,
        name: str,
        host: Child,
        log: Path,
        on_call: Callable[[Child, Received], None],
    ) -> Child:
        """Has a host take in one more, and shakes hands with it.

        Args:
            run_dir: Where its socket goes.
            name: Of the socket; unique.
            host: The process that it is to live in.
            log: File that takes what it logs.
            on_call: Takes what it says on its own account.

        Raises:
            ChannelClosed: the host ends, or has.
            GsliceError: it did not come up.
        """
        child, lives_in = cls(run_dir, name, on_call), host.process
        assert isinstance(lives_in, Process)
        try:
            with run_dir.listen(name) as listener, opened(log) as log_fd:
                fds = (listener.fileno(), log_fd)
                await host.request(TakeIn(name), Ok, fds=fds, timeout_s=HELLO_TIMEOUT_S)
            child._process = Lodger(lives_in)
            child._process.death.add_done_callback(child._gone)
            run_dir.note(name, lives_in.pid, lives_in.started)
            child._connect()
            await child._shake_hands(HELLO_TIMEOUT_S)
        except BaseException:  # without a daemon, and empty, it ends by itself
            child.detach()
            run_dir.remove(name)
            raise
        return child

    @classmethod
    async def adopt(
        cls,
        run_dir: RunDir,
        name: str,
        on_call: Callable[[Child, Received], None],
        known: dict[tuple[int, int], Process] | None = None,
    ) -> Child:
        """Takes over a child that an earlier daemon started.

        Args:
            run_dir: Where its socket is.
            name: Of the socket.
            on_call: As of `start`.
            known: The processes of those adopted before, by id and start; this one's is added.

        Raises:
            NotFound: it is gone.
            FailedPrecondition: it speaks another protocol.
            DeadlineExceeded: it does not answer.
        """
        child = cls(run_dir, name, on_call)
        child._known = {} if known is None else known
        child._connect()
        try:
            await child._shake_hands(ADOPT_TIMEOUT_S)
        except ChannelClosed:
            raise NotFound(f"the child {name} ended while it was adopted") from None
        except BaseException:
            child._close()
            raise
        return child

    @property
    def process(self) -> Process | Lodger:
        """The process itself, or this one's place in it."""
        assert self._process is not None
        return self._process

    @property
    def is_lodger(self) -> bool:
        """Whether it is one of several in its process."""
        return isinstance(self._process, Lodger)

    @property
    def is_blamed(self) -> bool:
        """Whether its process may have died of what it did."""
        return not isinstance(self._process, Lodger) or self._process.is_blamed

    @property
    def works(self) -> bool:
        """Of one of several in a process: whether it does something, or did when that died."""
        return isinstance(self._process, Lodger) and self._process.works()

    @property
    def closed(self) -> bool:
        """Whether it can be told nothing any more."""
        return self._channel is None or self._channel.closed

    @property
    def hello(self) -> Hello:
        """What it said first."""
        return self._hello.result()

    def take_fds(self, most: int = MAX_FDS) -> list[int]:
        """The descriptors that came with Hello or an answer, in order, which nobody has taken.

        Args:
            most: How many; the caller owns them from now on.
        """
        taken, self._fds[:most] = self._fds[:most], []
        return taken

    def send(self, message: Message, fds: Sequence[int] = (), seq: int = 0) -> None:
        """Sends a message that expects no answer; a dying child does not get it."""
        assert self._channel is not None
        # Its death is noticed by the pidfd, which does what has to be done.
        with contextlib.suppress(ChannelClosed):
            self._channel.send(message, fds, seq)

    async def request(
        self, message: Message, answer: type[_A], *, fds: Sequence[int] = (), timeout_s: float
    ) -> _A:
        """Asks the child; see `AsyncChannel.request`. Descriptors wait for `take_fds`."""
        assert self._channel is not None
        return await self._channel.request(
            message, answer, fds=fds, fds_to=self._fds, timeout_s=timeout_s
        )

    async def stop(self, timeout_s: float) -> None:
        """Tells it to end in order, and kills it when it has not after `timeout_s`."""
        self.send(Exit())
        if not await self.process.wait(timeout_s):
            await self.kill()

    async def dismiss(self, timeout_s: float) -> None:
        """Ends one that serves nothing: at once, unless others are in its process."""
        await (self.stop(timeout_s) if self.is_lodger else self.kill())

    def abort(self) -> None:
        """Kills it, and leaves the rest to those who wait for its death."""
        self.process.signal(signal.SIGKILL)

    async def kill(self) -> None:
        """Kills it and waits until it is gone."""
        if self._process is not None:
            await self._process.kill()
        self._close()

    def detach(self) -> None:
        """Leaves it running, for a later daemon."""
        if self._channel is not None:
            self._channel.close()
        for fd in self.take_fds():
            os.close(fd)

    def _connect(self) -> None:
        connection = self._run_dir.connect(self.name)
        self._channel = AsyncChannel(connection, self._on_message, self._on_close)

    async def _shake_hands(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                hello = await asyncio.shield(self._hello)
        except TimeoutError:
            raise DeadlineExceeded(
                f"the child {self.name} said nothing for {timeout_s:g} s"
            ) from None
        if self._process is None:
            self._process = self._found(hello)
            self._process.death.add_done_callback(self._gone)
        if hello.protocol != PROTOCOL_VERSION:
            raise FailedPrecondition(
                f"the child {self.name} speaks protocol {hello.protocol}, "
                f"this daemon {PROTOCOL_VERSION}"
            )
        if (hello.pid, hello.started) != (self._process.pid, self._process.started):
            raise FailedPrecondition(f"the child {self.name} says it is process {hello.pid}")

    def _found(self, hello: Hello) -> Process | Lodger:
        key = hello.pid, hello.started
        if key not in self._known:
            self._known[key] = Process(*key)
        hosted = hello.worker is not None and hello.worker.hosted
        return Lodger(self._known[key]) if hosted else self._known[key]

    def _on_message(self, received: Received) -> None:
        if isinstance(received.message, Left) and isinstance(self._process, Lodger):
            self._process.left()
        elif self._hello.done():
            self._on_call(self, received)
        elif isinstance(received.message, Hello):
            self._fds += received.fds
            received.fds = []
            self._hello.set_result(received.message)
        else:
            self._fail_hello(FailedPrecondition(f"the child {self.name} did not say Hello first"))

    def _on_close(self, reason: GsliceError) -> None:
        self._fail_hello(ChannelClosed(reason.message))
        if self._process is not None and self._process.alive:
            # Usually it is about to end. One that lives on cannot be led any more.
            loop = asyncio.get_running_loop()
            self._reaper = loop.call_later(
                self.closed_timeout_s, self._process.signal, signal.SIGKILL
            )

    def _fail_hello(self, reason: GsliceError) -> None:
        if not self._hello.done():
            self._hello.set_exception(reason)
            self._hello.exception()  # nobody reads it where the start was cancelled

    def _gone(self, _death: asyncio.Future[str]) -> None:
        self._fail_hello(ChannelClosed(f"the child {self.name} has died"))
        if self._reaper is not None:
            self._reaper.cancel()
        self._close()

    def _close(self) -> None:
        self.detach()
        if self._process is not None and not self._process.alive:
            self._run_dir.remove(self.name)
