"""One front-end process, as its daemon knows it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gslice.supervise.doors import door_name

if TYPE_CHECKING:
    from gslice.ipc.messages import FrontendState
    from gslice.supervise.child import Child


@dataclass
class Frontend:
    """One front-end process.

    Attributes:
        index: Its index in every segment's front-end table.
        child: The process.
        eventfd: Wakes it when answers are ready; owned here.
        state: `starting`, `serving`, `retiring` or `draining`.
        kind: What it speaks, as it says: gRPC, `python` or `native`, or HTTP, `rest`.
        tls: Digest of its certificates, as it says; empty: its port is not encrypted.
        client_memory: Prefix of the clients' memory that it takes, as it says; empty: none.
        page: It has the web page.
        asks: It asks callers who they are, as it says.
        telemetry: What it logs and traces, as it says: `telemetry_words`.
        inherited: An earlier daemon started it.
        since_s: When it began to serve, or was adopted, on the monotonic clock.
    """

    index: int
    child: Child
    eventfd: int
    state: str = "starting"
    kind: str = "python"
    tls: str = ""
    client_memory: str = ""
    page: bool = False
    asks: bool | None = None
    telemetry: str = "text info"
    inherited: bool = False
    since_s: float = field(default_factory=time.monotonic)

    @property
    def door(self) -> str:
        """The name of the door that it serves."""
        return door_name(self.kind)

    @classmethod
    def of(cls, state: FrontendState, child: Child, eventfd: int) -> Frontend:
        """What clients notice of it is as it was started, whatever the settings are by now."""
        return cls(
            state.index,
            child,
            eventfd,
            kind=state.kind,
            tls=state.tls,
            client_memory=state.client_memory,
            page=state.page,
            asks=state.asks,
            telemetry=state.telemetry,
        )
