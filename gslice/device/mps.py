"""NVIDIA MPS from outside: its programs, its control commands, what they and its logs say.

The commands are those of protocol 2, which every driver since Volta speaks and later ones keep as
their default. docs.nvidia.com/deploy/mps has them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gslice.core.errors import DeadlineExceeded, FailedPrecondition, Unavailable
from gslice.core.hardening import entrance, inherited
from gslice.core.users import User

CONTROL = "nvidia-cuda-mps-control"
SHARE_VARIABLE = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"
NOWHERE = "/nonexistent"  # a pipe directory without a daemon: CUDA runs without MPS
COMMAND_TIMEOUT_S = 15.0  # each is a process, and the machine may be busy
SOCKET_PATH_BYTES_MAX = 107  # sun_path, less its closing zero
LONGEST_SOCKET = "control_privileged"
# Where drivers and container images put their programs, besides the PATH.
_FOLDERS = (
    "/usr/bin",
    "/usr/local/bin",
    "/usr/local/nvidia/bin",
    "/usr/local/cuda/bin",
    "/opt/nvidia/bin",
    "/run/nvidia/driver/usr/bin",
)
_UNREACHABLE = re.compile(
    r"cannot find mps control daemon|failed to connect|connection refused", re.I
)
_REFUSED = re.compile(r"\b(invalid|error|failed|not permitted|permission denied|unknown)\b", re.I)
_PID = re.compile(r"(?:PID:?|client)\s*(\d+)", re.I)
_FATAL = re.compile(r"fatal (?:\w+ )?(?:fault|exception)", re.I)
_FAULT = re.compile(r"fault|fatal|exception|illegal|violation", re.I)


@dataclass(frozen=True)
class MpsPaths:
    """Where one control daemon and its clients meet.

    Attributes:
        pipe: Its pipe directory, which clients find it by.
        log: Its log directory; None where somebody else runs it.
    """

    pipe: Path
    log: Path | None

    @property
    def environment(self) -> dict[str, str]:
        """What programs need to meet there."""
        found = {"CUDA_MPS_PIPE_DIRECTORY": str(self.pipe)}
        if self.log is not None:
            found["CUDA_MPS_LOG_DIRECTORY"] = str(self.log)
        return found

    @property
    def server_log(self) -> Path | None:
        """Where the server of a daemon in the background says what its clients did."""
        return self.log / "server.log" if self.log is not None else None

    def check(self) -> None:
        """Refuses a directory in which the kernel could not name MPS's sockets.

        Raises:
            FailedPrecondition: it is too long.
        """
        length = len(os.fsencode(self.pipe / LONGEST_SOCKET))
        if length > SOCKET_PATH_BYTES_MAX:
            raise FailedPrecondition(
                f"MPS cannot put its sockets into {self.pipe}: the path is"
                f" {length - SOCKET_PATH_BYTES_MAX} bytes too long",
                hint="choose a shorter node.state_dir",
            )


def resolved_limiter(name: str, pipe: str, library: str) -> str:
    """The limiter of a GPU that a name stands for; `auto`: MPS, where it can be had.

    Args:
        name: As configured.
        pipe: Of an operator's control daemon; may be empty.
        library: The path of libcuda.
    """
    if name != "auto":
        return name
    return "mps" if pipe or find_program(CONTROL, library) else "none"


def check_no_share(environment: Mapping[str, str]) -> None:
    """Refuses a share of MPS where green contexts limit: MPS would enlarge them to its own.

    Args:
        environment: Of the process that uses the GPU, all of it.

    Raises:
        FailedPrecondition: it has one.
    """
    share = environment.get(SHARE_VARIABLE, "")
    if share not in ("", "100"):
        raise FailedPrecondition(
            f"limiter green does not go with {SHARE_VARIABLE}={share}",
            hint="take it out of the environment, or set `limiter: mps`",
        )


def find_program(name: str, library: str = "", environ: Mapping[str, str] = os.environ) -> str:
    """A program of the driver, on the PATH or where drivers keep theirs.

    Args:
        name: Such as `nvidia-cuda-mps-control`.
        library: The path of libcuda, beside which some images have it; may be empty.
        environ: Has the PATH.

    Returns:
        Its path; empty if it is nowhere.
    """
    beside = Path(library).parent if library else None
    folders = [beside, beside.parent / "bin", beside.parent.parent / "bin"] if beside else []
    path = os.pathsep.join(
        [environ.get("PATH", os.defpath), *(str(f) for f in folders if f), *_FOLDERS]
    )
    return shutil.which(name, path=path) or ""


def find_control(library: str = "") -> str:
    """The control program.

    Raises:
        FailedPrecondition: it is not installed.
    """
    found = find_program(CONTROL, library)
    if not found:
        raise FailedPrecondition(
            f"{CONTROL} is neither on the PATH nor in the driver's folders",
            hint="install the driver's compute utilities, or set `limiter: none`",
        )
    return found


class MpsControl:
    """Talks to a control daemon through the control program. Every call starts it: some ms.

    Args:
        program: The control program.
        paths: Where the daemon is.
        user: Whose daemon it is; None: our own user's, or not for us to say.
    """

    def __init__(self, program: str, paths: MpsPaths, user: User | None = None) -> None:
        self.program = program
        self._paths = paths
        self._user = user

    def environment(self) -> dict[str, str]:
        """Of the control program: nothing of MPS but where to meet."""
        mine = {k: v for k, v in os.environ.items() if not k.startswith("CUDA_MPS_")}
        if self._user is not None:
            mine = inherited(mine) | self._user.environment
        folder = str(Path(self.program).parent)  # it starts the server from the PATH
        return {
            **mine,
            "PATH": os.pathsep.join([mine.get("PATH", os.defpath), folder]),
            **self._paths.environment,
        }

    def ask(self, command: str) -> str:
        """Has a command carried out.

        Raises:
            Unavailable: nobody listens in the pipe directory.
            FailedPrecondition: the daemon refused; the message has its words.
            DeadlineExceeded: it did not answer.
        """
        line, environment = [self.program], self.environment()
        if (user := self._user) is not None:  # a daemon obeys its own user; root it might not
            line, environment = entrance(user.uid, user.gid, user.groups, line, environment)
        try:
            done = subprocess.run(
                line,
                input=f"{command}\n",
                env=environment,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=COMMAND_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise DeadlineExceeded(
                f"the MPS control daemon in {self._paths.pipe} did not answer {command!r}"
                f" for {COMMAND_TIMEOUT_S:g} s"
            ) from None
        except OSError as error:
            raise FailedPrecondition(f"{self.program}: {error.strerror}") from None
        said = " ".join(f"{done.stdout}\n{done.stderr}".split())
        if _UNREACHABLE.search(said):
            raise Unavailable(
                f"no MPS control daemon answers in {self._paths.pipe}: {said}",
                hint="it has ended, or belongs to another user",
            )
        if done.returncode != 0 or _REFUSED.search(said):
            raise FailedPrecondition(f"MPS refused {command!r}: {said or 'without a word'}")
        return done.stdout

    def servers(self) -> list[int]:
        """Process ids of the servers; one a user, and gslice has one user."""
        return pids_of(self.ask("get_server_list"))

    def status(self, server: int) -> str:
        """`INITIALIZING`, `ACTIVE`, `FAULT` or another word of the server's, in capitals."""
        return status_of(self.ask(f"get_server_status {server}"))

    def clients(self, server: int) -> list[int]:
        """Process ids of a server's clients."""
        return pids_of(self.ask(f"get_client_list {server}"))

    def terminate(self, server: int, client: int) -> None:
        """Ends a client's work on the GPU; its process lives on, without a device."""
        self.ask(f"terminate_client {server} {client}")

    def quit(self) -> None:
        """Ends the daemon and its servers, once the clients have gone."""
        self.ask("quit")


def pids_of(text: str) -> list[int]:
    """The process ids of a list, one a line; whatever else is said is passed over."""
    return [int(line) for line in map(str.strip, text.splitlines()) if line.isdecimal()]


def status_of(text: str) -> str:
    """The status in an answer such as `ACTIVE` or `Server status: ACTIVE`."""
    words = re.findall(r"[A-Z]{4,}", text)
    return str(words[-1]) if words else ""


def tells_fault(lines: Iterable[str]) -> bool:
    """Whether a server's log tells of a fault that reached all clients."""
    return any(_FATAL.search(line) and "recovered" not in line for line in lines)


def culprits_of(lines: Iterable[str], clients: Collection[int]) -> list[int]:
    """The clients that a server's log blames for a fault, the most blamed first.

    Drivers word it differently, and some faults name nobody; lines that list who is affected
    come later than the one that says who did it.

    Args:
        lines: Of the server's log, since the last fault.
        clients: Process ids that were clients.
    """
    blamed: list[int] = []
    for line in lines:
        if _FAULT.search(line) and "affected" not in line.lower():
            named = (int(pid) for pid in _PID.findall(line))
            blamed += [pid for pid in named if pid in clients and pid not in blamed]
    return blamed


def client_environment(
    paths: MpsPaths, share_percent: float, memory_bytes: int, low_priority: bool
) -> dict[str, str]:
    """What makes a process a client with a share, before it touches CUDA; fixed from then on.

    Args:
        paths: Of the control daemon.
        share_percent: Of the GPU's SMs; MPS rounds it down to what the hardware can do.
        memory_bytes: Most of the GPU's memory that it may take; 0: no limit.
        low_priority: Others go first where they contend.
    """
    found = {
        **paths.environment,
        SHARE_VARIABLE: f"{share_percent:.3f}".rstrip("0").rstrip("."),
        "CUDA_MPS_CLIENT_PRIORITY": "1" if low_priority else "0",
    }
    if memory_bytes:
        # The daemon and its clients see this one GPU only, so it is the first for both.
        found["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] = f"0={memory_bytes >> 20}M"
    return found
