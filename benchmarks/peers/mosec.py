"""mosec: an HTTP server in Rust before Python workers. https://mosecorg.github.io/mosec/

One worker process (`num=1`), no dynamic batching (`max_batch_size=1`). By default its bodies are
JSON; the documentation has a worker override `deserialize` and `serialize` for anything else, which
here give the bytes as they are. Requests are given up after 30 s instead of 3.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.peers.calls import HttpCalls
from benchmarks.peers.peer import HOST, PROGRAMS, Installed, Peer, told
from benchmarks.peers.server import Command
from benchmarks.peers.streams import Stream


class Mosec(Peer):
    """mosec."""

    name = "mosec"
    package = "mosec"
    documentation = "https://mosecorg.github.io/mosec/reference/arguments.html"
    protocol = HttpCalls
    path = "/inference"

    def command(
        self, installed: Installed, stream: Stream, directory: Path, ports: list[int]
    ) -> Command:
        """`python server.py --port N`, as its examples are started."""
        program = PROGRAMS / "mosec_service.py"
        arguments = [
            *(str(installed.python), str(program), "--address", HOST, "--port", str(ports[0])),
            *("--path", str(directory / "ipc"), "--timeout", "30000", "--log-level", "warning"),
        ]
        return Command(arguments, told(stream), {}, {"num": 1, "max_batch_size": 1})
