"""The demo as a user runs it: what it reads, what it writes, and that nothing stays behind."""

import json
import os
import re
import selectors
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

HEADS = ["function", "requests/s", "p50", "p99", "mean batch", "share requested", "effective"]
WORDS = ("Region-based segmentation", "markers", "background", "histogram of grey values")
TIMEOUT_S = 90


@pytest.fixture
def scratch():
    """Where the demo puts its node; short, because Unix sockets' names are."""
    with tempfile.TemporaryDirectory(prefix="gs-") as directory:
        yield Path(directory)


@pytest.fixture
def start_demo(tmp_path, scratch):
    """Starts `gslice demo` with temporary files of its own; kills what a failed test leaves."""
    started = []

    def start(*arguments):
        process = subprocess.Popen(
            [sys.executable, "-m", "gslice", "demo", "--out", str(tmp_path), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(scratch)},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
    for process in demo_processes(scratch):
        process.kill()


def demo_processes(scratch):
    """Processes of any node whose directory lies in `scratch`."""
    mark = f"GSLICE_NODE_DIRECTORY={scratch}/".encode()
    found = []
    for process in psutil.process_iter():
        try:
            environment = Path(f"/proc/{process.pid}/environ").read_bytes()
        except OSError:
            continue
        if any(entry.startswith(mark) for entry in environment.split(b"\0")):
            found.append(process)
    return found


def assert_nothing_left(scratch):
    assert demo_processes(scratch) == []
    assert list(scratch.iterdir()) == []


def test_reads_the_page_measures_and_leaves_nothing(start_demo, scratch):
    demo = start_demo("--seconds", "1", "--json")
    out, err = demo.communicate(timeout=TIMEOUT_S)
    assert demo.returncode == 0, err
    found = json.loads(out)

    text = "\n".join(line["text"] for line in found["lines"])
    assert [word for word in WORDS if word not in text] == []
    assert found["files"][0] | {"score": 1.0} == {
        "file": "page.png",
        "label": "png",
        "description": "PNG image",
        "score": 1.0,
    }
    functions = {row["name"]: row for row in found["functions"]}
    assert functions.keys() == {"detector", "recognizer", "filetype"}
    for row in functions.values():
        assert row["requests"] > 0
        assert 0 < row["p50_us"] <= row["p99_us"]
        assert row["batch_mean_rows"] >= 1
        assert 0 < row["share_effective_percent"] <= 100
    assert {name: row["share_requested_percent"] for name, row in functions.items()} == {
        "detector": 25,
        "recognizer": 50,
        "filetype": 0,  # auto
    }
    shown = [re.split(r"\s{2,}", line.strip()) for line in err.splitlines()]
    head = shown.index(HEADS)
    assert [(row[0], row[5]) for row in shown[head + 1 : head + 4]] == [
        ("detector", "25%"),
        ("recognizer", "50%"),
        ("filetype", "auto"),
    ]
    assert all(len(row) == len(HEADS) for row in shown[head + 1 : head + 4])
    assert "left behind: no process, socket, cgroup or segment" in err

    from PIL import Image

    with Image.open(found["picture"]) as image:
        image.verify()
        assert image.format == "PNG"
        assert image.width > image.height > 500
    assert_nothing_left(scratch)


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.soak)]
)
def test_interrupted_in_the_load_leaves_nothing(start_demo, scratch, number):
    demo = start_demo("--seconds", "600")
    wait_for_output(demo, "Region-based")
    demo.send_signal(number)
    out, err = demo.communicate(timeout=TIMEOUT_S)
    assert demo.returncode == 130, err
    assert "left behind: no process, socket, cgroup or segment" in out
    assert_nothing_left(scratch)


def test_interrupted_while_starting_leaves_nothing(start_demo, scratch):
    demo = start_demo("--seconds", "600")
    wait_for_output(demo, "starting")
    demo.send_signal(signal.SIGINT)
    _, err = demo.communicate(timeout=TIMEOUT_S)
    assert demo.returncode == 130, err
    assert_nothing_left(scratch)


def test_killed_outright_takes_its_node_with_it(start_demo, scratch):
    demo = start_demo("--seconds", "600")
    wait_for_output(demo, "serving")
    node = demo_processes(scratch)
    assert node
    demo.kill()
    _, alive = psutil.wait_procs(node, timeout=TIMEOUT_S)
    assert alive == []


def test_missing_packages_are_named(tmp_path):
    """Without site-packages of the demo extra there is one line, and what to install."""
    code = (
        "import importlib.util as u, sys\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'rapidocr' else find(name, *a)\n"
        "from gslice.cli.main import main\n"
        "sys.argv = ['gslice', 'demo']\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=60
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "error: the demo needs the Python package rapidocr, which is not installed",
        "hint: pip install 'gslice[demo]'",
    ]


def wait_for_output(demo, text):
    """Reads standard output until it contains `text`."""
    selector = selectors.DefaultSelector()
    selector.register(demo.stdout, selectors.EVENT_READ)
    seen = ""
    while text not in seen:
        assert selector.select(TIMEOUT_S), f"no {text!r} after {TIMEOUT_S} s, only {seen!r}"
        chunk = os.read(demo.stdout.fileno(), 4096).decode()
        assert chunk, f"ended without {text!r}: {seen}{demo.stderr.read()}"
        seen += chunk
