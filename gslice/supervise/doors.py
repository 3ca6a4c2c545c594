"""Where clients come in: a port for gRPC and one for HTTP, each with front-ends of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gslice.ipc.messages import REST
from gslice.supervise.frontend_launch import kind_of

if TYPE_CHECKING:
    from gslice.core.config import NodeConfig

GRPC = "grpc"
HTTP = "http"


@dataclass
class Door:
    """One port.

    Attributes:
        name: `grpc` or `http`, as its setting is called.
        asked: host:port as configured; port 0 takes a free one.
        wanted: How many front-ends share it.
        address: With the real port; empty until the first of them has found a free one.
    """

    name: str
    asked: str
    wanted: int
    address: str = ""

    def __post_init__(self) -> None:
        if not self.asked.endswith(":0"):
            self.address = self.asked

    def takes(self, address: str) -> bool:
        """Whether what listens there already may go on."""
        return self.asked.endswith(":0") or self.asked == address

    def kind(self, config: NodeConfig) -> str:
        """Of front-ends that are started for it.

        Raises:
            ConfigError: what node.yaml asks for was not built.
        """
        return REST if self.name == HTTP else kind_of(config)


def doors_of(config: NodeConfig) -> dict[str, Door]:
    """The node's, by name; HTTP's only where there is to be one."""
    doors = [Door(GRPC, config.grpc, config.frontends)]
    if config.http:
        doors.append(Door(HTTP, config.http, 1))
    return {door.name: door for door in doors}


def door_name(kind: str) -> str:
    """Through which clients reach a front-end of that kind."""
    return HTTP if kind == REST else GRPC
