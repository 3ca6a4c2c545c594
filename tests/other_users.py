"""Users that tests have workers run as: numbers, for nobody should have to make users for tests."""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
from pathlib import Path

import pytest

from gslice.core.hardening import entrance
from gslice.device.users import lacking_capabilities

FIRST, SECOND = 61001, 61002
_PROBE = "import gslice._native, os, sys; sys.exit(not os.access(sys.argv[1], os.R_OK))"
_FUNCTIONS = Path(__file__).parent / "process/functions"


def interpreter(directory: Path) -> str:
    """A Python that other users may run, with all packages of this one; else the test is skipped.

    Args:
        directory: Where one may be made, of the machine's own, if ours is closed to them.
    """
    if lacking := lacking_capabilities():
        pytest.skip(f"these tests may not become other users: no CAP_{lacking[0]}")
    if _runs(sys.executable):
        return sys.executable
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    if (program := shutil.which(version, path="/usr/bin:/usr/local/bin")) is not None:
        made = _environment(directory, Path(program), version)
        if _runs(made):
            return made
    pytest.skip(f"{sys.executable} or this checkout is closed to other users")


def run_as(uid: int, *command: str) -> subprocess.CompletedProcess[str]:
    """Runs a command as another user."""
    line, environment = entrance(uid, uid, (), command, dict(os.environ))
    return subprocess.run(line, env=environment, capture_output=True, text=True, check=False)


def _runs(program: str) -> bool:
    return run_as(FIRST, program, "-P", "-c", _PROBE, os.fspath(_FUNCTIONS)).returncode == 0


def _environment(directory: Path, program: Path, version: str) -> str:
    """A virtual environment, with our packages beside its own."""
    packages = directory / "lib" / version / "site-packages"
    packages.mkdir(parents=True)
    lines = "; ".join(f"site.addsitedir({path!r})" for path in site.getsitepackages())
    (packages / "ours.pth").write_text(f"import site; {lines}\n")
    (directory / "bin").mkdir()
    (directory / "bin/python").symlink_to(program)
    (directory / "pyvenv.cfg").write_text(f"home = {program.parent}\n")
    return os.fspath(directory / "bin/python")
