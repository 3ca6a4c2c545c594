"""The engines, each imported only when a function needs it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from gslice.core.errors import LoadFailed
from gslice.core.packages import REINSTALL, OnnxRuntimePackages, cuda_provider

if TYPE_CHECKING:
    from gslice.worker.engines.base import Engine

_EXTRAS = {
    "onnxruntime": "'gslice[cpu]', or 'gslice[cuda]' for a GPU",
    "torch": "'gslice[torch]'",
}
"""What brings an engine's packages."""


def make_engine(name: str) -> Engine:
    """The engine of a name, not loaded yet.

    Raises:
        LoadFailed: There is no such engine, or what it needs is not installed.
    """
    try:
        if name == "onnxruntime":
            from gslice.worker.engines.onnx_runtime import OnnxRuntimeEngine

            return OnnxRuntimeEngine()
        if name == "torch":
            # Read when torch is loaded: an OpenMP thread that spins for work burns the share that
            # another batch needs.
            os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
            from gslice.worker.engines.torch_engine import TorchEngine

            return TorchEngine()
    except ModuleNotFoundError as error:
        raise LoadFailed(
            f"engine {name} needs the package {error.name}", hint=f"pip install {_EXTRAS[name]}"
        ) from error
    except ImportError as error:
        what = "" if name == "torch" else OnnxRuntimePackages.find().problem(on_gpu=False)[0]
        again = "install torch anew" if name == "torch" else REINSTALL + _EXTRAS[name]
        raise LoadFailed(
            f"engine {name} cannot be imported: {what or error}", hint=again
        ) from error
    if name == "python":
        from gslice.worker.engines.python import PythonEngine

        return PythonEngine()
    if name == "identity":
        from gslice.worker.engines.identity import IdentityEngine

        return IdentityEngine()
    raise LoadFailed(
        f"there is no engine {name!r}", hint="use onnxruntime, torch, python or identity"
    )


def preload(name: str) -> None:
    """Imports an engine's libraries, which takes most of a worker's start, and opens no GPU.

    An ONNX Runtime with a CUDA provider is left for the load: newer ones ask the driver for GPUs
    when they are imported, and after that neither a GPU nor a share of it can be chosen.

    Raises:
        LoadFailed: See `make_engine`.
    """
    if name != "onnxruntime" or cuda_provider() is None:
        make_engine(name)
