"""What clients ask of the daemon, passed on by a front-end; and what front-ends tell of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gslice.core.errors import GsliceError, Internal, InvalidArgument, Unavailable
from gslice.daemon.overrides import json_body, refuse_other_code
from gslice.ipc.messages import (
    Failed,
    KnownRegion,
    Ok,
    RegisterMemory,
    RepositoryCall,
    UnregisterMemory,
    Wake,
)
from gslice.supervise.news import unheard

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from gslice.daemon.daemon import Daemon
    from gslice.ipc.channel import Received
    from gslice.supervise.child import Child
    from gslice.supervise.client_memory import ClientMemory


class Repository:
    """Carries out ModelLoad and ModelUnload, wakes what rests, registers clients' memory.

    Args:
        daemon: Does it.
    """

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def called(self, child: Child, received: Received) -> None:
        """A front-end asks for something."""
        call = received.message
        if isinstance(call, RepositoryCall):
            self._daemon.background(self._answer(child, self._obey(call), received.seq))
        elif isinstance(call, RegisterMemory):
            self._daemon.background(
                self._answer(child, self._memory.register(call.region), received.seq)
            )
        elif isinstance(call, UnregisterMemory):
            done = self._memory.unregister(call.name, call.tenant)
            self._daemon.background(self._answer(child, done, received.seq))
        elif isinstance(call, KnownRegion):
            self._memory.keep(child, call.region, received.take_fd())
        elif isinstance(received.message, Wake):
            self._wake(received.message.name)
        else:
            error = InvalidArgument(f"the daemon takes no {type(received.message).__name__}")
            child.send(Failed(error.code, error.message), seq=received.seq)

    def _wake(self, name: str) -> None:
        function = self._daemon.supervisor.functions.get(name)
        if function is not None and self._daemon.state != "DRAINING":  # else its end answers them
            function.residency.wake()

    @property
    def _memory(self) -> ClientMemory:
        return self._daemon.supervisor.frontends.memory

    async def _obey(self, call: RepositoryCall) -> None:
        who = {"name": call.who, "via": "data port"}
        async with self._daemon.audit.action(who, call.call, call.name, call.config):
            await self._carry_out(call)

    async def _carry_out(self, call: RepositoryCall) -> None:
        daemon = self._daemon
        if call.call == "load":
            spec = daemon.desired.read(call.name, json_body(call.config))
            refuse_other_code(spec, daemon.desired.declared(call.name))
            await daemon.load(spec, unheard)
        else:
            await daemon.unload(call.name, unheard)

    async def _answer(self, child: Child, work: Coroutine[None, None, None], seq: int) -> None:
        answer: Ok | Failed = Failed(Internal.code, "the daemon failed over it; its log says more")
        try:
            await work
            answer = Ok()
        except GsliceError as error:
            answer = Failed(error.code, str(error))
        except asyncio.CancelledError:
            answer = Failed(Unavailable.code, "the daemon is stopping")
            raise
        finally:
            child.send(answer, seq=seq)  # in any case: the front-end waits without an end
