"""The engines, each imported only when a function needs it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from gslice.core.errors import LoadFailed
from gslice.core.plans import LIBRARIES

if TYPE_CHECKING:
    from gslice.worker.engines.base import Engine


def make_engine(name: str) -> Engine:
    """The engine of a name, not loaded yet.

    Raises:
        LoadFailed: There is no such engine, or what it needs is not installed.
    """
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
        if name in LIBRARIES:
            from gslice.worker.engines.tensorrt_engine import TensorRtEngine

            return TensorRtEngine(name)
    if name == "python":
        from gslice.worker.engines.python import PythonEngine

        return PythonEngine()
    if name == "identity":
        from gslice.worker.engines.identity import IdentityEngine

        return IdentityEngine()
    raise LoadFailed(
        f"there is no engine {name!r}",
        hint=f"use onnxruntime, torch, {', '.join(LIBRARIES)}, python or identity",
    )


@contextlib.contextmanager
def needed(engine: str) -> Iterator[None]:
    """Inside, what is imported is what an engine needs.

    Raises:
        LoadFailed: It is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        extra = "cpu" if engine == "onnxruntime" else engine.replace("_", "-")
        raise LoadFailed(
            f"engine {engine} needs the package {error.name}", hint=f"pip install 'gslice[{extra}]'"
        ) from error
