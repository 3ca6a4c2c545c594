"""Orders that give way to one another, and shares that outlive the daemon that decided them."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import pytest

from gslice.core.errors import (
    Cancelled,
)
from gslice.core.types import ShareBounds
from tests.unit.function_bench import (
    SPEC,
    Running,
    add,
    make_supervisor,
    serves,
)


def test_an_order_that_is_given_up_while_it_waits_is_over(tmp_path: Path) -> None:
    async def scenario() -> None:
        function = add(make_supervisor(tmp_path, []), SPEC)
        resizing = function.resizing

        async def ordered() -> None:
            async with resizing.ordered():
                pass

        async with function.lock:
            given_up = asyncio.create_task(ordered())
            await asyncio.sleep(0)
            with pytest.raises(Cancelled):
                resizing.check_newest()  # whoever has the lock makes room for it
            given_up.cancel()
            await asyncio.wait([given_up])
            resizing.check_newest()
        await ordered()
        resizing.check_newest()

    asyncio.run(scenario())


def test_what_was_decided_holds_for_the_next_daemon_until_it_decides(tmp_path: Path) -> None:
    async def scenario() -> None:
        supervisor = make_supervisor(tmp_path, [])
        shares = {"a": 70.0, "b": 10.0}
        for name, share_percent in shares.items():
            function = add(supervisor, dataclasses.replace(SPEC, name=name, share=ShareBounds()))
            serves(function, Running(function.spec))
            function.share_granted_percent = share_percent
        await supervisor.sharing.adopt()
        assert {n: f.share_granted_percent for n, f in supervisor.functions.items()} == shares
        await supervisor.sharing.follow({})
        assert {f.share_granted_percent for f in supervisor.functions.values()} == {50}

    asyncio.run(scenario())
