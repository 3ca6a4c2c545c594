"""What docs/security.md promises of a whole node: keys, the audit log, what processes give up."""

from __future__ import annotations

import json
import os
import resource
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gslice import Client, errors
from gslice.core import audit
from gslice.core.access import digest_text
from gslice.core.hardening import FILES_MAX
from tests.node import ANY_PORT, Node

X = {"x": np.array([[5]], np.int64)}


def write_keys(node_directory: Path, **roles: str) -> Path:
    """A file of keys, each called like its holder; in one step, so that nobody reads half of it."""
    path, new = node_directory / "keys.yaml", node_directory / "new.yaml"
    entries = {name: {"hash": digest_text(name), "roles": role} for name, role in roles.items()}
    new.write_text(json.dumps({"keys": entries}))
    new.replace(path)
    return path


def page(node: Node, key: str) -> int:
    """The status of the metrics page."""
    request = urllib.request.Request(f"http://{node.status().metrics_address}/metrics")
    if key:
        request.add_header("Authorization", f"Bearer {key}")
    try:
        with urllib.request.urlopen(request) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def entries(node: Node) -> list[dict[str, Any]]:
    return audit.newest(node.state_dir, 100)


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def client(node: Node, key: str) -> Client:
    return Client(node.status().grpc_address, timeout_s=30, api_key=key)


def test_a_node_with_keys(tmp_path, start_node, identity) -> None:
    write_keys(tmp_path, ann="infer", vera="view", root="admin")
    access = {"key_file": str(tmp_path / "keys.yaml")}
    node = start_node({"same": identity}, node={"access": access, "http": ANY_PORT})

    # The control socket is its owner's, whatever keys there are.
    assert stat.S_IMODE((node.state_dir / "control.sock").stat().st_mode) == 0o600
    assert [page(node, key) for key in ("", "ann", "vera", "root")] == [401, 403, 200, 200]
    with client(node, "ann") as ann, client(node, "root") as root, client(node, "") as nobody:
        assert ann.infer("same", X)["x"].tolist() == [[5]]
        assert nobody.live()
        assert nobody.ready("same")
        with pytest.raises(errors.Unauthenticated):
            nobody.infer("same", X)
        with pytest.raises(errors.PermissionDenied):
            ann.unload("same")
        before = len(entries(node))
        root.unload("same")
        root.load("same")
        unloaded, loaded = entries(node)[before:]
        assert unloaded["who"] == {"name": "root", "via": "data port"}
        assert (unloaded["what"], unloaded["subject"], unloaded["outcome"]) == (
            *("unload", "same"),
            "done",
        )
        assert (loaded["what"], loaded["after"]["state"]) == ("load", "READY")

        # A key is taken back, and another given, without a start.
        write_keys(tmp_path, bob="infer")
        node.wait_status(
            lambda status: any("1 key(s) from now on" in each.text for each in status.events)
        )
        with client(node, "bob") as bob:
            assert bob.infer("same", X)["x"].tolist() == [[5]]
        with pytest.raises(errors.Unauthenticated):
            ann.infer("same", X)

        # An adopting daemon has the front-ends ask on, and one that is killed asks when it is back.
        node.kill_daemon()
        with pytest.raises(errors.Unauthenticated):
            ann.infer("same", X)
        node.start()
        with client(node, "bob") as bob:
            assert bob.infer("same", X)["x"].tolist() == [[5]]
        with pytest.raises(errors.Unauthenticated):
            ann.infer("same", X)


def test_orders_are_in_the_audit_log_with_who_gave_them(start_node, identity) -> None:
    node = start_node({"same": identity})
    with node.control() as control:
        list(control.resize("same", "30%"))
        list(control.drain("cpu"))
        list(control.undrain("cpu"))
        with pytest.raises(errors.NotFound):
            list(control.unload("none"))
        control.save()
    started, resized, drained, undrained, saved = entries(node)
    assert (started["what"], started["who"]["uid"]) == ("start", os.getuid())
    for entry in (resized, drained, undrained, saved):
        who = entry["who"]
        assert (who["uid"], who["pid"], who["via"]) == (os.getuid(), os.getpid(), "control socket")
    assert (resized["what"], resized["subject"], resized["detail"]) == ("resize", "same", "30%")
    changed = audit.changes(resized)
    assert "share: 30%" in changed["function"][1]
    assert changed["share_granted_percent"][1] == 30
    assert audit.changes(drained) == {"drained": (False, True)}
    assert audit.changes(undrained) == {"drained": (True, False)}
    assert audit.changes(saved) == {"overlay": (["same"], [])}
    assert {entry["outcome"] for entry in (resized, undrained, saved)} == {"done"}
    command = [sys.executable, "-m", "gslice", "audit", "--state-dir", str(node.state_dir)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "control socket" in shown
    assert "+share: 30%" in shown
    assert "drained: False -> True" in shown
    told = subprocess.run([*command, "--json", "-n", "1"], capture_output=True, check=True).stdout
    assert json.loads(told) == saved


def test_processes_give_up_what_they_never_need(start_node, identity) -> None:
    node = start_node({"same": identity}, node={"http": ANY_PORT, "spares": 1})
    spares = node.wait_status(lambda status: bool(status.spares)).spares
    pids = [*node.worker_pids("same"), *node.frontend_pids(), *(spare.pid for spare in spares)]
    assert len(pids) == 4
    none = "0" if resource.getrlimit(resource.RLIMIT_CORE)[1] == 0 else "1"  # a byte is no dump
    for pid in pids:
        assert status_of(pid)["NoNewPrivs"] == "1"
        limits = Path(f"/proc/{pid}/limits").read_text()
        (core,) = (line for line in limits.splitlines() if line.startswith("Max core file size"))
        assert core.split()[4:6] == [none, none]
    (worker,) = node.worker_pids("same")
    assert resource.prlimit(worker, resource.RLIMIT_NOFILE)[1] <= FILES_MAX
