from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gslice import __version__
from gslice.cli import checks
from gslice.cli.main import app
from gslice.core.config import load_config
from tests.cli import failing, gslice

COMMANDS = (
    *("serve", "demo", "infer", "bench", "ps", "status", "load", "unload", "diff", "save"),
    *("resize", "upgrade", "events", "logs", "doctor", "init", "config", "import"),
    *("apply", "top", "completion"),
)

pytestmark = pytest.mark.usefixtures("here")


# ---- the command itself --------------------------------------------------------------------------


def test_help_names_every_command() -> None:
    shown = gslice("--help").stdout
    assert all(f"\n  {command} " in shown for command in COMMANDS)
    assert "..." not in shown.split("Commands:")[1], "a summary is too long for its line"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    assert f"Usage: gslice {command}" in gslice(command, "--help").stdout.replace("root", "gslice")


def test_help_is_quick(record_property: Any) -> None:
    """A figure only: what may not be imported for --help is asserted in test_imports.py."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "gslice", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    imports = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    total_us = sum(int(line.split("|")[0].split(":")[1]) for line in imports[1:])
    record_property("import_ms", round(total_us / 1000, 1))
    modules = {line.rsplit("|")[2].strip().split(".")[0] for line in imports}
    assert "typer" in modules
    assert not modules & {"asyncio", "rich", "grpc", "numpy", "pydantic", "ruamel", "google"}


def test_version() -> None:
    assert gslice("--version").stdout == f"gslice {__version__}\n"


def test_an_unknown_command_gets_a_suggestion() -> None:
    assert "Did you mean 'serve'?" in gslice("serv", status=2).stderr


def test_ctrl_c_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(path: Path, **settings: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gslice.core.config.load_config", interrupted)
    result = gslice("config", "check", status=130)
    assert result.output == ""


def test_errors_have_no_colours_where_nobody_looks() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gslice", "config", "check"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr == (
        "error: node.yaml: No such file or directory\nhint: `gslice init` writes a node.yaml\n"
    )


def test_a_reader_that_leaves_early_is_no_error() -> None:
    command = f"{sys.executable} -m gslice config schema | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stdout == "{\n"
    assert done.stderr == ""


# ---- config, init --------------------------------------------------------------------------------


def test_an_unknown_key_names_its_line_and_the_nearest_key(here: Path) -> None:
    (here / "node.yaml").write_text(
        "version: 1\nnode: {grpcc: x}\nfunctions:\n  detektor:\n    model: m.onnx\n    shar: 1%\n"
    )
    assert failing("config", "check") == [
        "error: node.yaml:2: node.grpcc: unknown key; did you mean 'grpc'?",
        "error: node.yaml:6: functions.detektor.shar: unknown key; did you mean 'share'?",
    ]
    assert failing("serve") == failing("config", "check")


def test_check_warns_of_files_that_are_not_there(here: Path) -> None:
    (here / "node.yaml").write_text("version: 1\nfunctions: {f: {model: m.onnx}}\n")
    result = gslice("config", "check")
    assert result.stdout == "node.yaml: good, 1 function\n"
    assert result.stderr == f"warning: functions.f.model: there is no file {here}/m.onnx\n"


def test_show_as_json_has_every_setting(here: Path) -> None:
    (here / "node.yaml").write_text("version: 1\nfunctions: {f: {model: m.onnx, share: 40%}}\n")
    shown = json.loads(gslice("config", "show", "--json").stdout)
    assert shown.keys() == {"node", "devices", "functions", "path", "defaults"}
    assert shown["functions"]["f"]["share"] == {
        "min_percent": 40.0,
        "max_percent": 40.0,
        "auto": False,
    }


def test_show_is_a_file_again(here: Path) -> None:
    (here / "node.yaml").write_text("version: 1\nfunctions: {f: {model: m.onnx}}\n")
    (here / "again.yaml").write_text(gslice("config", "show").stdout)
    assert load_config(here / "again.yaml").functions == load_config(here / "node.yaml").functions


def test_schema_is_json() -> None:
    assert json.loads(gslice("config", "schema").stdout)["title"] == "gslice node.yaml"


def test_init_finds_models_and_its_file_is_good(here: Path) -> None:
    for path in ("a b.onnx", "resnet/1/model.onnx", "x/a b.onnx", ".hidden/no.onnx", "b.txt"):
        (here / path).parent.mkdir(parents=True, exist_ok=True)
        (here / path).write_text("")
    gslice("init")
    functions = load_config(here / "node.yaml").functions
    assert {name: spec.model for name, spec in functions.items()} == {
        "a-b": str(here / "a b.onnx"),
        "resnet": str(here / "resnet/1/model.onnx"),
        "a-b-2": str(here / "x/a b.onnx"),
    }


def test_init_takes_the_models_that_are_named(here: Path) -> None:
    for path in ("models/my net.onnx", "other.onnx", "export.pt2", "node/.keep"):
        (here / path).parent.mkdir(parents=True, exist_ok=True)
        (here / path).write_text("")
    told = gslice("init", "node", "-m", "models/my net.onnx", "-m", "export.pt2").stdout
    functions = load_config(here / "node/node.yaml").functions
    assert {name: (spec.engine, spec.model) for name, spec in functions.items()} == {
        "my-net": ("onnxruntime", str(here / "models/my net.onnx")),
        "export": ("torch", str(here / "export.pt2")),
    }
    assert told.splitlines() == [
        "wrote node/node.yaml with 2 functions",
        "next: gslice serve -c node/node.yaml",
        "then, beside it: gslice infer my-net --state-dir node/state",
    ]
    assert failing("init", "-m", "absent.onnx") == ["error: there is no file absent.onnx"]


def test_init_without_models_writes_a_good_file(here: Path) -> None:
    assert "no function yet" in gslice("init").stdout
    assert load_config(here / "node.yaml").functions == {}
    uncommented = (here / "node.yaml").read_text().replace("  # ", "  ").replace("\n# ", "\n")
    assert "detector:" in uncommented


def test_init_replaces_nothing_unasked(here: Path) -> None:
    (here / "node.yaml").write_text("mine")
    assert failing("init") == ["error: node.yaml exists already", "hint: --force replaces it"]
    assert (here / "node.yaml").read_text() == "mine"
    gslice("init", "--force")
    assert (here / "node.yaml").read_text() != "mine"


# ---- doctor --------------------------------------------------------------------------------------


def test_doctor_as_json() -> None:
    result = CliRunner().invoke(app, ["doctor", "--quick", "--json"])
    report = json.loads(result.stdout)
    names = [check["name"] for check in report["checks"]]
    assert names[:3] == ["Python", "native core", "front-end"]
    assert "CPU limiter" in names
    assert {check["status"] for check in report["checks"]} <= {"ok", "note", "warn", "fail"}
    assert report["ok"] is (result.exit_code == 0)
    assert "MPS" in report["fault_domain"]


def test_doctor_says_whether_pumps_may_go_first() -> None:
    assert checks.check_real_time(True).status == "ok"
    lacking = checks.check_real_time(False)
    assert (lacking.status, "LimitRTPRIO=1" in lacking.hint) == ("note", True)


def test_serve_takes_no_configuration_for_a_model(here: Path) -> None:
    (here / "node.yaml").write_text("version: 1\n")
    assert failing("serve", "node.yaml") == [
        "error: node.yaml is no model",
        "hint: gslice serve -c node.yaml",
    ]
