"""nvidia-cuda-mps-control, without a GPU: starts the daemon, or hands it the commands on stdin.

What it prints and logs follows NVIDIA's documentation of the v2 interface where that shows it.
Settings of the test, in the file `mps_settings` of GSLICE_FAKE_GPU:
    start_fails    the daemon ends at once
    server_fails   no server starts: clients get CUDA_ERROR_MPS_CONNECTION_FAILED
    refuse         a CUDA error code that every new client gets
    deaf           commands are read, and never answered
    chunk_sms      static partitions are there (`-S`), of so many SMs a chunk
    other_code     what a fault gives to the clients that did not make it (719)

Each command is a process, and a node asks dozens: what only the daemon needs is imported there.
"""

from __future__ import annotations

import os
import socket
import sys


def directory_of(variable: str, otherwise: str) -> str:
    """As named, else that of the machine: what would be in /tmp."""
    return os.environ.get(variable) or f"{os.environ['GSLICE_FAKE_GPU']}/{otherwise}"


def pipe_directory() -> str:
    return directory_of("CUDA_MPS_PIPE_DIRECTORY", "nvidia-mps")


def connect(directory: str) -> socket.socket | None:
    """To the daemon of that directory, if one listens there."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(f"{directory}/control")
    except OSError:  # also a path that is too long for a socket
        connection.close()
        return None
    return connection


def send_commands(directory: str) -> int:
    for line in sys.stdin:
        command = line.strip()
        if not command:
            continue
        connection = connect(directory)
        if connection is None:
            print("Cannot find MPS control daemon process")
            return 1
        with connection, connection.makefile("r") as replies:
            connection.sendall(f"command\ttext={command}\n".encode())
            sys.stdout.write(replies.read())
            sys.stdout.flush()
    return 0


def start_daemon(directory: str, *, background: bool, flags: list[str]) -> int:
    from pathlib import Path

    from daemon import Daemon, mps_settings

    settings = mps_settings()
    static = "chunk_sms" in settings and flags == ["-S"]
    if flags and not static:
        print(f"nvidia-cuda-mps-control: cannot do {' '.join(flags)}", file=sys.stderr)
        return 1
    if "start_fails" in settings:
        print("Failed to start the MPS control daemon", file=sys.stderr)
        return 1
    existing = connect(directory)
    if existing is not None:
        existing.close()
        print("An instance of this daemon is already running")
        return 1
    try:
        pipes = Path(directory)
        pipes.mkdir(parents=True, exist_ok=True)
        logs = Path(directory_of("CUDA_MPS_LOG_DIRECTORY", "nvidia-mps-log"))
        if background:
            logs.mkdir(parents=True, exist_ok=True)
        daemon = Daemon(pipes, logs if background else None, static=static)
    except OSError as error:
        print(f"Failed to start the MPS control daemon: {error}", file=sys.stderr)
        return 1
    if background:
        ready, up = os.pipe()
        if os.fork():
            os.close(up)
            os.read(ready, 1)
            os._exit(0)  # what the daemon holds stays its own
        os.close(ready)
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        os.close(null)
        daemon.write_pid()
        os.close(up)
    else:
        daemon.write_pid()
    daemon.run()
    return 0


def main(arguments: list[str]) -> int:
    if not arguments:
        return send_commands(pipe_directory())
    if arguments[0] in ("-d", "-f"):
        background = arguments[0] == "-d"
        return start_daemon(pipe_directory(), background=background, flags=arguments[1:])
    print(f"nvidia-cuda-mps-control: cannot do {' '.join(arguments)}", file=sys.stderr)
    return 1
