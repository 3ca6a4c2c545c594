"""The GPU suite without a GPU: steps, their processes, what they report, and how they reckon."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from benchmarks.cores import ROOT
from benchmarks.gpu import probe
from benchmarks.gpu.__main__ import main, run
from benchmarks.gpu.mps import Client, Mps
from benchmarks.gpu.questions import QUESTIONS
from benchmarks.gpu.report import GpuReport, gpu
from benchmarks.gpu.runner import run_step
from benchmarks.gpu.step import Clock, Skipped, needed
from benchmarks.gpu.steps import STEPS, Step, budget_s, select
from benchmarks.gpu.tests import follow, tell
from gslice.core.errors import FailedPrecondition

KEYS = {"question", "command", "time", "commit", "machine", "versions", "settings", "rows"}

REPORTS = """
import argparse, pathlib
from benchmarks.gpu.report import GpuReport
parser = argparse.ArgumentParser()
parser.add_argument("--json", type=pathlib.Path)
parser.add_argument("--seconds", type=float)
options = parser.parse_args()
report = GpuReport("x", "How?", options.json, {"seconds": options.seconds})
"""
WAITS = "import signal; signal.pause()"


@dataclass(frozen=True)
class OwnStep(Step):
    """A step whose module is the test's."""

    @property
    def module(self) -> str:
        return self.name


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes a module that a step's process finds."""
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")

    def write(name: str, text: str) -> str:
        (tmp_path / f"{name}.py").write_text(REPORTS + text)
        return name

    return write


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or waits for nothing but its parent."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


# ---- steps -----------------------------------------------------------------------------------


def test_steps_are_modules_in_order_of_value():
    names = [step.name for step in STEPS]
    assert names[:4] == ["probe", "tests", "doctor", "ablation"]
    for step in STEPS:
        assert (ROOT / step.module.replace(".", "/")).with_suffix(".py").is_file()


def test_steps_of_names_keep_the_order():
    assert [step.name for step in select(["mix", "probe"])] == ["probe", "mix"]
    assert select(None) == list(STEPS)
    with pytest.raises(ValueError, match=r"no step 'nothing'; the steps are probe, tests"):
        select(["nothing"])


def test_what_a_step_saves_goes_to_the_next():
    steps = [Step("a", 10, ""), Step("b", 10, ""), Step("c", 20, "")]
    assert budget_s(steps, 0, 80) == 20
    assert budget_s(steps, 1, 75) == 25
    assert budget_s(steps, 2, 50) == 50


def test_clock_shares_what_is_left():
    now = [100.0]
    clock = Clock(10, lambda: now[0])
    assert (clock.left_s, clock.share_s(4), clock.share_s(0)) == (10, 2.5, 10)
    now[0] = 111
    assert (clock.left_s, clock.share_s(4, least=0.5)) == (0, 0.5)


def test_every_step_says_what_it_takes():
    for step in STEPS:
        asked = subprocess.run(
            [sys.executable, "-m", step.module, "--help"], cwd=ROOT, capture_output=True, text=True
        )
        assert asked.returncode == 0, asked.stderr
        assert "--seconds" in asked.stdout


def test_what_is_not_installed_is_named():
    with pytest.raises(Skipped, match="needs the package no_such_package"):
        needed("no_such_package.inner")


def test_the_evidence_page_names_what_there_is():
    page = (ROOT / "docs" / "gpu_evidence.md").read_text()
    for path in re.findall(r"`((?:tests|benchmarks/results)/[\w./]+\.\w+)`", page):
        assert (ROOT / path).is_file(), path
    for step in STEPS:
        assert f"| `{step.name}` |" in page
    for question in QUESTIONS:
        assert f"| `{question}` |" in page


# ---- the command -----------------------------------------------------------------------------


def test_the_list_has_every_step_and_its_time(capsys: pytest.CaptureFixture[str]):
    assert main(["--list", "--minutes", "8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [step.name for step in STEPS]
    assert sum(int(line.split()[1]) for line in lines) == pytest.approx(480, abs=len(lines))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--out DIR"),
        (["--out", "x", "--only", "nothing"], "there is no step 'nothing'"),
        (["--out", "x", "--minutes", "0"], "--minutes must be above 0"),
    ],
)
def test_wrong_arguments(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


def test_without_a_gpu_nothing_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "libcuda.so.1").write_text("no library")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    assert main(["--out", str(tmp_path / "out")]) == 2
    assert "error: no GPU: " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# ---- a step's process ------------------------------------------------------------------------


def test_a_step_that_ends_well(module, tmp_path: Path):
    name = module("fine", "report.add('a', us=1.5)\nreport.headline('all is well')")
    outcome = run_step(name, name, tmp_path, 60)
    assert (outcome.outcome, outcome.headline, outcome.left_behind) == ("ok", "all is well", 0)
    written = json.loads((tmp_path / "fine.json").read_text())
    assert written.keys() == KEYS
    assert written["rows"] == [{"name": "a", "us": 1.5}]
    assert written["settings"]["seconds"] == pytest.approx(51)


def test_a_step_that_fails_says_why_and_keeps_its_rows(module, tmp_path: Path):
    name = module("bad", "report.add('a')\nraise RuntimeError('no such GPU')")
    outcome = run_step(name, name, tmp_path, 60)
    assert (outcome.outcome, outcome.headline) == ("failed", "RuntimeError: no such GPU")
    assert "Traceback" in (tmp_path / "bad.log").read_text()
    assert json.loads((tmp_path / "bad.json").read_text())["rows"]


def test_a_result_of_an_earlier_run_does_not_count(module, tmp_path: Path):
    (tmp_path / "bad.json").write_text('{"settings": {"headline": "old"}, "rows": [{}]}')
    name = module("bad", "raise SystemExit('broken')")
    assert run_step(name, name, tmp_path, 60).headline == "broken"
    assert not (tmp_path / "bad.json").exists()


def test_a_step_that_takes_too_long_is_ended_with_all_it_started(
    module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("benchmarks.gpu.runner.GRACE_S", 1.0)
    stubborn = "import signal; signal.signal(15, signal.SIG_IGN); signal.pause()"
    name = module(
        "slow",
        f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {stubborn!r}], start_new_session=True)
report.add("child", pid=child.pid)
{WAITS}
""",
    )
    outcome = run_step(name, name, tmp_path, 4)
    assert (outcome.outcome, outcome.left_behind) == ("timed out", 1)
    assert outcome.headline == "1 rows were ready"
    (row,) = json.loads((tmp_path / "slow.json").read_text())["rows"]
    assert has_ended(row["pid"])


def test_a_failing_step_stops_nothing(module, tmp_path: Path):
    steps = [
        OwnStep(module("one", "raise SystemExit('no')"), 1, "?"),
        OwnStep(module("two", "report.headline('yes')"), 1, "?"),
    ]
    assert [o.outcome for o in run(steps, tmp_path, 60)] == ["failed", "ok"]


def test_no_step_begins_when_no_time_is_left(module, tmp_path: Path):
    steps = [OwnStep(module(name, ""), 1, "?") for name in ("one", "two")]
    outcomes = run(steps, tmp_path, 1)
    assert [(o.outcome, o.headline) for o in outcomes] == [("not run", "no time was left")] * 2
    assert not list(tmp_path.glob("*.log"))


def test_ctrl_c_keeps_what_is_there(module, tmp_path: Path):
    """The whole command, with steps of the test's own, interrupted in the second."""
    running = tmp_path / "running"
    os.mkfifo(running)
    module("first", "report.add('a', us=1)\nreport.headline('done')")
    module("second", f"report.add('b')\nopen({str(running)!r}, 'w').write('x')\n{WAITS}")
    module("third", "")
    program = f"""
import signal, sys
from benchmarks.gpu import __main__ as suite
from tests.unit.test_benchmarks_gpu import OwnStep
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells have background jobs ignore it
suite.lacking = lambda: ""
suite.select = lambda names: [OwnStep(name, 1, "?") for name in ("first", "second", "third")]
sys.exit(suite.main(["--out", {str(tmp_path / "out")!r}]))
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as suite:
        assert running.read_text() == "x"
        suite.send_signal(signal.SIGINT)
        shown, _ = suite.communicate(timeout=60)
    assert suite.returncode == 130
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary.keys() == KEYS
    rows = {row["name"]: row["outcome"] for row in summary["rows"]}
    assert rows == {"first": "ok", "second": "interrupted", "third": "not run"}
    assert json.loads((tmp_path / "out" / "second.json").read_text())["rows"] == [{"name": "b"}]
    assert "interrupted" in shown


# ---- reports ---------------------------------------------------------------------------------


def test_report_says_which_gpu_and_which_versions(tmp_path: Path):
    report = GpuReport("probe", "What?", tmp_path / "probe.json", {})
    report.add("a", holds=True)
    written = json.loads((tmp_path / "probe.json").read_text())
    assert written["command"] == "python -m benchmarks.gpu --only probe"
    assert written["machine"]["gpu"] == gpu()
    assert written["versions"]["python"]
    assert [path.name for path in tmp_path.iterdir()] == ["probe.json"]


def test_rows_of_pytest_as_they_end(capsys: pytest.CaptureFixture[str]):
    report = GpuReport("tests", "?", None, {})
    follow(
        [
            "collected 3 items\n",
            "tests/gpu/test_driver.py::test_a PASSED    [ 33%]\n",
            "tests/gpu/test_driver.py::test_b[1 x 2] FAILED    [ 66%]\n",
            "tests/gpu/test_mps.py::test_c SKIPPED (no MPS)    [100%]\n",
            "SKIPPED [1] tests/gpu/test_mps.py:9: no MPS\n",
        ],
        report,
    )
    assert [(row["name"], row["outcome"]) for row in report.rows] == [
        ("tests/gpu/test_driver.py::test_a", "passed"),
        ("tests/gpu/test_driver.py::test_b[1 x 2]", "failed"),
        ("tests/gpu/test_mps.py::test_c", "skipped"),
    ]
    assert tell(report) == "1 passed, 1 failed, 1 skipped"
    assert report.report.settings["skips"] == ["tests/gpu/test_mps.py:9: no MPS"]
    assert "collected 3 items" in capsys.readouterr().out


# ---- processes under test --------------------------------------------------------------------


def test_a_client_that_fails_says_why():
    client = Client("no_such_role", {})
    assert "KeyError: 'no_such_role'" in client.read()["failed"]
    client.close()


def test_a_question_that_fails_does_not_hold(monkeypatch: pytest.MonkeyPatch):
    answer = probe.ask("no_such_question", 60)
    assert (answer["holds"], answer["text"]) == (False, "KeyError: 'no_such_question'")
    assert probe.ask("device", 0.5) == {"holds": None, "text": "no time was left"}


def test_without_mps_its_name_is_in_the_error(monkeypatch: pytest.MonkeyPatch):
    def none() -> None:
        raise FailedPrecondition("nvidia-cuda-mps-control is nowhere")

    monkeypatch.setattr("benchmarks.gpu.mps.read_inventory", none)
    with pytest.raises(Skipped, match="nvidia-cuda-mps-control is nowhere"), Mps():
        pass
