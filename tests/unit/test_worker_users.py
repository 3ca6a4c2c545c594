"""Whom workers run as, and what is open to them: rules and files, without another user."""

from __future__ import annotations

import os
import pwd
import socket
import stat
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gslice.cli.checks import check_workers
from gslice.core.config import config_to_yaml, load_config
from gslice.core.config.types import DeviceConfig
from gslice.core.errors import ConfigError, FailedPrecondition
from gslice.core.hardening import THEN, entrance, inherited
from gslice.core.types import MemoryTaken
from gslice.core.users import READ, let_in
from gslice.device import users
from gslice.device.cgroup import CgroupLimiter, CgroupRoot
from gslice.device.users import gpu_groups, making, user_name, worker_users
from gslice.ipc.channel import Channel
from gslice.ipc.messages import (
    Drain,
    Failed,
    Hello,
    HoldThreads,
    Message,
    Ready,
    SetShare,
    ShareSet,
    ThreadsHeld,
)
from gslice.ipc.process import hello
from gslice.supervise import broker
from gslice.supervise.broker import ThreadBroker
from gslice.supervise.logs import last_lines, opened_log, rotate
from gslice.worker.loop import ControlLoop, Handler


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Users of the machine, by name; this process is root, whoever it is."""
    there: dict[str, int] = {}

    def by_name(name: str) -> Any:
        return SimpleNamespace(pw_name=name, pw_uid=there[name], pw_gid=there[name])

    monkeypatch.setattr(pwd, "getpwnam", by_name)
    monkeypatch.setattr(users, "lacking_capabilities", list)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return there


CPU, GPU = DeviceConfig(), DeviceConfig(kind="cuda")


def told(**devices: DeviceConfig) -> dict[str, int]:
    named = {name.replace("_", ":"): device for name, device in devices.items()}
    return {name: user.uid for name, user in worker_users(named).items()}


# ---- who they are --------------------------------------------------------------------------------


def test_devices_have_users_of_their_own_where_these_were_made(machine: dict[str, int]) -> None:
    assert told(cpu=CPU, cuda_0=GPU) == {}
    machine |= {"gslice-cpu": 901, "gslice-cuda-0": 902}
    assert told(cpu=CPU, cuda_0=GPU) == {"cpu": 901, "cuda:0": 902}
    with pytest.raises(FailedPrecondition) as raised:
        told(cpu=CPU, cuda_1=GPU)
    assert raised.value.message == "devices.cuda:1.user: there is no user gslice-cuda-1"
    assert making("gslice-cuda-1") in raised.value.hint
    assert told(cpu=CPU, cuda_1=DeviceConfig(kind="cuda", user="none")) == {"cpu": 901}
    assert user_name("cuda:0/mig:1") == "gslice-cuda-0-mig-1"


def test_a_user_that_is_named_makes_all_others_necessary(machine: dict[str, int]) -> None:
    machine["ann"] = 700
    with pytest.raises(FailedPrecondition, match=r"devices\.cpu\.user: there is no user gslice-c"):
        told(cpu=CPU, cuda_0=DeviceConfig(kind="cuda", user="ann"))
    assert told(cpu=DeviceConfig(user="61001")) == {"cpu": 61001}  # by number: as in images
    assert told(cpu=DeviceConfig(user="0")) == {}  # whom the daemon runs as


def test_who_may_not_change_users_runs_all_as_itself(
    machine: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine["gslice-cpu"] = 901
    monkeypatch.setattr(users, "lacking_capabilities", lambda: ["SETUID"])
    assert told(cpu=CPU) == {}
    with pytest.raises(
        FailedPrecondition, match="may not run workers as gslice-cpu, for it has no"
    ):
        told(cpu=DeviceConfig(user="gslice-cpu"))
    monkeypatch.setattr(os, "geteuid", lambda: 901)
    assert told(cpu=DeviceConfig(user="gslice-cpu")) == {}


def test_workers_never_become_root(machine: dict[str, int], monkeypatch) -> None:
    machine["root"] = 0
    monkeypatch.setattr(os, "geteuid", lambda: 901)
    with pytest.raises(FailedPrecondition, match="never become root"):
        told(cpu=DeviceConfig(user="root"))


def test_groups_are_those_of_the_gpus_files(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(users, "_DEV", tmp_path)
    monkeypatch.setattr(stat, "S_ISCHR", stat.S_ISREG)
    for name, mode in (("nvidia0", 0o660), ("nvidiactl", 0o666), ("other", 0o660)):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(mode)
    own = {(tmp_path / "nvidia0").stat().st_gid} - {0}
    assert set(gpu_groups()) == own


def test_doctor_says_whom_workers_run_as(machine: dict[str, int], tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_text("version: 1\ndevices: {cpu: {}}\n")
    found = check_workers(path)
    assert (found.status, making("gslice-cpu") in found.hint) == ("warn", True)
    machine["gslice-cpu"] = 901
    assert check_workers(path).detail == "run as users of their own: cpu: gslice-cpu (901)"
    path.write_text("version: 1\ndevices: {cpu: {user: none}, 'cpu:9999': {}}\n")
    assert check_workers(path).status == "fail"


# ---- what they get -------------------------------------------------------------------------------


def test_secrets_and_homes_are_not_passed_on() -> None:
    kept = {"PATH": "/bin", "LANG": "C", "OMP_NUM_THREADS": "1", "CUDA_HOME": "/cuda"}
    private = {"AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "GSLICE_API_KEY", "HOME", "XDG_CACHE_HOME"}
    assert inherited(kept | dict.fromkeys(private, "secret")) == kept


def test_a_functions_variables_are_not_in_force_before_it_is_another_user() -> None:
    line, environment = entrance(7, 8, (9, 10), ["program", "-x"], {"LD_PRELOAD": "evil.so"})
    assert line[1:3] == ["-I", "-S"]
    assert line[4:] == ["7", "8", "9,10", "program", "-x"]
    assert environment[f"{THEN}LD_PRELOAD"] == "evil.so"
    assert environment.get("LD_PRELOAD") == os.environ.get("LD_PRELOAD")


def test_a_directory_is_open_to_those_who_were_let_in(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    try:
        let_in(tmp_path, {61001})
    except OSError as error:
        pytest.skip(f"no access control lists here: {error.strerror}")
    assert stat.S_IMODE(tmp_path.stat().st_mode) & 0o707 == 0o700
    assert users_of(tmp_path) == {61001: 1}
    let_in(tmp_path, {61002}, READ)
    tmp_path.chmod(0o700)  # as a daemon does at its start
    let_in(tmp_path, {61001})
    assert users_of(tmp_path) == {61001: 1, 61002: 5}


def users_of(directory: Path) -> dict[int, int]:
    from gslice.core.users import _users_of

    return _users_of(directory)


def test_a_log_that_is_no_file_is_left_alone(tmp_path: Path) -> None:
    """MPS's logs lie where its clients could put anything, and root reads and cuts them."""
    secret, link, pipe = tmp_path / "secret", tmp_path / "a.log", tmp_path / "b.log"
    secret.write_text("secret\n" * 100)
    link.symlink_to(secret)
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="symbolic"):
        last_lines(link, 10)
    with pytest.raises(OSError, match="not a file"):
        opened_log(pipe)
    with pytest.raises(OSError, match="symbolic"):
        rotate(link, max_bytes=1)
    assert secret.read_text() == "secret\n" * 100
    (tmp_path / "c.log.1").symlink_to(secret)
    (tmp_path / "c.log").write_text("line\n" * 100)
    with pytest.raises(OSError, match="symbolic"):
        rotate(tmp_path / "c.log", max_bytes=10)
    assert (secret.read_text(), (tmp_path / "c.log").read_text()) == ("secret\n" * 100, "")


# ---- shares --------------------------------------------------------------------------------------


class Heard:
    """A worker's child: what it is answered."""

    name = "w-1"

    def __init__(self) -> None:
        self.answers: list[Any] = []

    def send(self, message: object, seq: int = 0) -> None:
        self.answers.append((seq, message))


def test_only_a_workers_own_threads_are_held_to_its_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[tuple[float, Sequence[int]]] = []

    def hold(_: CgroupLimiter, share_percent: float, tids: Sequence[int]) -> float:
        held.append((share_percent, tids))
        return share_percent

    monkeypatch.setattr(CgroupLimiter, "hold", hold)
    monkeypatch.setattr(broker, "find_root", lambda *_: (CgroupRoot(tmp_path, 1), ""))
    child: Any = Heard()
    worker: Any = SimpleNamespace(child=child, pid=os.getpid(), share_percent=40.0)
    spec: Any = SimpleNamespace(name="f", priority="normal")
    order: Any = SimpleNamespace(message=HoldThreads([threading.get_native_id(), 1]), seq=3)
    one = ThreadBroker()
    monkeypatch.setattr(os, "geteuid", lambda: 0)  # version 1 asks for root
    one.heard(child, order)
    assert isinstance(child.answers.pop()[1], Failed)  # it has not been told to do so
    one.add(worker, spec, [0, 1])
    one.heard(child, order)
    assert child.answers.pop() == (3, ThreadsHeld(40.0, 0))
    assert held == [(40.0, [threading.get_native_id()])]
    assert [path.name for path in tmp_path.iterdir()] == [f"gslice.f-{os.getpid()}"]
    monkeypatch.setattr(broker, "find_root", lambda proc: (None, "none here"))
    one.add(worker, spec, [0, 1])
    one.heard(child, order)
    assert "none here" in child.answers.pop()[1].message


class Asking(ControlLoop):
    """Asks its daemon for threads whenever it is told to drain."""

    def __init__(self, listener: socket.socket) -> None:
        handlers: dict[type, Handler] = {
            Drain: lambda _order, _received: self.drained(),
            SetShare: lambda order, _received: ShareSet(order.share_percent),
        }
        super().__init__(listener, 60.0, handlers)

    def drained(self) -> Message:
        held = self.ask(HoldThreads([1]), ThreadsHeld)
        return Ready(held.share_effective_percent, "", MemoryTaken())

    def _hello(self) -> tuple[Hello, list[int]]:
        return hello(), []

    def _patience_s(self) -> float | None:
        return None

    def _end(self, reason: str) -> None:
        self._running = False


def test_orders_that_come_while_the_daemon_is_asked_are_obeyed_later(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(tmp_path / "s"))
    listener.listen(1)
    loop = Asking(listener)
    thread = threading.Thread(target=loop.run)
    thread.start()
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(str(tmp_path / "s"))
    daemon = Channel(connection)

    def heard() -> tuple[int, Message]:
        received = daemon.recv()
        return received.seq, received.message

    try:
        assert isinstance(heard()[1], Hello)
        daemon.send(Drain(1), seq=1)
        asked, question = heard()
        assert question == HoldThreads([1])
        daemon.send(SetShare(7.0), seq=2)
        daemon.send(ThreadsHeld(33.0, 5000), seq=asked)
        assert heard() == (1, Ready(33.0, "", MemoryTaken()))
        assert heard() == (2, ShareSet(7.0))
        daemon.send(Drain(1), seq=3)
        daemon.send(Failed(FailedPrecondition.code, "no group"), seq=heard()[0])
        seq, failed = heard()
        assert isinstance(failed, Failed)
        assert (seq, "no group" in failed.message) == (3, True)
        daemon.send(Drain(1), seq=4)
        heard()  # and the daemon dies
    finally:
        daemon.close()
        loop.terminate()
        thread.join(30)
    assert not thread.is_alive()


def test_a_devices_user_is_a_name_or_a_number(tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"

    def user(text: str) -> str:
        path.write_text(f"version: 1\ndevices: {{cpu: {{user: {text}}}}}\n")
        return load_config(path).devices["cpu"].user

    assert [user("20001"), user("gslice-cpu"), user("none")] == ["20001", "gslice-cpu", "none"]
    assert "user: none" in config_to_yaml(load_config(path))
    for wrong in ("true", "'a b'", "-1", "[x]"):
        with pytest.raises(ConfigError, match=r"devices\.cpu\.user: must be a user's name"):
            user(wrong)
