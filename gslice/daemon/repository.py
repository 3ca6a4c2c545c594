"""What clients ask of the daemon, passed on by a front-end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gslice.core.errors import GsliceError, Internal, InvalidArgument, Unavailable
from gslice.daemon.overrides import json_body, refuse_other_code
from gslice.ipc.messages import Failed, Ok, RepositoryCall, Wake
from gslice.supervise.news import unheard

if TYPE_CHECKING:
    from gslice.daemon.daemon import Daemon
    from gslice.ipc.channel import Received
    from gslice.supervise.child import Child


class Repository:
    """Carries out ModelLoad and ModelUnload, and wakes what rests.

    Args:
        daemon: Does it.
    """

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def called(self, child: Child, received: Received) -> None:
        """A front-end asks for something."""
        if isinstance(received.message, RepositoryCall):
            self._daemon.background(self._obey(child, received.message, received.seq))
        elif isinstance(received.message, Wake):
            self._wake(received.message.name)
        else:
            error = InvalidArgument(f"the daemon takes no {type(received.message).__name__}")
            child.send(Failed(error.code, error.message), seq=received.seq)

    def _wake(self, name: str) -> None:
        function = self._daemon.supervisor.functions.get(name)
        if function is not None and self._daemon.state != "DRAINING":  # else its end answers them
            function.residency.wake()

    async def _obey(self, child: Child, call: RepositoryCall, seq: int) -> None:
        daemon = self._daemon
        answer: Ok | Failed = Failed(Internal.code, "the daemon failed over it; its log says more")
        try:
            if call.call == "load":
                spec = daemon.desired.read(call.name, json_body(call.config))
                refuse_other_code(spec, daemon.desired.declared(call.name))
                await daemon.load(spec, unheard)
            else:
                await daemon.unload(call.name, unheard)
            answer = Ok()
        except GsliceError as error:
            answer = Failed(error.code, str(error))
        except asyncio.CancelledError:
            answer = Failed(Unavailable.code, "the daemon is stopping")
            raise
        finally:
            child.send(answer, seq=seq)  # in any case: the front-end waits without an end
