"""What can be seen of a function while its files are fetched."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gslice.supervise.function import Function

_STAGE_S = 5.0


@contextlib.contextmanager
def fetching(
    function: Function, stage: Callable[[str, str], None]
) -> Iterator[Callable[[str], None]]:
    """Around what may be a download: its reason says how far that is, and now and then a stage.

    Args:
        function: Which.
        stage: Told of the beginning, and every few seconds.
    """
    before, staged_s = function.reason, 0.0

    def tell(text: str) -> None:
        nonlocal staged_s
        function.set_state(function.state if function.accepting else "LOADING", f"fetches {text}")
        if time.monotonic() - staged_s >= _STAGE_S:
            staged_s = time.monotonic()
            stage("fetch", text)

    try:
        yield tell
    finally:
        if staged_s:
            function.set_state(function.state, before)
