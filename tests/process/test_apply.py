"""A node follows its node.yaml while it serves, and tells its service manager."""

from __future__ import annotations

import json
import queue
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

from gslice.core.events import EventKind
from tests.cli import failing, gslice
from tests.node import WAIT_S, Node
from tests.process.traffic import Traffic

FAST = {"connection_age": "500ms"}


def edited(node: Node, functions: dict[str, Any], **settings: Any) -> None:
    """Another node.yaml, put in place of the old one in one step."""
    before = node.config_path.read_text()
    node.write_config(functions, {**_settings(before), **settings})
    text = node.config_path.read_text()
    node.config_path.write_text(before)
    new = node.config_path.with_suffix(".new")
    new.write_text(text)
    new.replace(node.config_path)


def _settings(text: str) -> dict[str, Any]:
    return dict(YAML(typ="safe").load(text)["node"])


def applied(node: Node, *args: str, status: int = 0) -> str:
    return gslice("apply", "--state-dir", str(node.state_dir), *args, status=status).stdout


def planned(node: Node) -> dict[str, str]:
    """How each difference would go away, by its subject."""
    out = gslice("apply", "--state-dir", str(node.state_dir), "--dry-run", "--json", status=2)
    return {change["subject"]: change["how"] for change in json.loads(out.stdout)["changes"]}


def test_a_node_becomes_what_its_file_says(start_node, zoo, identity) -> None:
    node = start_node(
        {
            "same": identity,
            "echo": zoo("Echo", share="30%"),
            "small": {**identity, "share": "5%"},
            "gone": identity,
        },
        node=FAST,
    )
    assert applied(node, "--dry-run") == f"what runs is what {node.config_path} says\n"
    assert applied(node) == f"what runs is what {node.config_path} says\n"
    pids = node.worker_pids("echo")
    with node.control() as control:
        list(control.resize("same", "20%"))
        list(control.resize("small", "6%"))
    wanted = {
        "same": identity,
        "echo": zoo("Echo", share="40%", queue={"max": 9}),
        "small": {**identity, "share": "7%"},
        "new": identity,
    }
    with Traffic(node, "echo", clients=2) as traffic:
        edited(node, wanted, drain_timeout="7s")
        assert planned(node) == {
            "gone": "unload",
            "small": "resize",
            "echo": "reload",
            "new": "load",
            "node": "upgrade",
        }
        shown = applied(node, "--dry-run", status=2)
        assert "    queue.max: 256 -> 9\n    share: 30% -> 40%\n" in shown
        assert "! node: upgrade  the daemon takes it up when it starts; not done now" in shown
        assert "small was changed at run time, and edited in node.yaml since: that wins" in shown
        assert "changed at run time, and left so: same; see `gslice diff`" in shown
        unasked = gslice("apply", "--state-dir", str(node.state_dir), status=1)
        assert "nobody can be asked whether to apply this" in unasked.stderr
        told = applied(node, "--yes")
        assert told.rstrip().endswith("done      4 of 4 changes of node.yaml made")
        traffic.wait_answers(5)
    traffic.assert_each_answered_once()
    functions = {function.name: function for function in node.status().functions}
    assert functions.keys() == {"same", "echo", "small", "new"}
    assert functions["echo"].share_max_percent == 40
    assert node.worker_pids("echo") != pids
    assert (functions["small"].share_max_percent, functions["small"].source) == (7, "file")
    assert (functions["same"].share_max_percent, functions["same"].source) == (20, "overlay")
    x = np.array([[5]], np.int64)
    assert node.client().infer("new", {"x": x})["x"].tolist() == [[5]]
    assert planned(node) == {"node": "upgrade"}
    assert "not done now" in applied(node, "--yes")
    with node.control() as control:
        assert list(control.upgrade())[-1].name == "done"
    assert applied(node, "--dry-run").startswith("what runs is what")


def test_what_cannot_be_applied_changes_nothing_or_only_itself(start_node, zoo, identity) -> None:
    node = start_node({"same": identity, "echo": zoo("Echo")})
    where = ("--state-dir", str(node.state_dir))
    text = node.config_path.read_text()
    node.config_path.write_text(text + "  more: {shar: 1%}\n")
    (line, *_) = failing("apply", "--yes", *where)
    assert line.startswith(f"error: {node.config_path}:")
    assert "functions.more.shar: unknown key" in line
    other = node.directory / "other.yaml"
    other.write_text(text)
    line, _ = failing("apply", "--yes", "-c", str(other))
    assert line == f"error: the daemon follows {node.config_path}, not {other}"
    edited(node, {"same": {**identity, "share": "9%"}, "echo": zoo("Nobody")})
    result = gslice("apply", "--yes", *where, status=1)
    assert "1 of 2 changes of node.yaml made; not: echo" in result.stderr
    assert node.function("same").share_max_percent == 9
    assert node.function("echo").state == "READY"
    assert planned(node) == {"echo": "version"}
    # Somebody agreed to another plan than the one that would be carried out.
    with node.control() as control:
        digest = control.plan_apply().digest
        edited(node, {"same": {**identity, "share": "8%"}, "echo": zoo("Echo")})
        stages = list(control.apply(digest))
    assert (stages[-1].name, stages[-1].subject) == ("failed", "")
    assert "is not what it was when this was planned" in stages[-1].detail
    assert node.function("same").share_max_percent == 9


# ---- gslice serve --reload ---------------------------------------------------------------------


def test_a_watched_file_is_followed_and_a_wrong_one_told_of_once(start_node, identity) -> None:
    node = start_node({"same": identity}, options=["--reload"])
    text = node.config_path.read_text()
    with node.control() as control:
        kinds = [EventKind.CONFIG, EventKind.FAILED]
        events = control.events(0, follow=True, kinds=kinds)
        new = node.config_path.with_suffix(".new")
        new.write_text(text + "  more: {shar: 1%}\n")
        new.replace(node.config_path)
        event = next(events)
        assert event.kind == EventKind.FAILED
        assert event.text.startswith("node.yaml is not followed, all runs on: ")
        assert "functions.more.shar: unknown key" in event.text
        edited_text = text.replace("same:", "other:")
        new.write_text(edited_text)
        new.replace(node.config_path)
        assert next(events).text == "2 of 2 changes of node.yaml made"  # nothing in between
    assert [function.name for function in node.status().functions] == ["other"]


# ---- sd_notify -----------------------------------------------------------------------------------


class Manager:
    """What systemd hears: lines, and the processes that sent them."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind(str(path))
        self._heard: queue.Queue[tuple[str, int]] = queue.Queue()
        self._thread = threading.Thread(target=self._hear)
        self._thread.start()

    def _hear(self) -> None:
        while True:
            data, ancillary, _, _ = self._socket.recvmsg(4096, 256)
            if data == b"end":
                return
            pid = int.from_bytes(ancillary[0][2][:4], "little")
            for line in data.decode().split("\n"):
                self._heard.put((line, pid))

    def wait(self, line: str) -> int:
        """Waits for a line; returns the process that sent it."""
        deadline = time.monotonic() + WAIT_S
        while True:
            assert time.monotonic() < deadline, f"{line} was not told"
            heard, pid = self._heard.get(timeout=WAIT_S)
            if heard == line:
                return pid

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"end", self._socket.getsockname())
        self._thread.join()
        self._socket.close()


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    with tempfile.TemporaryDirectory(prefix="gs") as directory:
        path = Path(directory) / "notify"
        manager = Manager(path)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        monkeypatch.setenv("WATCHDOG_USEC", "400000")
        yield manager
        manager.close()


def test_the_service_manager_hears_of_start_reload_upgrade_and_stop(
    start_node, identity, manager: Manager
) -> None:
    node = start_node({"same": identity}, node=FAST)
    pid = node.status().pid
    assert manager.wait("READY=1") == pid
    assert manager.wait("WATCHDOG=1") == pid
    for child in (*node.worker_pids("same"), *node.frontend_pids()):
        assert "NOTIFY_SOCKET" not in Path(f"/proc/{child}/environ").read_text()
    edited(node, {"same": {**identity, "share": "9%"}})
    applied(node, "--yes")
    manager.wait("RELOADING=1")
    manager.wait("READY=1")
    with node.control() as control:
        assert list(control.upgrade())[-1].name == "done"
    manager.wait("RELOADING=1")
    assert manager.wait("READY=1") == pid
    assert manager.wait("WATCHDOG=1") == pid
    node.stop()
    assert manager.wait("STOPPING=1") == pid
