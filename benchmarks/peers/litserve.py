"""LitServe: FastAPI before Python workers. https://lightning.ai/docs/litserve

One worker (`workers_per_device=1`), one API server, no batching, and the faster of its two queues
(`fast_queue`, over ZeroMQ). The body is declared to FastAPI as bytes; with JSON, its default,
numbers would be text. It logs warnings only: by default it prints a line a request.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.peers.calls import HttpCalls
from benchmarks.peers.peer import HOST, PROGRAMS, Installed, Peer, told
from benchmarks.peers.server import Command
from benchmarks.peers.streams import Stream


class LitServe(Peer):
    """LitServe."""

    name = "litserve"
    package = "litserve"
    documentation = "https://lightning.ai/docs/litserve/api-reference/litserver"
    protocol = HttpCalls
    path = "/predict"

    def command(
        self, installed: Installed, stream: Stream, directory: Path, ports: list[int]
    ) -> Command:
        """`python server.py`, as its examples are started."""
        program = PROGRAMS / "litserve_api.py"
        arguments = [str(installed.python), str(program), "--host", HOST, "--port", str(ports[0])]
        settings: dict[str, object] = {
            "accelerator": "cpu",
            "workers_per_device": 1,
            "num_api_servers": 1,
            "max_batch_size": 1,
            "fast_queue": True,
            "log_level": "warning",
        }
        return Command(arguments, told(stream), {}, settings)
