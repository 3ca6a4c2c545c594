"""The worker that is measured: whoever gives it up in the middle leaves nothing of it."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

from gslice.core.types import FunctionSpec, Signature
from gslice.supervise import stand as module
from gslice.supervise.stand import Stand
from tests.unit.function_bench import make_supervisor

SIGNATURE = Signature((), ())


class FakeInstances:
    """Workers that are names; to end one takes until `ends` is set."""

    def __init__(self, *_: Any, beside: bool) -> None:
        assert beside
        self.ends = asyncio.Event()
        self.lives: list[float] = []

    def path(self, worker: float, share_percent: float) -> str:
        return "shadow"

    async def start(self, share_percent: float) -> float:
        self.lives.append(share_percent)
        return share_percent

    async def load(self, worker: float, known: Signature, *, gently: bool) -> Signature:
        return known

    async def discard(self, worker: float) -> None:
        await self.ends.wait()
        self.lives.remove(worker)


def test_one_that_is_given_up_while_its_worker_ends_is_closed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        node = make_supervisor(tmp_path, []).node
        stand = Stand(node, FunctionSpec("f"), SIGNATURE, None)  # type: ignore[arg-type]
        instances: Any = stand._instances
        await stand.bring_to(100.0)
        change = asyncio.create_task(stand.bring_to(50.0))
        await asyncio.sleep(0)
        change.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await change
        assert list(node.stands) == instances.lives == [100.0]
        instances.ends.set()
        await stand.close()
        assert list(node.stands) == instances.lives == []
        await stand.close()

    monkeypatch.setattr(module, "Instances", FakeInstances)
    asyncio.run(scenario())
