"""A whole gslice node in a child process, started from a node.yaml and gone without a trace.

The child is the ordinary `gslice serve -c node.yaml`, on free loopback ports, with its state in a
directory of its own. Benchmarks use it too.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio
from ruamel.yaml import YAML

from gslice.client.control import SOCKET
from gslice.core.errors import DeadlineExceeded, LoadFailed, Unavailable
from gslice.demo.leftovers import Traces
from gslice.protos import message
from gslice.protos.rpc import Stub

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 20.0
FREE_PORT = "127.0.0.1:0"
_PR_SET_PDEATHSIG = 1


class ServedNode:
    """Serves while its context is open.

    Args:
        directory: An existing directory for node.yaml, state and logs; the path must be unique to
            this node, because that is how its processes are told from others.
        functions: What goes under `functions` in node.yaml.
        devices: What goes under `devices`.
        cores: Where all its processes run; default: where this process may.
        grpc_address: Where it listens; default: a free port.
        node: Further settings under `node`.
    """

    def __init__(
        self,
        directory: Path,
        functions: Mapping[str, Any],
        *,
        devices: Mapping[str, Any] | None = None,
        cores: Collection[int] | None = None,
        grpc_address: str = FREE_PORT,
        node: Mapping[str, Any] | None = None,
    ) -> None:
        self.directory = directory
        self.config = directory / "node.yaml"
        self.log = directory / "daemon.log"
        self._cores = cores
        self._functions = functions
        self._devices = devices
        self._grpc_address = grpc_address
        self._node = node or {}
        self._process: asyncio.subprocess.Process | None = None
        self._channel: grpc.aio.Channel | None = None
        self._traces = Traces(directory)
        self._libc = ctypes.CDLL(None)  # loaded here: between fork and exec it would be too late
        self.status: Any = None
        """The last `gslice.v1.Status` that was read."""
        self.leftovers: list[str] = []
        """What was still there after the stop, in words, before it was removed by force."""

    async def __aenter__(self) -> Self:
        try:
            await self.start()
            await self.wait_ready()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    @property
    def started(self) -> bool:
        """Whether there ever was a process."""
        return self.log.exists()

    @property
    def grpc_address(self) -> str:
        """Where functions are called."""
        return str(self.status.grpc_address)

    @property
    def pid(self) -> int:
        """The daemon's process."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Writes node.yaml and starts the daemon."""
        self._write_config()
        with self.log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "gslice", "serve", "-c", str(self.config)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self._traces.environment},
                start_new_session=True,  # the terminal's Ctrl-C is for us; we stop it in order
                preexec_fn=self._before_exec,
            )

    async def wait_ready(self) -> None:
        """Waits until every function serves.

        Raises:
            LoadFailed: a function could not be loaded.
            Unavailable: the daemon ended; the message has its last line.
            DeadlineExceeded: it took longer than START_TIMEOUT_S.
        """
        assert self._process is not None
        ready = asyncio.ensure_future(self._watch_until_ready())
        ended = asyncio.ensure_future(self._process.wait())
        try:
            await asyncio.wait(
                {ready, ended}, timeout=START_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED
            )
            if ready.done():
                ready.result()
            elif ended.done():
                raise Unavailable(f"the node ended while starting: {self._last_words()}")
            else:
                raise DeadlineExceeded(f"the node was not ready after {START_TIMEOUT_S:g} s")
        finally:
            ready.cancel()
            ended.cancel()
            await asyncio.gather(ready, ended, return_exceptions=True)

    async def refresh(self) -> Any:
        """Reads the status anew."""
        self.status = await self._control().GetStatus(message("gslice.v1.StatusRequest")())
        return self.status

    async def stop(self) -> None:
        """Stops the node in order; kills what has not ended after STOP_TIMEOUT_S."""
        if self._channel is not None:
            await self._channel.close()
            self._channel = None
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        self.leftovers = self._traces.left()
        self._traces.kill(STOP_TIMEOUT_S)

    async def _watch_until_ready(self) -> None:
        request = message("gslice.v1.WatchRequest")(interval_ms=100)
        watching = self._control().Watch(request, wait_for_ready=True)
        try:
            async for status in watching:
                self.status = status
                if self._all_serve():
                    return
        finally:
            watching.cancel()  # or the daemon would go on telling
        raise Unavailable(f"the node stopped telling its status: {self._last_words()}")

    def _all_serve(self) -> bool:
        states = {function.name: function.state for function in self.status.functions}
        for function in self.status.functions:
            if function.state == "FAILED":
                raise LoadFailed(f"function {function.name}: {function.reason}")
        wanted = states.keys() >= self._functions.keys() and set(states.values()) == {"READY"}
        # A worker may be faster than the front-end.
        return wanted and self.status.state == "SERVING"

    def _control(self) -> Stub:
        if self._channel is None:
            self._channel = grpc.aio.insecure_channel(
                f"unix:{self.directory / 'state' / SOCKET}",
                options=[
                    ("grpc.initial_reconnect_backoff_ms", 50),
                    ("grpc.min_reconnect_backoff_ms", 50),
                    ("grpc.max_reconnect_backoff_ms", 200),
                ],
            )
        return Stub(self._channel, "gslice.v1.Control")

    def _write_config(self) -> None:
        config: dict[str, Any] = {
            "version": 1,
            "node": {
                "grpc": self._grpc_address,
                "http": "off",
                "metrics": FREE_PORT,
                "state_dir": "./state",
                "orphan_grace": "5s",
                **self._node,
            },
            "functions": dict(self._functions),
        }
        if self._devices is not None:
            config["devices"] = dict(self._devices)
        YAML().dump(config, self.config)

    def _before_exec(self) -> None:
        # Should this process be killed outright, the daemon is told to stop. The signal follows
        # the thread that forked: asyncio forks in the event loop's, which is the main one here.
        self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if self._cores is not None:
            os.sched_setaffinity(0, self._cores)

    def _last_words(self) -> str:
        """Why the daemon ended: its last error, else the last line it printed."""
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        return (errors or lines or ["it said nothing"])[-1]
