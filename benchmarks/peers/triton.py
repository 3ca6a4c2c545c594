"""Triton: NVIDIA's server, from the wheel of pytriton, with its Python backend.

https://github.com/triton-inference-server/python_backend says how a model of it is written and
configured. tritonserver is started by itself: through pytriton every request would go to yet
another process. The wheel has no other backend, so identity is a Python model, too; a backend in
C++ would be faster. One instance, and no batching (`max_batch_size: 0`).
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.peers.calls import GrpcCalls
from benchmarks.peers.peer import HOST, PROGRAMS, Installed, Peer, told
from benchmarks.peers.server import Command
from benchmarks.peers.streams import Stream

_CONFIG = """name: "{function}"
backend: "python"
max_batch_size: 0
input [{{ name: "{input}" data_type: TYPE_{datatype} dims: {shape} }}]
output [{{ name: "{output}" data_type: TYPE_{output_datatype} dims: {output_shape} }}]
instance_group [{{ count: 1 kind: KIND_CPU }}]
"""


class Triton(Peer):
    """Triton."""

    name = "triton"
    package = "nvidia-pytriton"
    documentation = "https://github.com/triton-inference-server/python_backend"
    protocol = GrpcCalls
    has_model_config = True

    def command(
        self, installed: Installed, stream: Stream, directory: Path, ports: list[int]
    ) -> Command:
        """`tritonserver --model-repository=models`."""
        arguments = [
            *(
                str(installed.python),
                str(PROGRAMS / "triton_server.py"),
                str(directory / "backends"),
            ),
            *("--model-repository=models", f"--grpc-address={HOST}", f"--grpc-port={ports[0]}"),
            *(f"--http-address={HOST}", f"--http-port={ports[1]}"),
            *(f"--metrics-address={HOST}", f"--metrics-port={ports[2]}"),
        ]
        model = f"models/{stream.function}"
        files = {
            f"{model}/config.pbtxt": _CONFIG.format(**stream.described()),
            f"{model}/1/model.py": (PROGRAMS / "triton_model.py").read_text(),
            f"{model}/1/engine.py": (PROGRAMS / "engine.py").read_text(),
        }
        return Command(arguments, told(stream), files, {})
