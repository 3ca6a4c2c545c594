from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gslice import __version__
from tests.cli import failing, gslice
from tests.fakes.servers import FakeControl, control_message, control_server

pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture
def control(state_dir: Path) -> Iterator[FakeControl]:
    status = control_message(
        "Status", version=__version__, state="SERVING", config_path="/etc/node.yaml"
    )
    with control_server(state_dir, FakeControl(status)) as servicer:
        yield servicer


@pytest.fixture
def differing(control: FakeControl) -> FakeControl:
    plan = control.apply_plan
    share = control_message(
        "Change", path="functions.a.share", file_value="50%", running_value="40%"
    )
    whole = control_message("Change", path="functions.b", file_value="model: ./b.onnx\nshare: 1%")
    metrics = control_message("Change", path="node.metrics", file_value="h:2", running_value="h:1")
    plan.changes.add(subject="a", how="resize", detail="in place: a 40% -> 50%", settings=[share])
    plan.changes.add(subject="b", how="load", settings=[whole])
    plan.changes.add(subject="node", how="upgrade", detail="waits", settings=[metrics])
    plan.kept.append("c")
    control.stages = [
        control_message("Stage", name="plan", elapsed_ms=0.5, subject="a"),
        control_message("Stage", name="done", elapsed_ms=1.5, subject="a"),
        control_message("Stage", name="done", elapsed_ms=2.0, detail="2 of 2 changes made"),
    ]
    return control


def test_what_differs_is_shown_and_told_by_the_exit_status(differing: FakeControl) -> None:
    assert gslice("apply", "--dry-run", status=2).stdout.splitlines() == [
        "~ a: resize  in place: a 40% -> 50%",
        "    share: 40% -> 50%",
        "+ b: load",
        "    model: ./b.onnx",
        "    share: 1%",
        "! node: upgrade  waits; not done now: `gslice upgrade` takes it up",
        "    node.metrics: h:1 -> h:2",
        "changed at run time, and left so: c; see `gslice diff`",
    ]
    assert differing.asked == []
    plan = json.loads(gslice("apply", "--dry-run", "--json", status=2).stdout)
    assert [change["how"] for change in plan["changes"]] == ["resize", "load", "upgrade"]


def test_what_was_shown_is_what_is_ordered(differing: FakeControl) -> None:
    told = gslice("apply", "--yes").stdout.splitlines()
    assert [line.split(None, 2)[-1].strip() for line in told[-3:]] == [
        "a  plan",
        "a  done",
        "done      2 of 2 changes made",
    ]
    (request,) = differing.asked
    assert request.digest == "d1"
    everything = json.loads(gslice("apply", "--yes", "--json").stdout)
    assert [stage["name"] for stage in everything["stages"]] == ["plan", "done", "done"]


def test_nobody_is_asked_where_nobody_is(differing: FakeControl) -> None:
    result = gslice("apply", status=1)
    assert result.stderr.splitlines() == [
        "error: nobody can be asked whether to apply this",
        "hint: give --yes",
    ]
    assert differing.asked == []


@pytest.mark.parametrize(("answer", "status"), [(b"y\n", 0), (b"n\n", 1)])
def test_somebody_is_asked(differing: FakeControl, answer: bytes, status: int) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "gslice", "apply"]
    asking = subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, text=True)
    os.close(theirs)
    os.write(ours, answer)
    told, _ = asking.communicate()
    os.close(ours)
    assert "apply this? [y/N]: " in told
    assert asking.returncode == status
    assert len(differing.asked) == (status == 0)


def test_what_only_an_upgrade_takes_up_is_no_order(control: FakeControl) -> None:
    control.apply_plan.changes.add(subject="node", how="upgrade")
    assert "not done now" in gslice("apply").stdout
    gslice("apply", "--dry-run", status=2)
    assert control.asked == []


def test_nothing_differs(control: FakeControl) -> None:
    for args in ((), ("--dry-run",), ("--yes",)):
        assert gslice("apply", *args).stdout == "what runs is what /etc/node.yaml says\n"


def test_what_failed_is_an_error(differing: FakeControl) -> None:
    failed = control_message("Stage", name="failed", detail="1 of 2 changes made; not: b")
    differing.stages[-1] = failed
    assert gslice("apply", "--yes", status=1).stderr.splitlines() == [
        "error: 1 of 2 changes made; not: b",
        "hint: see more with `gslice events`, `gslice logs NAME`",
    ]
    del differing.stages[-1]
    assert "does not say what became of it" in gslice("apply", "--yes", status=1).stderr


def test_another_file_than_the_daemons_is_refused(
    differing: FakeControl, here: Path, state_dir: Path
) -> None:
    (here / "mine.yaml").write_text(f"version: 1\nnode: {{state_dir: {state_dir}}}\n")
    assert failing("apply", "-c", "mine.yaml") == [
        "error: the daemon follows /etc/node.yaml, not mine.yaml",
        "hint: edit that one, or start the daemon with the other",
    ]
