"""A page for each command, which man can show."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import typer

from gslice import __version__
from gslice.cli.main import app
from scripts import man_pages


def test_every_command_has_a_page(tmp_path: Path) -> None:
    written = {path.stem: path.read_text() for path in man_pages.write(tmp_path)}
    whole = typer.main.get_command(app)
    names = {"gslice"}
    for name, command in whole.commands.items():
        names |= {f"gslice-{name}"}
        names |= {f"gslice-{name}-{inner}" for inner in getattr(command, "commands", {})}
    assert {"gslice-apply", "gslice-top", "gslice-config-check"} < names
    assert written.keys() == names
    assert f'"gslice {__version__}"' in written["gslice"]
    assert "\\fBgslice\\-config\\-check\\fR(1)" in written["gslice-config"]
    assert "\\fBapply\\fR\n" in written["gslice"]
    applying = written["gslice-apply"]
    assert "\\-\\-dry\\-run" in applying
    assert "exit status is 0 if nothing differs" in applying


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not here")
def test_groff_has_nothing_to_say_against_them(tmp_path: Path) -> None:
    paths = [str(path) for path in man_pages.write(tmp_path)]
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", "-z", *paths], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
