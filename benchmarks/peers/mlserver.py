"""MLServer: KServe v2 on grpc.aio, with custom runtimes. https://docs.seldon.ai/mlserver

`parallel_workers: 0` has the model run in the server's own process, which its documentation offers;
by default another process would, and on one core every request would pay the way there and back.
No adaptive batching (its default). `debug: false` for production, as documented.
"""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.peers.calls import GrpcCalls
from benchmarks.peers.peer import HOST, PROGRAMS, Installed, Peer, told
from benchmarks.peers.server import Command
from benchmarks.peers.streams import Stream


class MLServer(Peer):
    """MLServer."""

    name = "mlserver"
    package = "mlserver"
    documentation = "https://docs.seldon.ai/mlserver/user-guide/custom"
    protocol = GrpcCalls

    def command(
        self, installed: Installed, stream: Stream, directory: Path, ports: list[int]
    ) -> Command:
        """`mlserver start .`, with settings.json and model-settings.json."""
        settings = {
            "host": HOST,
            "grpc_port": ports[0],
            "http_port": ports[1],
            "metrics_port": ports[2],
            "parallel_workers": 0,
            "debug": False,
        }
        runtime = "Detector" if stream.model else "Identity"
        model = {"name": stream.function, "implementation": f"mlserver_models.{runtime}"}
        files = {
            "settings.json": json.dumps(settings, indent=1),
            "model-settings.json": json.dumps(model, indent=1),
        }
        environment = {**told(stream), "PYTHONPATH": str(PROGRAMS)}
        return Command([str(installed.program / "mlserver"), "start", "."], environment, files, {})
