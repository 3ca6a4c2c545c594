from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gslice.cli.events import _KEPT, _STYLES
from gslice.core.events import EventKind
from gslice.daemon.store import EVENTS_MAX
from tests.cli import gslice, read_all
from tests.fakes.servers import FakeControl, control_message, control_server

_PROGRAM = "from gslice.cli.main import app; app(prog_name='gslice')"

# What bash asks for each line, in one process.
_COMPLETE = """
import os, sys
from gslice.cli.main import app
os.environ["_GSLICE_COMPLETE"] = "complete_bash"
for line in sys.argv[1:]:
    os.environ |= {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    try:
        app(prog_name="gslice")
    except SystemExit:
        print("end of line")
"""

pytestmark = pytest.mark.usefixtures("here")

AT_S = time.mktime((2026, 11, 22, 14, 3, 7, 0, 0, -1)) + 0.25


def event(number: int, monotonic_us: int, kind: str = "load", text: str = "", **fields: Any) -> Any:
    at = {"at_s": AT_S + number, "monotonic_us": monotonic_us}
    return control_message(
        "Event", **{"id": number, "subject": "a", **at, **fields}, kind=kind, text=text
    )


@pytest.fixture
def control(state_dir: Path) -> Iterator[FakeControl]:
    with control_server(state_dir, FakeControl(control_message("Status", pid=7))) as servicer:
        servicer.events = [
            event(0, 90_000_000, "crash", "worker 9 killed by SIGKILL"),
            event(1, 90_012_345, "requeue", "2 requeued", subject="a-long-name"),
            event(2, 17, "adopt", "adopted [bold]1 of 1[/bold] workers", subject="frontend"),
        ]
        yield servicer


def test_a_line_an_event(control: FakeControl) -> None:
    assert gslice("events").stdout.splitlines() == [
        "TIME              SINCE  SUBJECT   KIND       TEXT",
        "14:03:07.250             a         crash      worker 9 killed by SIGKILL",
        "14:03:08.250     +0.012  a-long-name  requeue    2 requeued",
        "14:03:09.250             frontend     adopt      adopted [bold]1 of 1[/bold] workers",
    ]
    (asked,) = control.asked
    assert (asked.limit, asked.follow, asked.subject, list(asked.kinds)) == (100, False, "", [])


def test_all_that_is_asked_for_reaches_the_daemon(control: FakeControl) -> None:
    gslice("events", "detector", "-f", "-n", "3", "--kind", "crash", "-k", "restart")
    (asked,) = control.asked
    assert (asked.limit, asked.follow, asked.subject) == (3, True, "detector")
    assert list(asked.kinds) == ["crash", "restart"]


def test_json_is_a_line_an_event_with_every_field(control: FakeControl) -> None:
    lines = gslice("events", "--json").stdout.splitlines()
    assert [json.loads(line)["id"] for line in lines] == [0, 1, 2]
    assert json.loads(lines[1]) == {
        "id": 1,
        "at_s": AT_S + 1,
        "monotonic_us": 90_012_345,
        "subject": "a-long-name",
        "kind": "requeue",
        "text": "2 requeued",
    }


def test_nothing_happened(control: FakeControl) -> None:
    control.events = []
    assert gslice("events").stdout == "no events\n"
    assert gslice("events", "--json").stdout == ""


def test_an_unknown_kind_is_refused_with_those_there_are(control: FakeControl) -> None:
    told = gslice("events", "--kind", "crashes", status=2).stderr
    assert all(f"'{kind}'" in told for kind in ("crash", "requeue", "restart"))


def test_what_the_command_knows_of_the_daemon_is_so() -> None:
    assert _KEPT == EVENTS_MAX
    assert set(_STYLES) <= set(EventKind)


@pytest.mark.parametrize("no_color", ["", "1"])
def test_colours_are_for_terminals(control: FakeControl, no_color: str) -> None:
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "gslice", "events", "-n", "1"],
        stdout=theirs,
        env={**os.environ, "NO_COLOR": no_color, "TERM": "xterm"},
        check=True,
    )
    os.close(theirs)
    shown = read_all(ours).decode()
    assert done.returncode == 0
    assert "worker 9 killed by SIGKILL" in shown
    assert ("\x1b[1;31mcrash" in shown) == (not no_color)


def test_names_are_completed_from_what_runs(control: FakeControl, state_dir: Path) -> None:
    for name in ("detector", "describer", "tagger"):
        control.status.functions.add(name=name)
    control.status.devices.add(name="cuda:0")
    control.status.devices.add(name="cpu")
    expected = {"gslice events --kind res": ["restart", "residency"]}
    for command in ("events", "logs", "load", "unload", "resize", "infer", "bench"):
        expected[f"gslice {command} de"] = ["detector", "describer"]
    for command in ("drain", "undrain", "load f m.onnx --device"):
        expected[f"gslice {command} cu"] = ["cuda:0"]
    expected[f"gslice events --state-dir {state_dir}/none de"] = []
    done = subprocess.run(
        [sys.executable, "-c", _COMPLETE, *expected], capture_output=True, text=True
    )
    assert done.stderr == ""
    completed = [block.split() for block in done.stdout.split("end of line")[:-1]]
    assert dict(zip(expected, completed, strict=True)) == expected


def test_bash_completes_by_the_script_that_is_printed(control: FakeControl, here: Path) -> None:
    control.status.devices.add(name="cuda:0")
    program = here / "gslice"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{_PROGRAM}" "$@"\n')
    program.chmod(0o755)
    script = gslice("completion", "bash").stdout
    asks = "COMP_WORDS=(gslice drain c); COMP_CWORD=2; _gslice_completion gslice"
    done = subprocess.run(
        ["bash", "--norc", "-c", f"{script}\n{asks}\necho ${{COMPREPLY[@]}}"],
        env={**os.environ, "PATH": f"{here}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("cuda:0\n", "")
    for shell, word in (("zsh", "compdef"), ("fish", "complete --command gslice")):
        assert word in gslice("completion", shell).stdout
