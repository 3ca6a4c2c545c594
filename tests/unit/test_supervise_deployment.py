"""A deployment that ends lets go of its shared memory at once."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace

import pytest

from gslice.core.errors import LoadFailed
from gslice.core.types import FunctionSpec, Signature, TensorSpec
from gslice.supervise.deployment import Deployment
from tests.unit.function_bench import add, make_supervisor

SPEC = FunctionSpec("leaves")
SIGNATURE = Signature((TensorSpec("x", "INT64", (1,)),), (TensorSpec("y", "INT64", (1,)),))
BUDGET_BYTES = 1 << 24


def segments() -> int:
    """How many segments of that name this process holds."""
    links = (
        str(entry.readlink()) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()
    )
    return sum(link.startswith(f"/memfd:gslice:{SPEC.name}") for link in links)


async def stopped(deployment: Deployment) -> None:
    deployment.open_segment(SIGNATURE, BUDGET_BYTES)
    assert segments() == 1
    await deployment.stop()


async def killed(deployment: Deployment) -> None:
    deployment.open_segment(SIGNATURE, BUDGET_BYTES)
    await deployment.kill()


async def failed(deployment: Deployment) -> None:
    def stage(name: str, detail: str) -> None:
        deployment.open_segment(SIGNATURE, BUDGET_BYTES)
        raise LoadFailed("no such model")

    with pytest.raises(LoadFailed):
        await deployment.start(SimpleNamespace(), stage)  # type: ignore[arg-type]


@pytest.mark.parametrize("end", [stopped, killed, failed])
def test_nothing_holds_the_segment(
    end: Callable[[Deployment], Coroutine[None, None, None]], tmp_path: Path
) -> None:
    # It lives on: whoever asked for it may still look.
    deployment = add(make_supervisor(tmp_path, []), SPEC)._make(SPEC)
    gc.disable()
    try:
        asyncio.run(end(deployment))
        assert segments() == 0
    finally:
        gc.enable()
    assert deployment.segment is None
