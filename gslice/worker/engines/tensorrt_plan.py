"""The plan of a function: the file that it names, one that was kept, or one that is built now."""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gslice.core.errors import GsliceError, Internal, LoadFailed
from gslice.core.plans import PlanCache, PlanKey, content_of, is_plan
from gslice.worker.engines.base import DEFAULT_ROWS_MAX
from gslice.worker.engines.files import check_model_file
from gslice.worker.engines.tensorrt_build import Network

if TYPE_CHECKING:
    from gslice.core.types import FunctionSpec
    from gslice.worker.engines.tensorrt_api import TensorRt
    from gslice.worker.engines.tensorrt_build import Target

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """A plan, where it can be loaded from.

    Attributes:
        plan: A buffer.
        key: Of the cache; None: the function names the plan itself.
        built: It was built just now.
    """

    plan: Any
    key: PlanKey | None = None
    built: bool = False


@dataclass(frozen=True)
class Loaded:
    """A plan, loaded.

    Attributes:
        engine: ICudaEngine.
        runtime: What it needs to live.
        key: As of `Found`.
    """

    engine: Any
    runtime: Any
    key: PlanKey | None


class Plans:
    """Finds, builds and loads the plans of a library for a GPU.

    Args:
        library: TensorRT.
        target: The GPU.
        cache: Where plans are kept; None: the user's.

    Attributes:
        cache: Likewise.
    """

    def __init__(self, library: TensorRt, target: Target, cache: PlanCache | None = None) -> None:
        self._library = library
        self._target = target
        self.cache = cache or PlanCache()

    def find(self, spec: FunctionSpec) -> Found:
        """The function's plan, built if need be.

        Raises:
            LoadFailed: There is none, and none can be built; the message says why.
        """
        check_model_file(spec)
        try:
            if is_plan(spec.model):
                return Found(Path(spec.model).read_bytes())
            return self._of_onnx(spec)
        except GsliceError as error:
            raise failed(spec, error) from error
        except OSError as error:
            raise LoadFailed(f"function {spec.name}: {error.filename}: {error.strerror}") from error

    def load(self, spec: FunctionSpec) -> Loaded:
        """The function's plan, loaded. One that was kept, and is damaged, is built anew.

        Raises:
            LoadFailed: As of `find`, or the library's reason not to load it.
        """
        found = self.find(spec)
        try:
            return self._loaded(spec, found)
        except Internal as error:
            if found.key is None or found.built or not self.cache.is_damaged(found.key):
                raise failed(spec, error) from error
            _log.warning("what was kept is damaged, and is built anew: %s", error.message)
            self.cache.drop(found.key.name)
        found = self.find(spec)
        try:
            return self._loaded(spec, found)
        except Internal as error:
            raise failed(spec, error) from error

    def compiled(self, key: PlanKey | None) -> Path | None:
        """Where what is compiled of a plan for this GPU is kept; None: the plan is not ours."""
        return self.cache.compiled(key, self._target.name) if key is not None else None

    def _loaded(self, spec: FunctionSpec, found: Found) -> Loaded:
        library = self._library
        library.start()
        runtime = library.check("starting", library.api.Runtime, library.logger)
        deserialise = runtime.deserialize_cuda_engine
        engine = library.check(f"loading the plan of {spec.model}", deserialise, found.plan)
        return Loaded(engine, runtime, found.key)

    def _of_onnx(self, spec: FunctionSpec) -> Found:
        key = PlanKey(
            spec.model,
            content_of(spec.model),
            self._library.version,
            self._target.text(self._library),
            {
                "rows_max": spec.batch_max or DEFAULT_ROWS_MAX,
                "shapes": spec.args.get("shapes", {}),
            },
        )
        with contextlib.ExitStack() as alone:
            with contextlib.suppress(OSError):  # what is built is told of below
                alone.enter_context(self.cache.alone(key))
            if (plan := self.cache.read(key)) is not None:
                return Found(plan, key)
            return Found(self._built(spec, key), key, built=True)

    def _built(self, spec: FunctionSpec, key: PlanKey) -> Any:
        _log.info("building a plan of %s for %s by %s", key.model, key.gpu, key.library)
        began_s = time.monotonic()
        plan = memoryview(Network(self._library, spec).plan(self._target))
        took_s = time.monotonic() - began_s
        _log.info("built in %.1f s: %d bytes", took_s, plan.nbytes)
        try:
            self.cache.keep(key, plan, took_s)
        except OSError as error:
            _log.warning("the plan is not kept: %s: %s", self.cache.directory, error.strerror)
        return plan


def failed(spec: FunctionSpec, error: GsliceError) -> LoadFailed:
    """An error as one of the function's load."""
    if isinstance(error, LoadFailed):
        return error
    return LoadFailed(f"function {spec.name}: {error.message}", hint=error.hint)
