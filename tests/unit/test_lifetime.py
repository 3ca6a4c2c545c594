from __future__ import annotations

import gc
import importlib
import subprocess
import sys

import pytest

from gslice.core.lifetime import lasting_imports


def test_garbage_is_looked_for_again_after_imports() -> None:
    with lasting_imports():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ModuleNotFoundError), lasting_imports():
        importlib.import_module("nowhere")
    assert gc.isenabled()


def test_what_was_said_before_the_end_is_heard() -> None:
    code = (
        "import sys; from gslice.core.lifetime import leave\n"
        "sys.stdout.write('out'); sys.stderr.write('err'); leave(7)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (7, "out", "err")
