"""The engines, each imported only when a function needs it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from gslice.core.errors import LoadFailed
from gslice.core.packages import REINSTALL, OnnxRuntimePackages, cuda_provider
from gslice.core.plans import LIBRARIES

if TYPE_CHECKING:
    from gslice.worker.engines.base import Engine

_EXTRAS = {
    "onnxruntime": "'gslice[cpu]', or 'gslice[cuda]' for a GPU",
    "torch": "'gslice[torch]'",
    **{library: f"'gslice[{library.replace('_', '-')}]'" for library in LIBRARIES},
}
"""What brings an engine's packages."""


def make_engine(name: str) -> Engine:
    """The engine of a name, not loaded yet.

    Raises:
        LoadFailed: There is no such engine, or what it needs is not installed.
    """
    if name == "python":
        from gslice.worker.engines.python import PythonEngine

        return PythonEngine()
    if name == "identity":
        from gslice.worker.engines.identity import IdentityEngine

        return IdentityEngine()
    if name not in _EXTRAS:
        raise LoadFailed(
            f"there is no engine {name!r}",
            hint=f"use {', '.join(_EXTRAS)}, python or identity",
        )
    with needed(name):
        if name == "onnxruntime":
            from gslice.worker.engines.onnx_runtime import OnnxRuntimeEngine

            return OnnxRuntimeEngine()
        if name == "torch":
            # Read when torch is loaded: an OpenMP thread that spins for work burns the share that
            # another batch needs.
            os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
            from gslice.worker.engines.torch_engine import TorchEngine

            return TorchEngine()
        from gslice.worker.engines.tensorrt_engine import TensorRtEngine

        return TensorRtEngine(name)


@contextlib.contextmanager
def needed(engine: str) -> Iterator[None]:
    """Inside, what is imported is what an engine needs.

    Raises:
        LoadFailed: It is not installed, or not whole.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise LoadFailed(
            f"engine {engine} needs the package {error.name}", hint=f"pip install {_EXTRAS[engine]}"
        ) from error
    except ImportError as error:
        is_onnx = engine == "onnxruntime"
        what = OnnxRuntimePackages.find().problem(on_gpu=False)[0] if is_onnx else ""
        again = REINSTALL + _EXTRAS[engine] if is_onnx else f"install {engine} anew"
        raise LoadFailed(
            f"engine {engine} cannot be imported: {what or error}", hint=again
        ) from error


def preload(name: str) -> None:
    """Imports an engine's libraries, which takes most of a worker's start, and opens no GPU.

    An ONNX Runtime with a CUDA provider is left for the load: newer ones ask the driver for GPUs
    when they are imported, and after that neither a GPU nor a share of it can be chosen.

    Raises:
        LoadFailed: See `make_engine`.
    """
    if name != "onnxruntime" or cuda_provider() is None:
        make_engine(name)
