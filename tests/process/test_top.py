"""`gslice top` over a node that runs, with somebody at its keys."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from textual.pilot import Pilot
from textual.widgets import DataTable, Input, Static

from gslice.cli.top_app import Top
from tests.node import WAIT_S

POLL_S = 0.02


def shown(app: Top, selector: str) -> str:
    """The text of a part of the screen, modal or not."""
    for screen in reversed(app.screen_stack):
        for widget in screen.query(selector).results(Static):
            return str(widget.render())
    return ""


def rows(app: Top) -> list[list[str]]:
    table = app.screen_stack[0].query_one(DataTable)
    return [[str(cell) for cell in table.get_row_at(row)] for row in range(table.row_count)]


async def wait_for(pilot: Pilot[Any], condition: Callable[[], bool]) -> None:
    """The screen is drawn when its events have been handled; a status comes when it comes."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain; now {rows(pilot.app)}"  # type: ignore[arg-type]
        await pilot.pause(POLL_S)


def test_functions_are_shown_resized_drained_and_reloaded_by_keys(start_node, identity) -> None:
    node = start_node({"one": {**identity, "share": "30%"}, "two": {**identity, "share": "20%"}})
    x = np.array([[1]], np.int64)
    with node.client() as client:
        for _ in range(5):
            client.infer("two", {"x": x})

    async def scenario() -> None:
        app = Top(node.state_dir)
        async with app.run_test(size=(120, 30)) as pilot:
            await wait_for(pilot, lambda: [row[0] for row in rows(app)] == ["one", "two"])
            assert "2 of 2 functions serve" in shown(app, "#node")
            (bar,) = shown(app, "#devices").splitlines()
            assert bar.index("one") < bar.index("two")

            await pilot.press("down", "r")
            field = app.screen.query_one(Input)
            assert field.value == "20%"
            field.value = "nonsense"
            await pilot.press("enter")
            await wait_for(pilot, lambda: "nonsense" in shown(app, "#told"))
            field.value = "25%"
            await pilot.press("enter")
            await wait_for(pilot, lambda: "20% -> 25%" in shown(app, "#told"))
            await pilot.press("enter")
            await wait_for(pilot, lambda: "two: done" in shown(app, "#order"))
            assert node.function("two").share_max_percent == 25

            text = node.config_path.read_text().replace("two:", "three:")
            node.config_path.write_text(text)
            await pilot.press("l")
            await wait_for(pilot, lambda: "three: load" in shown(app, "#told"))
            await pilot.press("enter")
            await wait_for(pilot, lambda: [row[0] for row in rows(app)] == ["one", "three"])
            await wait_for(pilot, lambda: "changes of node.yaml made" in shown(app, "#order"))

            await pilot.press("d", "enter")
            await wait_for(pilot, lambda: "drained" in shown(app, "#devices"))
            await pilot.press("d", "escape", "r", "escape")
            await pilot.resize_terminal(40, 10)
            await wait_for(pilot, lambda: len(rows(app)[0]) < 5)
            assert rows(app)[0][0] == "one"
            await pilot.press("q")
        assert app.return_code == 0

    asyncio.run(scenario())


def test_a_daemon_that_is_replaced_is_found_again(start_node, identity) -> None:
    node = start_node({"one": identity})

    async def scenario() -> None:
        app = Top(node.state_dir)
        async with app.run_test(size=(100, 24)) as pilot:
            await wait_for(pilot, lambda: "serving" in shown(app, "#node"))
            node.kill_daemon()
            await wait_for(pilot, lambda: "looking again" in shown(app, "#node"))
            node.start(ready=False)
            await wait_for(pilot, lambda: "serving" in shown(app, "#node"))

    asyncio.run(scenario())
    node.wait_status(lambda status: status.state == "SERVING")
