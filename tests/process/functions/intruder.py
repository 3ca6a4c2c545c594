"""A Python function that tries what it is told, with the rights of its worker."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import sys
from pathlib import Path

import numpy as np


class Intruder:
    """An action and its subject -> `done`, or the kernel's word for why not."""

    batch_max = 0
    inputs = (("what", "BYTES", [1]),)
    outputs = (("came", "BYTES", [1]),)

    def setup(self, marker: str = "") -> None:
        self.imported_as = os.getuid()

    def infer(self, inputs):
        action, _, subject = inputs["what"].item().decode().partition(" ")
        try:
            came = getattr(self, f"do_{action}")(subject)
        except OSError as error:
            came = f"{type(error).__name__} {error.errno}"
        return {"came": np.array([str(came).encode()], np.object_)}

    def do_read(self, path: str) -> str:
        with Path(path).open("rb") as file:
            file.read(1)
        return "done"

    def do_write(self, path: str) -> str:
        with Path(path).open("ab"):
            return "done"

    def do_list(self, path: str) -> str:
        list(Path(path).iterdir())
        return "done"

    def do_signal(self, pid: str) -> str:
        os.kill(int(pid), signal.SIGURG)  # which nobody minds
        return "done"

    def do_connect(self, path: str) -> str:
        kind = socket.SOCK_SEQPACKET if "/run/" in path else socket.SOCK_STREAM
        with socket.socket(socket.AF_UNIX, kind) as connection:
            connection.connect(path)
        return "done"

    def do_descriptor(self, pid: str) -> str:
        """Opens what another process has open, such as a segment."""
        pidfd = os.pidfd_open(int(pid))
        try:
            libc_syscall(438, pidfd, 3, 0)  # pidfd_getfd
        finally:
            os.close(pidfd)
        return "done"

    def do_root(self, _: str) -> str:
        os.setresuid(0, 0, 0)
        return "done"

    def do_who(self, _: str) -> str:
        lines = Path("/proc/self/status").read_text().splitlines()
        status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        return json.dumps(
            {
                "uid": [*os.getresuid(), self.imported_as],
                "gid": os.getresgid(),
                "groups": os.getgroups(),
                "capabilities": [status[name] for name in ("CapPrm", "CapEff", "CapAmb")],
                "no_new_privs": status["NoNewPrivs"],
                "core": resource.getrlimit(resource.RLIMIT_CORE),
                "files": resource.getrlimit(resource.RLIMIT_NOFILE)[1],
                "tasks": resource.getrlimit(resource.RLIMIT_NPROC)[1],
                "home": os.environ["HOME"],
                "variables": sorted(os.environ),
                "program": sys.executable,
            }
        )


def libc_syscall(number: int, *arguments: int) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "refused")
