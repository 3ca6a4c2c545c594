"""TensorRT's Python package, or TensorRT-RTX's, which is alike; and the one check of its calls.

Both tell of a failure by None or False, and say why to a logger. Here that becomes an error.
"""

from __future__ import annotations

import importlib
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from gslice.core.errors import Internal, LoadFailed

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

# Their severities, from 0 on: internal error, error, warning, info; verbose is left out. Warnings
# are about how a model was exported and optimised, and nothing that an operator can mend.
_LEVELS = (logging.ERROR, logging.ERROR, logging.INFO, logging.DEBUG)
_ERRORS = 2  # that many of them are errors
_KEPT = 4  # the last lines say what it was about

RTX = "tensorrt_rtx"


class TensorRt:
    """A library, imported.

    Args:
        name: Of the package, one of `gslice.core.plans.LIBRARIES`.

    Attributes:
        name: Of the package.
        api: The package.
        version: Of the package, with its name.
        logger: What it is given wherever it wants one.

    Raises:
        ModuleNotFoundError: It is not installed.
        LoadFailed: It is, and cannot be used.
    """

    def __init__(self, name: str) -> None:
        try:
            self.api: Any = importlib.import_module(name)
        except ModuleNotFoundError:
            raise
        except Exception as error:  # a library that it needs, most likely
            raise LoadFailed(
                f"the package {name} cannot be imported: {_line(error)}",
                hint=f"install it anew: pip install 'gslice[{name.replace('_', '-')}]'",
            ) from error
        self.name = name
        self.version = f"{name} {self.api.__version__}"
        self._said: deque[str] = deque(maxlen=_KEPT)
        self._started = False
        hear = self._hear
        self.logger: Any = subclass(self.api.ILogger, log=lambda _, *told: hear(*told))()

    @property
    def is_rtx(self) -> bool:
        """Whether it builds for a kind of GPU, and compiles for the one at hand when it loads."""
        return self.name == RTX

    def start(self) -> None:
        """Before a model is read or a plan is loaded: some operators are plugins of the library's.

        Raises:
            Internal: It refuses.
        """
        if not self._started:
            self.check("starting", self.api.init_libnvinfer_plugins, self.logger, "")
            self._started = True

    def check(self, doing: str, call: Callable[..., _T | None], *arguments: Any) -> _T:
        """Makes a call of the library.

        Args:
            doing: What it is for, as in "parsing the model".
            call: Of the library.
            arguments: Its arguments.

        Raises:
            Internal: It returned None or False, or raised; the message has what its logger got.
        """
        self._said.clear()
        try:
            result = call(*arguments)
        except Exception as error:
            raise self.refused(doing, _line(error)) from error
        if result is None or result is False:
            raise self.refused(doing)
        return result

    def do(self, doing: str, call: Callable[..., object], *arguments: Any) -> None:
        """Makes a call that returns nothing, and tells of a failure only to the logger.

        Raises:
            Internal: It raised, or the logger got an error.
        """
        self._said.clear()
        try:
            call(*arguments)
        except Exception as error:
            raise self.refused(doing, _line(error)) from error
        if self._said:
            raise self.refused(doing)

    def refused(self, doing: str, raised: str = "") -> Internal:
        """The error to raise, with what the logger got."""
        words = list(dict.fromkeys(self._said)) or [raised or "it gives no reason"]
        return Internal(f"{self.name}: {doing} failed: {'; '.join(words)}")

    def _hear(self, severity: Any, text: str) -> None:
        severity, line = int(severity), " ".join(str(text).split())
        if severity < _ERRORS:
            self._said.append(line)
        if severity < len(_LEVELS):
            _log.log(_LEVELS[severity], "%s: %s", self.name, line)


def subclass(base: Any, **methods: Callable[..., object]) -> Any:
    """A class of what the library calls back, whose base is known only when it is imported."""
    return type(base.__name__, (base,), methods)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
