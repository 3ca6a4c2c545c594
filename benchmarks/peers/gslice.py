"""gslice: a node with one function. docs/operations.md

The function may compute one request at a time, as everywhere in this race. Nothing limits the
device, for all of the server shares one core, and no spare worker is started beside it.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.load import ONE_CONNECTION
from benchmarks.peers.calls import GrpcCalls
from benchmarks.peers.peer import HOST, Installed, Peer
from benchmarks.peers.server import Command
from benchmarks.peers.streams import Stream
from gslice import __version__

_SMALL_BYTES = 64 << 10  # of a tensor
_WAITING_MAX = 1024


class Gslice(Peer):
    """gslice, from this environment.

    Args:
        frontend: `node.frontend`; empty: whatever is the default.
    """

    name = "gslice"
    package = "gslice"
    documentation = "docs/operations.md"
    protocol = GrpcCalls
    has_model_config = True

    def __init__(self, frontend: str = "") -> None:
        self._frontend = frontend

    def find(self, environments: Path) -> Installed:
        """It is here, and knows better than its distribution, which may be an older build's."""
        found = self.installed(Path(sys.executable))
        return replace(
            found, version=__version__, versions={**found.versions, self.package: __version__}
        )

    def command(
        self, installed: Installed, stream: Stream, directory: Path, ports: list[int]
    ) -> Command:
        """`gslice serve` of a node.yaml."""
        node = {
            "grpc": f"{HOST}:{ports[0]}",
            "http": "off",
            "metrics": f"{HOST}:{ports[2]}",
            "state_dir": "./state",
            "spares": 0,
            **({"frontend": self._frontend} if self._frontend else {}),
            **ONE_CONNECTION,
        }
        config = {
            "version": 1,
            "node": node,
            "devices": {"cpu": {"limiter": "none"}},
            "functions": {stream.function: _function(stream)},
        }
        text = json.dumps(config, indent=1)  # which is YAML, too
        arguments = [str(installed.python), "-m", "gslice", "serve", "-c", "node.yaml"]
        return Command(arguments, {}, {"node.yaml": text}, {})


def _function(stream: Stream) -> dict[str, Any]:
    # Peers bound no queue; the default would refuse what comes while the machine stalls for 5 ms.
    whole: dict[str, Any] = {"batch": {"max": 1}}
    if stream.array.nbytes <= _SMALL_BYTES:
        whole["queue"] = {"max": _WAITING_MAX}
    if stream.model is not None:
        return {"model": str(stream.model), "threads": 1, **whole}
    tensor = {
        "name": stream.input,
        "dtype": stream.described()["datatype"],
        "dims": [-1, *stream.array.shape[1:]],
    }
    return {"identity": {"inputs": [tensor]}, **whole}
