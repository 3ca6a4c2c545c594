"""Workers of other users: what they are, what they cannot do, and that a node goes on as ever."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gslice.core.access import digest_text
from gslice.core.hardening import FILES_MAX, TASKS_MAX
from gslice.device.limiter import resolved
from tests.fakes.gpu import FakeGpu
from tests.node import ANY_PORT, Node, kill_and_wait
from tests.other_users import FIRST, SECOND, interpreter, run_as
from tests.process.gpu import mps_pid, numbers, on_gpu

FUNCTIONS = Path(__file__).parent / "functions"
INTRUDER = {"python": "intruder:Intruder", "python_path": str(FUNCTIONS)}
NOT_PERMITTED, DENIED = "PermissionError 1", "PermissionError 13"


@pytest.fixture(scope="module")
def other_python() -> Iterator[str]:
    """Runs nodes here: an interpreter that other users may run, too."""
    with open_directory() as directory:
        yield interpreter(directory)


@contextlib.contextmanager
def open_directory() -> Iterator[Path]:
    """A directory that other users get through; pytest closes its own."""
    with tempfile.TemporaryDirectory(prefix="gs") as name:
        Path(name).chmod(0o711)
        yield Path(name)


def uid_of(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Uid:"))


def is_other(function: Any, before: int) -> bool:
    """Whether one worker serves a function, and it is not that one."""
    return (
        [w.state for w in function.workers if w.pid != before]
        == ["READY"]
        == [w.state for w in function.workers]
    )


def tries(node: Node, action: str, subject: object = "") -> str:
    """What comes of it when the intruder tries something."""
    what = np.array([f"{action} {subject}".encode()], np.object_)
    came: bytes = node.client().infer("intruder", {"what": what})["came"].item()
    return came.decode()


def test_what_a_worker_of_another_user_is_and_cannot_do(
    tmp_path, start_node, zoo, other_python, monkeypatch
) -> None:
    first, *more = sorted(os.sched_getaffinity(0))
    if not more:
        pytest.skip("two devices take two cores")
    keys, model = tmp_path / "keys.yaml", tmp_path / "closed"
    keys.write_text(json.dumps({"keys": {"ann": {"hash": digest_text("ann"), "roles": "admin"}}}))
    keys.chmod(0o600)
    monkeypatch.setenv("SOME_TOKEN", "secret")
    here, there = f"cpu:{first}", f"cpu:{more[0]}"
    node = start_node(
        {
            "intruder": {**INTRUDER, "device": here},
            "neighbour": zoo("Echo", device=there),
        },
        node={"access": {"key_file": str(keys), "anonymous": ["infer", "view"]}, "http": ANY_PORT},
        devices={here: {"user": FIRST}, there: {"user": SECOND}},
        interpreter=other_python,
    )
    (worker,), (neighbour,) = node.worker_pids("intruder"), node.worker_pids("neighbour")
    assert [uid_of(worker), uid_of(neighbour)] == [FIRST, SECOND]

    who: dict[str, Any] = json.loads(tries(node, "who"))
    assert (who["uid"], who["gid"], who["groups"]) == ([FIRST] * 4, [FIRST] * 3, [])
    assert {int(held, 16) for held in who["capabilities"]} == {0}
    assert (who["no_new_privs"], who["core"]) == ("1", [1, 1])
    assert who["files"] <= FILES_MAX
    assert who["tasks"] <= TASKS_MAX
    assert who["home"] == str(node.state_dir / f"users/{FIRST}")
    assert "SOME_TOKEN" not in who["variables"]
    assert tries(node, "write", f"{who['home']}/note") == "done"
    assert tries(node, "root") == NOT_PERMITTED

    # What the daemon keeps, and what others have, is closed.
    state = node.state_dir
    files = [*state.glob("gslice.db*"), state / "audit.jsonl", state / "daemon.lock", keys]
    logs = [state / "log/daemon.log", state / "log/neighbour.log", state / "log/intruder.log"]
    for path in (*files, *logs, f"/proc/{neighbour}/environ", f"/proc/{neighbour}/mem"):
        assert tries(node, "read", path) == DENIED, path
        assert tries(node, "write", path) == DENIED, path
    for path in (state, state / "run", state / "log", state / f"users/{SECOND}"):
        assert tries(node, "list", path) == DENIED, path
    frontends, daemon = node.frontend_pids(), node.status().pid
    for path in (f"/proc/{pid}/fd" for pid in (daemon, *frontends, neighbour)):
        assert tries(node, "list", path) == DENIED, path
    sockets = [state / "control.sock", *(state / "run").glob("*.sock")]
    assert len(sockets) >= 5
    for path in sockets:
        assert tries(node, "connect", path) == DENIED, path
    for pid in (daemon, *frontends, neighbour):
        assert tries(node, "signal", pid) == NOT_PERMITTED
        assert tries(node, "descriptor", pid) == NOT_PERMITTED
    assert tries(node, "signal", worker) == "done"

    # A file that is closed to the user is told of in a line.
    model.mkdir(mode=0o700)
    body = json.dumps({"python": f"{model}/tagger.py:Tagger", "device": here})
    with node.control() as control:
        *_, last = control.load("closed", body)
    assert (last.name, f"user {FIRST} may not read {model}" in last.detail) == ("failed", True)


def test_a_node_goes_on_as_ever(start_node, zoo, other_python) -> None:
    body = zoo("Signed", share="60%", slo={"p99": "10s"})  # so that its batches are timed
    rests = zoo("Echo", residency="cold", idle_after="300ms", share="20%")
    told = "id -u; id -G; exec sleep 600"
    job = {"command": ["/bin/sh", "-c", told], "share": "10%", "environment": {"LD_X": "1"}}
    node = start_node(
        {"a": body, "rests": rests, "job": job},
        devices={"cpu": {"user": FIRST}},
        node={"spares": 1},
        interpreter=other_python,
    )

    def served_by(before: int = 0, uid: int = FIRST) -> int:
        """The one worker of `a`, once it is another one; it serves as the device's user."""
        found = node.wait_function("a", lambda f: is_other(f, before))
        pid = found.workers[0].pid
        assert node.client().infer("a", numbers(3))["tag"].tolist() == [[pid]]
        assert uid_of(pid) == uid
        return int(pid)

    def check_share(percent: float) -> None:
        """In force, and where there are control groups kept by the kernel."""
        found = node.function("a")
        if resolved("auto") == "cgroup":
            assert (found.limiter, found.share_effective_percent) == ("cgroup", percent)
        with node.control() as control:
            assert list(control.status().functions)

    first = served_by()
    check_share(60)
    with node.control() as control:
        *_, done = control.resize("a", "40%")
    assert done.resized.path == "in place"
    check_share(40)

    # A program, too.
    (program,) = node.worker_pids("job")
    with node.control() as control:
        control_log = control.logs("job", 10, follow=True)
        assert [next(control_log), next(control_log)] == [str(FIRST)] * 2
    assert uid_of(program) == FIRST

    # Evicted and woken: a spare becomes the user when it becomes the function's.
    node.wait_function("rests", lambda f: f.state == "COLD" and not f.workers)
    (spare,) = node.wait_status(lambda status: len(status.spares) == 1).spares
    assert uid_of(spare.pid) == os.geteuid()
    assert node.client().infer("rests", numbers(4))["y"].tolist() == [[4]]
    node.wait_function("rests", lambda f: f.state == "COLD" and not f.workers)

    # A crash; a daemon's death and adoption; a share that the next daemon changes.
    kill_and_wait(first)
    second = served_by(first)
    check_share(40)
    node.kill_daemon()
    node.start()
    assert node.worker_pids("a") == [second]
    assert node.worker_pids("job") == [program]
    with node.control() as control:
        *_, done = control.resize("a", "30%")
    assert done.resized.path == "in place"
    check_share(30)

    # Shadows: an upgrade of workers, and another edition.
    with node.control() as control:
        list(control.upgrade(workers=True))
    third = served_by(second)
    check_share(30)
    with node.control() as control:
        list(control.load("a", json.dumps({**body, "share": "30%", "lanes": 1})))
    fourth = served_by(third)
    check_share(30)

    # Another user: what an earlier daemon left as somebody else is loaded anew.
    node.kill_daemon()
    text = node.config_path.read_text()
    node.config_path.write_text(text.replace(f"user: {FIRST}", f"user: {SECOND}"))
    node.start()
    served_by(fourth, SECOND)
    node.wait_function("job", lambda f: f.state == "READY" and f.workers[0].pid != program)
    check_share(30)


def test_mps_and_its_clients_are_the_devices_user(start_gpu_node, gpu: FakeGpu, other_python):
    for path in (gpu.directory, *gpu.directory.rglob("*")):
        path.chmod(0o777)
    node = start_gpu_node(
        {"a": on_gpu(share="30%")},
        devices={"cuda:0": {"limiter": "mps", "user": FIRST}},
        node={"spares": 1},
        interpreter=other_python,
    )
    assert node.function("a").state == "READY", node.output()
    assert uid_of(mps_pid(node)) == FIRST
    with node.control() as control:
        *_, done = control.resize("a", "50%")
    assert done.resized.path == "shadow", done.detail
    (second,) = node.worker_pids("a")
    assert [uid_of(second), node.function("a").limiter] == [FIRST, "mps"]
    assert node.client().infer("a", numbers(5))["y"].tolist() == [[5]]
    node.kill_daemon()
    node.start()
    assert node.worker_pids("a") == [second]
    assert uid_of(mps_pid(node)) == FIRST
    kill_and_wait(second)
    node.wait_function(
        "a", lambda f: [w.pid for w in f.workers if w.state == "READY"] not in ([], [second])
    )
    assert node.client().infer("a", numbers(6))["y"].tolist() == [[6]]


def test_a_host_is_the_devices_user(start_gpu_node, gpu: FakeGpu, other_python) -> None:
    for path in (gpu.directory, *gpu.directory.rglob("*")):
        path.chmod(0o777)
    node = start_gpu_node(
        {"a": on_gpu(share="60%"), "b": on_gpu(share="40%")},
        devices={"cuda:0": {"limiter": "green", "user": FIRST}},
        interpreter=other_python,
    )
    (host,) = {*node.worker_pids("a"), *node.worker_pids("b")}
    assert uid_of(host) == FIRST
    with node.control() as control:
        *_, done = control.resize("a", "20%")
    assert done.resized.path == "in place"
    assert node.client().infer("a", numbers(5))["y"].tolist() == [[5]]
    assert node.client().infer("b", numbers(6))["y"].tolist() == [[6]]


def test_a_daemon_says_in_a_line_why_it_cannot(other_python: str) -> None:
    with open_directory() as home:
        (home / "state").mkdir(mode=0o700)
        secret = home / "keys.yaml"
        secret.write_text("keys: {}")

        def said(text: str, uid: int = 0) -> str:
            path = home / "node.yaml"
            path.write_text(f"version: 1\nnode: {{state_dir: ./state, {text}")
            command = (other_python, "-m", "gslice.daemon", "-c", str(path))
            run = functools.partial(subprocess.run, capture_output=True, text=True, check=False)
            done = run_as(uid, *command) if uid else run(command)
            assert done.returncode == 1, done.stdout
            return " ".join(done.stderr.split())

        missing = said("}\ndevices: {cpu: {user: gslice-nobody}}\n")
        assert "devices.cpu.user: there is no user gslice-nobody" in missing
        assert "useradd --system" in missing
        secret.chmod(0o644)
        users = f"devices: {{cpu: {{user: {FIRST}}}}}\n"
        told = said(f"access: {{key_file: ./keys.yaml}}}}\n{users}")
        assert f"workers cannot run as {FIRST}: it may read {secret}" in told
        for path in (home / "state", *(home / "state").rglob("*")):
            os.chown(path, SECOND, SECOND)
        assert f"may not run workers as {FIRST}" in said(f"}}\n{users}", SECOND)
