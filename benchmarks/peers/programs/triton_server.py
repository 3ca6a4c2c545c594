"""Triton, from pytriton's wheel: lays the Python backend out, and becomes tritonserver.

    python triton_server.py BACKENDS OPTION...

The wheel has a stub of the backend for each Python; the backend wants its own beside it. pytriton
itself does the same when it starts the server.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pytriton.utils.distribution import get_libs_path, get_root_module_path, get_stub_path


def main() -> None:
    backends, *options = sys.argv[1:]
    server = Path(get_root_module_path()) / "tritonserver"
    python = Path(backends) / "python"
    python.mkdir(parents=True)
    for name in ("libtriton_python.so", "triton_python_backend_utils.py"):
        (python / name).symlink_to(server / "backends" / "python" / name)
    stub = get_stub_path(f"{sys.version_info.major}.{sys.version_info.minor}")
    (python / "triton_python_backend_stub").symlink_to(stub)
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": str(get_libs_path()),
        # The stub's Python takes the packages of the first Python that is found there.
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    command = [str(server / "bin" / "tritonserver"), f"--backend-directory={backends}", *options]
    os.execve(command[0], command, environment)


if __name__ == "__main__":
    main()
