"""What a file about a server must tell: where it is, how it is set up, what is sent to it."""

from __future__ import annotations

import json
import socket
import subprocess
from abc import ABC, abstractmethod
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from benchmarks.peers.calls import Calls, GrpcCalls, HttpCalls
from benchmarks.peers.server import Command
from benchmarks.peers.streams import Stream

PROGRAMS = Path(__file__).parent / "programs"
HOST = "127.0.0.1"
STREAM_VARIABLE = "RACE_STREAM"  # tells a program in `programs` what it serves
ENGINE = "onnxruntime"

_VERSIONS = """
import importlib.metadata as metadata, json, platform, sys
found = {"python": platform.python_version()}
for name in sys.argv[1:]:
    try:
        found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        found[name] = ""
print(json.dumps(found))
"""


class NotInstalled(Exception):
    """A peer is not here; the message says what is missing."""


@dataclass(frozen=True)
class Installed:
    """A server that can be started.

    Attributes:
        python: The interpreter of its environment.
        versions: Of Python, the server, and the engine.
        version: Of the server.
    """

    python: Path
    versions: dict[str, str]
    version: str

    @property
    def program(self) -> Path:
        """The folder of its environment's commands."""
        return self.python.parent


class Peer(ABC):
    """A server in the race.

    Attributes:
        name: In rows and options; also its environment's folder.
        package: The distribution that it comes in.
        documentation: Where its set-up is taken from.
        protocol: What is spoken to it.
        path: Where it takes a POST, if it speaks HTTP.
        has_model_config: It has Triton's `ModelConfig`, without which perf_analyzer cannot begin.
    """

    name: ClassVar[str]
    package: ClassVar[str]
    documentation: ClassVar[str]
    protocol: ClassVar[type[GrpcCalls | HttpCalls]]
    path: ClassVar[str] = ""
    has_model_config: ClassVar[bool] = False

    def find(self, environments: Path) -> Installed:
        """Looks for it.

        Args:
            environments: A folder of environments, one a peer.

        Raises:
            NotInstalled: It is not there.
        """
        python = environments / self.name / "bin" / "python"
        if not python.exists():
            raise NotInstalled(f"no environment {self.name} among the --environments")
        return self.installed(python)

    def installed(self, python: Path) -> Installed:
        """What an environment holds.

        Raises:
            NotInstalled: The server or the engine is not in it.
        """
        command = [str(python), "-c", _VERSIONS, self.package, ENGINE]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        versions: dict[str, str] = json.loads(done.stdout)
        for package in (self.package, ENGINE):
            if not versions[package]:
                raise NotInstalled(f"its environment has no {package}")
        return Installed(python.absolute(), versions, versions[self.package])

    @abstractmethod
    def command(
        self, installed: Installed, stream: Stream, directory: Path, ports: list[int]
    ) -> Command:
        """How it is started to serve one stream.

        Args:
            installed: Where it is.
            stream: What it serves.
            directory: Where it runs.
            ports: Free ones, PORTS of them; it must serve on the first.
        """

    def calls(self, port: int, stream: Stream) -> Calls:
        """What is sent to it."""
        if issubclass(self.protocol, GrpcCalls):
            return GrpcCalls(f"{HOST}:{port}", stream)
        return HttpCalls(f"{HOST}:{port}", self.path, stream)


PORTS = 3


def free_ports() -> list[int]:
    """PORTS ports that nobody has."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(PORTS)]
        for each in sockets:
            each.bind((HOST, 0))
        return [each.getsockname()[1] for each in sockets]


def told(stream: Stream) -> dict[str, str]:
    """The environment that tells a program what it serves."""
    return {STREAM_VARIABLE: json.dumps(stream.described())}
