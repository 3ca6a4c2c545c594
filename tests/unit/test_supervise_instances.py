"""Workers on their segment, and the front-ends that they are told of."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

from gslice._native import Segment
from gslice.supervise.instances import Instances
from tests.unit.function_bench import SPEC, make_supervisor


def test_a_frontend_that_comes_while_a_worker_waits_for_its_gpu_is_told_of(tmp_path: Path) -> None:
    async def scenario() -> None:
        node, there = make_supervisor(tmp_path, []).node, {0: 40}
        frontends: Any = SimpleNamespace(eventfds=lambda: dict(there))
        instances = Instances(node, SPEC, frontends, lambda *_: None)
        instances.segment = Segment.create("a", [(4096, 1)], 4096, 1)
        gpu = SimpleNamespace(measuring=asyncio.Lock(), check_share=lambda *_: None)
        instances._gpu = gpu  # type: ignore[assignment]
        told: list[Mapping[int, int]] = []

        async def attach(*order: Any) -> None:
            told.append(order[4])

        death = asyncio.get_running_loop().create_future()
        worker: Any = MagicMock(pid=1, attach=attach, death=death)
        async with gpu.measuring:
            attaching = asyncio.create_task(instances.attach(worker))
            await asyncio.sleep(0)
            del there[0]  # it died, and its descriptor is closed
            there[1] = 41
        await attaching
        assert told == [{1: 41}]

    asyncio.run(scenario())
