"""What TensorRT-RTX compiles of a plan for the GPU at hand, kept from one worker to the next.

A plan of its kind holds for many GPUs. A context compiles it for one, which takes seconds, and
adds what it has compiled to a cache that can be written down.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from gslice.core.errors import GsliceError

if TYPE_CHECKING:
    from pathlib import Path

    from gslice.core.plans import PlanCache
    from gslice.worker.engines.tensorrt_api import TensorRt

_log = logging.getLogger(__name__)


class Compiled:
    """The settings of contexts, with what was compiled by earlier ones.

    Args:
        library: TensorRT-RTX.
        engine: ICudaEngine.
        cache: Writes it.
        path: Where it is kept; None: nowhere.

    Attributes:
        settings: IRuntimeConfig.

    Raises:
        Internal: The library refuses.
    """

    def __init__(self, library: TensorRt, engine: Any, cache: PlanCache, path: Path | None) -> None:
        self._library = library
        self._cache = cache
        self._path = path
        api = library.api
        self.settings = settings = library.check("starting", engine.create_runtime_config)
        user_managed = api.ExecutionContextAllocationStrategy.USER_MANAGED
        settings.set_execution_context_allocation_strategy(user_managed)
        # A graph keeps the kernels that it was captured with: they must be the best by then.
        eager = api.DynamicShapesKernelSpecializationStrategy.EAGER
        settings.dynamic_shapes_kernel_specialization_strategy = eager
        self._compiled = library.check("starting", settings.create_runtime_cache)
        self._kept_bytes = self._read()
        library.check("starting", settings.set_runtime_cache, self._compiled)

    def keep(self) -> None:
        """Writes it down, if there is more than was written before; a failure is logged."""
        if self._path is None:
            return
        try:
            content = memoryview(
                self._library.check("writing what it compiled", self._compiled.serialize)
            )
            if content.nbytes > self._kept_bytes:
                self._cache.keep_compiled(self._path, content)
                self._kept_bytes = content.nbytes
        except (GsliceError, OSError) as error:
            self._path = None
            _log.warning("what is compiled is not kept: %s", error)

    def _read(self) -> int:
        """How much there was, and could be used."""
        if self._path is None or not self._path.is_file():
            return 0
        try:
            content = self._path.read_bytes()
            self._library.check("reading what it compiled", self._compiled.deserialize, content)
        except (GsliceError, OSError) as error:
            _log.info("what was compiled cannot be used, and is compiled anew: %s", error)
            return 0
        return len(content)
