"""What `benchmarks/native` holds, built when it is asked for."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from benchmarks.cores import ROOT
from gslice.core.errors import FailedPrecondition

BUILD = ROOT / "build" / "bench"


def built(target: str) -> Path:
    """Builds a target, or finds that it is up to date.

    Args:
        target: `echo_nghttp2`, or the library `count_allocations`.

    Returns:
        The file that was built.

    Raises:
        FailedPrecondition: It cannot be built here; the message says what is missing.
    """
    cmake = shutil.which("cmake")
    if cmake is None:
        raise FailedPrecondition(f"{target} needs cmake to be built: pip install cmake")
    configure = ["-S", str(ROOT / "native"), "-B", str(BUILD), "-DCMAKE_BUILD_TYPE=Release"]
    _run(target, [cmake, *configure, "-DGSLICE_PYTHON=OFF", "-DGSLICE_BENCH=ON"])
    _run(target, [cmake, "--build", str(BUILD), "--target", target])
    names = (target, f"lib{target}.so")
    return next(path for path in BUILD.rglob(f"*{target}*") if path.name in names)


def _run(target: str, command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise FailedPrecondition(
            f"{target} cannot be built; install g++ and libnghttp2-dev: {' '.join(said[:3])}"
        )
