"""Requests of clients recorded as samples, and samples that gate readiness."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gslice.core import audit
from gslice.core.errors import DeadlineExceeded, FailedPrecondition
from tests.node import WAIT_S, Node

SECOND_US = 1_000_000


def ask(node: Node, number: int) -> None:
    with node.client() as client:
        client.infer("f", {"x": np.array([[number]], np.int64)})


def recorded(node: Node, out: Path, requests: int) -> dict[str, list[list[int]]]:
    """What `gslice record` writes, while requests come."""
    command = [sys.executable, "-m", "gslice", "record", "f", "--requests", str(requests)]
    command += ["--out", str(out), "--state-dir", str(node.state_dir), "--json"]
    number = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        while process.poll() is None:
            ask(node, number := number + 1)
        told = json.loads(process.communicate()[0])
    assert (process.returncode, told) == (0, {"path": str(out), "requests": requests})
    with np.load(out) as archive:
        return {name: archive[name].tolist() for name in archive.files}


def test_recorded_requests_gate_readiness(start_node, zoo, tmp_path) -> None:
    ran, out = tmp_path / "ran", tmp_path / "samples.npz"
    echo = zoo("Echo", args={"ran": str(ran)}, instances=2)
    node = start_node({"f": echo})
    found = recorded(node, out, 3)
    assert found.keys() == {"0/x", "1/x", "2/x"}
    values = sorted(array[0][0] for array in found.values())
    assert values == sorted(set(values))
    assert out.stat().st_mode & 0o777 == 0o600
    (line,) = (each for each in audit.newest(node.state_dir, 100) if each["what"] == "record")
    assert (line["subject"], line["outcome"]) == ("f", "done")
    assert line["detail"] == "3 requests, 60 s at most"

    with node.control() as control:
        # Nobody asks anything.
        with pytest.raises(DeadlineExceeded, match=r"no request came in 0\.2 s"):
            list(control.record("f", 1, 1 << 20, SECOND_US // 5))
        # One at a time; who goes away leaves nothing behind.
        first = control.record("f", 100, 1 << 20, 600 * SECOND_US)
        assert next(first).requests == 0
        with pytest.raises(FailedPrecondition, match="being recorded already"):
            list(control.record("f", 1, 1 << 20, SECOND_US))
        first.close()
        deadline = time.monotonic() + WAIT_S
        while True:
            again = control.record("f", 1, 4096, 600 * SECOND_US)
            try:
                assert next(again).requests == 0
                break
            except FailedPrecondition:
                assert time.monotonic() < deadline
        ask(node, 7)
        *_, last = again
        assert [each.name for each in last.inputs] == ["x"]
        assert last.inputs[0].data == np.int64(7).tobytes()
    node.stop()

    ran.unlink()
    start_node({"f": {**echo, "warmup": str(out)}})
    assert {int(line) for line in ran.read_text().split()} == set(values)
