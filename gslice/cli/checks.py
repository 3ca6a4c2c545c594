"""The checks of `gslice doctor`: each finds one thing out, and says what to do about it."""

from __future__ import annotations

import contextlib
import getpass
import importlib.metadata
import importlib.util
import os
import platform
import resource
import shutil
import socket
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gslice.core.errors import GsliceError
from gslice.core.figures import megabytes
from gslice.core.packages import OnnxRuntimePackages, installed
from gslice.core.plans import LIBRARIES

_PORTS = {"gRPC": 8001, "HTTP": 8000, "metrics": 8002}
_SHM = Path("/dev/shm")


@dataclass(frozen=True)
class Check:
    """What was found.

    Attributes:
        name: What was looked at.
        status: `ok`, `note`, `warn` or `fail`.
        detail: What there is.
        hint: What to do; empty when there is nothing to do.
    """

    name: str
    status: str
    detail: str
    hint: str = ""


def machine_checks(node_file: Path | None = None) -> list[Check]:
    """Every check but the self-test and those of GPUs, in the order in which they are shown.

    Args:
        node_file: The node.yaml whose functions are to be served here; None: nobody knows.
    """
    checks = [
        check_python(),
        check_extension(),
        check_frontend(),
        check_engines(),
        *onnxruntime_checks(node_file),
        check_workers(node_file),
        check_cores(),
        check_shared_memory(),
        check_locked_memory(resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]),
        check_limiters(),
        check_program_memory(),
        check_real_time(may_run_in_real_time()),
    ]
    return checks + [check_port(what, port) for what, port in _PORTS.items()]


def check_python() -> Check:
    """The interpreter."""
    version = f"{platform.python_version()} ({sys.executable})"
    if not (3, 11) <= sys.version_info < (3, 15):
        return Check("Python", "fail", version, "gslice needs Python 3.11 to 3.14")
    return Check("Python", "ok", version)


def check_extension() -> Check:
    """The native core."""
    try:
        from gslice import _native
    except ImportError as error:
        return Check("native core", "fail", str(error), "build it: `make build`, or pip install .")
    return Check("native core", "ok", f"segment layout {_native.LAYOUT_VERSION}")


def check_frontend() -> Check:
    """What `node.frontend: auto` takes."""
    try:
        from gslice._native import GRPC_SERVER, GRPC_SERVER_TLS
    except ImportError as error:
        return Check("front-end", "fail", str(error), "build it: `make build`, or pip install .")
    if not GRPC_SERVER:
        hint = "install libnghttp2-dev and rebuild: the native one takes less time for a request"
        return Check("front-end", "note", "python: the native one is not built", hint)
    if not GRPC_SERVER_TLS:
        hint = "install libssl-dev and rebuild"
        return Check("front-end", "note", "native; python where node.tls is set", hint)
    return Check("front-end", "ok", "native, with TLS")


def check_engines() -> Check:
    """What can run models, by its version, without importing it."""
    names = ("onnxruntime", "torch", *LIBRARIES)
    found = [f"{name} {version}" for name in names if (version := _module(name))]
    detail = ", ".join([*found, "python", "identity"])
    if not found:
        hint = "pip install 'gslice[cpu]' for ONNX models, 'gslice[torch]' for PyTorch's"
        return Check("engines", "warn", detail, hint)
    return Check("engines", "ok", detail)


def onnxruntime_checks(node_file: Path | None) -> list[Check]:
    """ONNX Runtime's packages, as far as the functions of a node.yaml need them."""
    wanting: list[str] = []
    unread = []
    if node_file is not None:
        try:
            wanting = onnx_on_gpus(node_file)
        except GsliceError as error:
            unread = [Check("node.yaml", "fail", error.message.partition("\n")[0], error.hint)]
    return [*unread, check_onnxruntime(OnnxRuntimePackages.find(), wanting)]


def onnx_on_gpus(node_file: Path) -> list[str]:
    """The ONNX functions of a node.yaml that may run on a GPU.

    Raises:
        ConfigError: It is wrong.
        NotFound: It is not there.
    """
    from gslice.core.config import load_config
    from gslice.device.inventory import find_gpus

    config = load_config(node_file, find_gpus=find_gpus)
    return [
        name
        for name, spec in config.functions.items()
        if spec.engine == "onnxruntime"
        and any(config.devices[d].kind == "cuda" for d in spec.devices or (spec.device,))
    ]


def check_onnxruntime(packages: OnnxRuntimePackages, wanting: Sequence[str]) -> Check:
    """Two packages put different files under one name: only one may be there, and the right one.

    Args:
        packages: As they are installed.
        wanting: Functions with an ONNX model that may run on a GPU.
    """
    what, hint = packages.problem(on_gpu=bool(wanting))
    if what:
        asking = f"; {', '.join(wanting)} may run on a GPU" if wanting else ""
        return Check("ONNX Runtime", "fail", what + asking, hint)
    if not packages.cpu and not packages.gpu:
        return Check("ONNX Runtime", "note", "not installed")
    return Check("ONNX Runtime", "ok", str(packages))


def check_workers(node_file: Path | None) -> Check:
    """Whom models run as.

    Args:
        node_file: As of `machine_checks`.
    """
    from gslice.core.config import DeviceConfig, load_config
    from gslice.device.inventory import find_gpus
    from gslice.device.users import lacking_capabilities, making, user_name, worker_users

    devices = {"cpu": DeviceConfig()}
    try:
        if node_file is not None:
            devices = load_config(node_file, find_gpus=find_gpus).devices
        users = worker_users(devices)
    except GsliceError as error:
        return Check("workers", "fail", error.message.partition("\n")[0], error.hint)
    if users:
        told = ", ".join(f"{device}: {user.name} ({user.uid})" for device, user in users.items())
        return Check("workers", "ok", f"run as users of their own: {told}")
    own = f"run as the daemon's user; of this one: {getpass.getuser()}"
    if lacking_capabilities():
        hint = "a daemon of root can give each device's workers a user: docs/security.md"
        return Check("workers", "note", own, hint)
    makes = "; ".join(making(user_name(name)) for name in devices)
    return Check("workers", "warn", own, f"models have all of its rights; {makes}")


def check_cores() -> Check:
    """Cores and memory that this process may use."""
    from gslice.core.config import format_cores

    cores = os.sched_getaffinity(0)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    detail = f"{len(cores)} of {os.cpu_count()} cores ({format_cores(cores)}), {megabytes(memory)}"
    if len(cores) == 1:
        return Check("CPU", "note", detail, "front-end and workers share one core")
    return Check("CPU", "ok", detail)


def check_shared_memory() -> Check:
    """memfd, which segments live in, and the room that shared memory has."""
    try:
        os.close(os.memfd_create("gslice-doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
    except OSError as error:
        return Check("shared memory", "fail", f"memfd_create: {error}", "segments need memfd")
    room = f", /dev/shm has {megabytes(shutil.disk_usage(_SHM).free)}" if _SHM.is_dir() else ""
    return Check("shared memory", "ok", f"memfd{room}")


def check_locked_memory(limit_bytes: int) -> Check:
    """How much memory may be pinned for a GPU's copies.

    Args:
        limit_bytes: RLIMIT_MEMLOCK, or RLIM_INFINITY.
    """
    if limit_bytes == resource.RLIM_INFINITY:
        return Check("locked memory", "ok", "unlimited")
    detail = f"{megabytes(limit_bytes)} may be locked"
    if limit_bytes < 64 << 20:
        return Check("locked memory", "note", detail, "only GPUs need more: raise `ulimit -l`")
    return Check("locked memory", "ok", detail)


def check_limiters() -> Check:
    """What can enforce a share on the CPU device, and why the better one cannot."""
    from gslice.device.limiter import availability

    limiters = availability()
    best = next(limiter for limiter in limiters if limiter.available)
    detail = f"{best.name}: {best.reason}"
    lacking = [f"{limiter.name}: {limiter.reason}" for limiter in limiters if not limiter.available]
    if lacking:
        hint = "; ".join(lacking)
        return Check("CPU limiter", "warn", detail, f"without {hint}")
    return Check("CPU limiter", "ok", detail)


def check_program_memory() -> Check:
    """Whether the memory limit of a command on the CPU device is enforced."""
    from gslice.device.program_group import find_memory_root

    root, reason = find_memory_root()
    if root is not None:
        return Check("command memory", "ok", reason)
    hint = f"delegate a cgroup with the memory controller; {reason}"
    return Check("command memory", "note", "limits of commands are only watched", hint)


def check_real_time(allowed: bool) -> Check:
    """Whether pumps go before other threads.

    Args:
        allowed: As `may_run_in_real_time` found.
    """
    if allowed:
        return Check("dispatch", "ok", "pumps run in real time: before all other threads")
    hint = "give CAP_SYS_NICE, or `ulimit -r 1` (LimitRTPRIO=1 of a systemd unit)"
    detail = "pumps wait for their turn among other threads, milliseconds where cores are busy"
    return Check("dispatch", "note", detail, hint)


def may_run_in_real_time() -> bool:
    """Whether this user, in this control group, may do what a pump does when it starts."""
    allowed = []

    def attempt() -> None:  # on a thread of its own, which ends with what it has got
        policy = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
        with contextlib.suppress(PermissionError):
            os.sched_setscheduler(threading.get_native_id(), policy, os.sched_param(1))
            allowed.append(True)

    trial = threading.Thread(target=attempt, name="gslice-real-time")
    trial.start()
    trial.join()
    return bool(allowed)


def check_port(what: str, port: int) -> Check:
    """Whether a default port is free."""
    name = f"{what} port"
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            taken = f"127.0.0.1:{port}: {error.strerror}"
            return Check(name, "warn", taken, f"a gslice that runs, or choose --{what.lower()}")
    return Check(name, "ok", f"127.0.0.1:{port} is free")


def _module(name: str) -> str:
    if importlib.util.find_spec(name) is None:
        return ""
    packages = importlib.metadata.packages_distributions().get(name, [])
    return next((installed(package) for package in packages), "?")
