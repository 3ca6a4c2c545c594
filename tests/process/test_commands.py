"""Programs that are not ours, run as functions: their health, deaths, ends, adoption and shares."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gslice.core.errors import FailedPrecondition, InvalidArgument, ResourceExhausted, Unimplemented
from gslice.device.program_group import find_memory_root
from tests.node import Node, kill_and_wait, wait_pidfd
from tests.process.conftest import FUNCTIONS

Command = Callable[..., dict[str, Any]]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where the program looks whether it is well; it is."""
    (tmp_path / "well").touch()
    return tmp_path


@pytest.fixture
def command(home: Path) -> Command:
    """The body of a command that runs tests/process/functions/program.py."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def body(*words: str, **settings: Any) -> dict[str, Any]:
        program = [sys.executable, str(FUNCTIONS / "program.py"), str(home), port, *words]
        health = {"url": f"http://127.0.0.1:{port}/health", "period": "20ms"}
        return {"command": program, "share": "30%", "health": health, **settings}

    return body


def pid_of(node: Node, name: str = "llm") -> int:
    (worker,) = node.function(name).workers
    return int(worker.pid)


def wait_ready(node: Node, name: str = "llm", other_than: int = 0) -> Any:
    def serves(function: Any) -> bool:
        return function.state == "READY" and function.workers[0].pid != other_than

    return node.wait_function(name, serves)


def wait_gone(*pids: int) -> None:
    for pid in pids:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            assert wait_pidfd(pidfd, 10.0), f"process {pid} is still there"
        finally:
            os.close(pidfd)


def offspring(home: Path) -> list[int]:
    return [int(path.name) for path in (home / "children").iterdir()]


def stages(stream: Any) -> list[str]:
    return [stage.name for stage in stream]


def test_health_is_asked_and_traffic_is_not_proxied(start_node, command: Command, home) -> None:
    node = start_node({"llm": command()})
    function = wait_ready(node)
    assert (function.engine, function.share_granted_percent, function.residency) == (
        *("command", 30),
        "pinned",
    )
    assert function.workers[0].rss_bytes > 0
    with node.client() as client:
        assert client.ready("llm")
        with pytest.raises(Unimplemented, match=r"'llm' is a command.*ask it at http://127"):
            client.infer("llm", {"x": np.zeros((1, 1), np.int64)})
        (home / "well").unlink()
        ill = node.wait_function("llm", lambda f: f.state == "UNAVAILABLE")
        assert "answers 503" in ill.reason
        assert not client.ready("llm")
        (home / "well").touch()
        assert wait_ready(node).workers[0].pid == function.workers[0].pid
        assert client.ready("llm")
    with node.control() as control:
        assert list(control.logs("llm", 5)) == ["serves"]


def test_one_that_dies_is_started_again_and_its_children_end_with_it(
    start_node, command: Command, home
) -> None:
    node = start_node({"llm": command("family")})
    before = wait_ready(node).workers[0].pid
    children = offspring(home)
    kill_and_wait(before)
    after = wait_ready(node, other_than=before)
    assert after.workers[0].restarts == 1
    wait_gone(*children)
    node.stop()
    wait_gone(*offspring(home), after.workers[0].pid)


def test_a_crash_loop_fails_with_its_last_words_and_gives_its_share_back(
    start_node, command: Command
) -> None:
    node = start_node({"llm": command("crash"), "job": {**command("finish"), "health": None}})
    failed = node.wait_function("llm", lambda f: f.state == "FAILED")
    assert "exited with code 3" in failed.reason
    assert "no such GPU" in failed.reason
    assert (failed.share_granted_percent, len(failed.workers)) == (0, 0)
    finished = node.wait_function("job", lambda f: f.state == "FINISHED")
    assert (finished.share_granted_percent, len(finished.workers)) == (0, 0)


def test_one_that_does_not_end_in_time_is_killed_with_all_that_it_started(
    start_node, command: Command, home
) -> None:
    body = command("deaf", "family", stop={"signal": "SIGTERM", "timeout": "100ms"})
    node = start_node({"llm": body})
    pid = wait_ready(node).workers[0].pid
    with node.control() as control:
        assert stages(control.unload("llm")) == ["drain", "exit", "done"]
    wait_gone(pid, *offspring(home))


def test_the_next_daemon_adopts_it(start_node, command: Command) -> None:
    settings = {"connection_age": "500ms"}
    functions = {"llm": command(), "other": {"command": ["sleep", 1000], "share": "5%"}}
    node = start_node(functions, node=settings)
    pid, other = wait_ready(node).workers[0].pid, wait_ready(node, "other").workers[0].pid
    node.kill_daemon()
    kill_and_wait(other)
    node.start()
    adopted = wait_ready(node)
    assert (adopted.workers[0].pid, adopted.share_granted_percent) == (pid, 30)
    assert wait_ready(node, "other").workers[0].pid != other
    with node.control() as control:
        assert stages(control.upgrade())[-1] == "done"
    assert wait_ready(node).workers[0].pid == pid
    with node.control() as control:
        assert stages(control.unload("other"))[-1] == "done"
        assert stages(control.load("llm", ""))[-1] == "done"
    wait_gone(pid)


def test_what_has_finished_does_not_begin_again_with_the_next_daemon(start_node, home) -> None:
    job = {"command": ["sh", "-c", f"echo ran >> {home}/runs"], "share": "5%"}
    node = start_node({"job": job}, node={"connection_age": "500ms"})
    node.wait_function("job", lambda f: f.state == "FINISHED")
    node.kill_daemon()
    node.start()
    assert node.function("job").state == "FINISHED"
    with node.control() as control:
        assert stages(control.upgrade())[-1] == "done"
        assert node.function("job").state == "FINISHED"
        assert (home / "runs").read_text() == "ran\n"
        assert stages(control.load("job", ""))[-1] == "done"
    node.wait_function("job", lambda f: f.state == "FINISHED")
    assert (home / "runs").read_text() == "ran\nran\n"


def test_its_share_changes_in_place_and_none_is_given_twice(
    start_node, command: Command, identity
) -> None:
    node = start_node({"llm": command(), "same": {**identity, "share": "60%"}})
    function = wait_ready(node)
    pid = function.workers[0].pid
    if function.limiter != "cgroup":
        pytest.skip(f"shares are kept by {function.limiter} here")
    assert function.share_effective_percent == pytest.approx(30)
    with node.control() as control:
        assert stages(control.resize("llm", "20%")) == ["plan", "done"]
        with pytest.raises(ResourceExhausted, match="llm"):
            list(control.resize("llm", "50%"))
        with pytest.raises(InvalidArgument, match="a share of its own"):
            list(control.resize("llm", "auto"))
    resized = node.function("llm")
    assert resized.share_effective_percent == pytest.approx(20)
    assert resized.workers[0].pid == pid
    with node.control() as control:
        last = list(control.load("more", '{command: [sleep, "1000"], share: 30%}'))[-1]
    assert last.name == "failed"
    assert "more" in last.detail


def test_whole_cores_are_fixed_while_it_runs(start_node, command: Command) -> None:
    node = start_node({"llm": command()}, devices={"cpu": {"limiter": "threads"}})
    wait_ready(node)
    with (
        node.control() as control,
        pytest.raises(FailedPrecondition, match="under threads the share of a program is fixed"),
    ):
        list(control.resize("llm", "20%"))


@pytest.mark.skipif(find_memory_root()[0] is None, reason="no memory controller")
def test_it_gets_no_more_memory_than_it_may_take(start_node, command: Command) -> None:
    node = start_node({"llm": command("greedy", memory="128MiB")})
    failed = node.wait_function("llm", lambda f: f.state == "FAILED")
    assert "killed by SIGKILL: the kernel found no memory for it in" in failed.reason


def test_on_a_gpu_it_is_told_its_limits(start_gpu_node: Any) -> None:
    body = {
        "command": ["sh", "-c", "env; echo told; exec sleep 1000"],
        "device": "cuda:0",
        "share": "30%",
        "memory": "1GiB",
        "environment": {"CUDA_VISIBLE_DEVICES": "all of them"},
    }
    limited = {"cuda:0": {"limiter": "mps", "limits": {"memory": "2GiB"}}}
    node = start_gpu_node({"llm": body}, devices=limited)
    function = wait_ready(node)
    assert "none of its processes is a client of MPS" in function.reason
    assert function.device_memory_bytes == 1 << 30
    with node.control() as control:
        lines = takewhile(lambda line: line != "told", control.logs("llm", 200, follow=True))
        told = dict(line.partition("=")[::2] for line in lines)
        assert told["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "30"
        assert told["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == "0=1024M"
        assert told["CUDA_MPS_PIPE_DIRECTORY"] == str(node.state_dir / "mps/0/pipe")
        assert told["CUDA_VISIBLE_DEVICES"].startswith("GPU-")
        with pytest.raises(FailedPrecondition, match="under mps the share of a program is fixed"):
            list(control.resize("llm", "20%"))
        more = "{command: [sleep, 1000], device: cuda:0, share: 30%, memory: 2GiB}"
        last = list(control.load("more", more))[-1]
        assert (last.name, "cuda:0 has" in last.detail) == ("failed", True)
        unknown = "{command: [sleep, 1000], device: cuda:0, share: 30%}"
        last = list(control.load("more", unknown))[-1]
        assert (last.name, "nobody knows what" in last.detail) == ("failed", True)
