"""Records a node for the README: two models, a load step, a resize, as `/ui` and `top` show it.

python -m scripts.record_demo docs/images

Everything in the pictures is of one run and of the commands that stand in them; nothing is drawn
in. Writes `resize.webp`, which moves, `top.png`, `ui-overview.png` and `ui-resize.png`.
Needs chromium, tmux and gslice[dev].
"""

from __future__ import annotations

import argparse
import asyncio
import html
import io
import shutil
import sys
import tempfile
import textwrap
import time
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.async_api import Browser, Page, async_playwright
from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from benchmarks.common import commit, machine
from gslice.demo import assets
from gslice.demo.node import FREE_PORT, ServedNode
from tests.ui.pages import how_to_launch

FUNCTIONS = {
    "detector": ("45%", "600ms", ("x", np.zeros((1, 3, 128, 128), np.float32))),
    "filetype": ("25%", "600ms", ("bytes", np.zeros((1, 2048), np.int32))),
}
LOAD_S, STEP_AT_S, RESIZE_AT_S, STILLS_AFTER_S = 110, 35, 70, 3
TO_DETECTOR = "gslice bench detector --shape x=1,3,128,128"
LOAD = (
    f"gslice bench filetype --rate 8 --duration {LOAD_S}s",
    f"{TO_DETECTOR} --rate 10 --duration {LOAD_S}s",
)
STEP = f"{TO_DETECTOR} --rate 20 --duration {LOAD_S - STEP_AT_S}s"
RESIZE = "gslice resize detector 70% --wait"

WIDTH, PAGE_HEIGHT = 980, 778
TERMINAL_LINES, TERMINAL_COLUMNS = 10, 120
SLOW_S, FAST_S = 2.0, 0.25  # between frames: as a rule, and while a resize is on its way
SHOWN_MS = {SLOW_S: 160, FAST_S: 250}
LAST_MS = 5000
TOP_LINES, TOP_WITHIN_S = 20, 30.0
WIDE, PAGE_WITHIN_MS = (1280, 800), 2500

THEME = TerminalTheme(
    (21, 23, 26),
    (215, 213, 207),
    [(43, 47, 52), (240, 138, 128), (113, 198, 154), (224, 177, 92), (130, 183, 234),
     (196, 160, 230), (110, 200, 205), (215, 213, 207)],
    [(120, 124, 130), (250, 160, 150), (140, 220, 175), (240, 200, 120), (160, 205, 245),
     (215, 185, 245), (140, 220, 225), (255, 255, 255)],
)  # fmt: skip
TERMINAL = """<style>
  body {{ margin: 0; background: #15171a; color: #d7d5cf; }}
  pre {{ margin: 0; padding: 12px 20px; font: 13px/19px "DejaVu Sans Mono", monospace; }}
  b {{ color: #fff; }} i {{ color: #71c69a; font-style: normal; }}
</style><pre>{}</pre>"""


@dataclass
class Terminal:
    """What was typed, and what came back, in the order in which it came.

    Attributes:
        directory: Where commands run: the node's, so that they find it.
        lines: As HTML.
    """

    directory: Path
    lines: list[str] = field(default_factory=list)

    async def run(self, command: str, remark: str = "") -> None:
        """Runs a command to its end; what it prints appears line by line.

        Raises:
            RuntimeError: it failed.
        """
        self.lines.append(f"<i>$</i> <b>{html.escape(command)}</b>{remark}")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", *command.split()),
            cwd=self.directory,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        assert process.stdout is not None
        async for line in process.stdout:
            folded = textwrap.wrap(line.decode().rstrip(), TERMINAL_COLUMNS, drop_whitespace=False)
            self.lines += map(html.escape, folded or [""])
        if await process.wait():
            raise RuntimeError(f"{command}: {self.lines[-1]}")


@dataclass
class Camera:
    """Takes pictures of a page of gslice with a terminal below it.

    Attributes:
        page: Shows gslice.
        below: Shows the terminal.
        terminal: What it shows.
        every_s: From frame to frame.
        frames: Taken so far, each with how long it is to be shown.
    """

    page: Page
    below: Page
    terminal: Terminal
    every_s: float = SLOW_S
    frames: list[tuple[Image.Image, int]] = field(default_factory=list)

    async def roll(self) -> None:
        """Takes frames until it is cancelled."""
        while True:
            began = time.monotonic()
            await self.shoot()
            await asyncio.sleep(max(0.0, self.every_s - (time.monotonic() - began)))

    async def shoot(self) -> None:
        """Takes one."""
        await self.below.set_content(
            TERMINAL.format("\n".join(self.terminal.lines[-TERMINAL_LINES:]))
        )
        upper, lower = [await _picture(each) for each in (self.page, self.below)]
        whole = Image.new("RGB", (WIDTH, upper.height + lower.height))
        whole.paste(upper, (0, 0))
        whole.paste(lower, (0, upper.height))
        self.frames.append((whole, SHOWN_MS[self.every_s]))

    def write(self, path: Path) -> None:
        """Writes what moves."""
        pictures, shown_ms = zip(*self.frames, strict=True)
        pictures[0].save(
            path, save_all=True, append_images=pictures[1:], duration=[*shown_ms[:-1], LAST_MS],
            loop=0, lossless=True, quality=100, method=4,
        )  # fmt: skip


async def _picture(page: Page) -> Image.Image:
    return Image.open(io.BytesIO(await page.screenshot())).convert("RGB")


async def record(out: Path) -> None:
    """Serves, loads, resizes, and writes the pictures."""
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gs")))
        functions = {name: _function(name, directory) for name in FUNCTIONS}
        node = ServedNode(directory, functions, node={"http": FREE_PORT})
        await stack.enter_async_context(node)
        driver = await stack.enter_async_context(async_playwright())
        browser = await driver.chromium.launch(**(how_to_launch() or {}))
        page = await browser.new_page(viewport={"width": WIDTH, "height": PAGE_HEIGHT})
        await page.goto(f"http://{(await node.refresh()).http_address}/ui/#/f/detector")
        await page.locator(".charts").wait_for()
        height = TERMINAL_LINES * 19 + 24
        below = await browser.new_page(viewport={"width": WIDTH, "height": height})
        camera = Camera(page, below, Terminal(directory))
        await _story(camera, browser, out)
        status = await node.refresh()
        await browser.close()
        camera.write(out / "resize.webp")
    for function in status.functions:
        print(f"{function.name}: {function.ok} answered, {function.failed} failed")
    print(f"`python -m scripts.record_demo docs/images` on {machine()['cpu']}, {commit()}")


def _function(name: str, directory: Path) -> dict[str, Any]:
    """`functions.<name>` of node.yaml; its files are put beside that."""
    shutil.copy(getattr(assets.find(), name), directory / f"{name}.onnx")
    share, p99, (tensor, zeros) = FUNCTIONS[name]
    np.savez(directory / f"{name}.npz", **{tensor: zeros})  # type: ignore[arg-type]
    body = {"model": f"./{name}.onnx", "share": share, "slo": {"p99": p99}}
    # A shadow is warm for what comes; what else this machine does is not what is shown here.
    return {**body, "warmup": f"./{name}.npz", "priority": "high"}


async def _story(camera: Camera, browser: Browser, out: Path) -> None:
    """The load, a step of it, the resize, and how the load ended."""
    terminal = camera.terminal
    rolling = asyncio.ensure_future(camera.roll())
    loads = [asyncio.ensure_future(terminal.run(command, " &amp;")) for command in LOAD]
    await asyncio.sleep(STEP_AT_S)
    loads.append(asyncio.ensure_future(terminal.run(STEP, " &amp;   # more comes")))
    await asyncio.sleep(RESIZE_AT_S - STEP_AT_S)
    camera.every_s = FAST_S
    await terminal.run(RESIZE)
    camera.every_s = SLOW_S
    await asyncio.sleep(STILLS_AFTER_S)
    below = await browser.new_page(viewport=camera.below.viewport_size)
    await asyncio.gather(
        _show_page(browser, camera.page.url, out),
        _show_top(terminal.directory, below, out / "top.png"),
    )
    await asyncio.gather(*loads)
    rolling.cancel()
    with suppress(asyncio.CancelledError):
        await rolling
    await camera.shoot()


async def _show_page(browser: Browser, address: str, out: Path) -> None:
    """One function, and the overview, as a wide window has them."""
    page = await browser.new_page(viewport={"width": WIDE[0], "height": WIDE[1]})
    for shown, name in ((address, "ui-resize"), (address.partition("#")[0], "ui-overview")):
        await page.goto(shown)
        await page.locator(".devices .segment").first.wait_for()
        await page.wait_for_timeout(PAGE_WITHIN_MS)
        await page.screenshot(path=out / f"{name}.png")


async def _show_top(directory: Path, page: Page, path: Path) -> None:
    """`gslice top` as a terminal has it on its screen."""
    tmux = ("tmux", "-L", directory.name, "-f", "/dev/null")
    size = ("-x", str(TERMINAL_COLUMNS), "-y", str(TOP_LINES))
    await _output(
        *tmux, "new-session", "-d", *size, "-c", str(directory), f"{sys.executable} -m gslice top"
    )
    try:
        screen = ""
        async with asyncio.timeout(TOP_WITHIN_S):
            while "RATE/S" not in screen:
                await asyncio.sleep(SLOW_S)
                screen = await _output(*tmux, "capture-pane", "-e", "-p")
    finally:
        await _output(*tmux, "kill-server")
    console = Console(record=True, file=io.StringIO(), width=TERMINAL_COLUMNS)
    console.print(Text.from_ansi(screen.rstrip("\n")), soft_wrap=True)
    code = console.export_html(theme=THEME, inline_styles=True, code_format="{code}")
    await page.set_content(TERMINAL.format(code.rstrip()))
    await page.locator("pre").screenshot(path=path)


async def _output(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    return output.decode()


def main() -> None:
    """Reads where to, and records."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="directory of the pictures")
    asyncio.run(record(parser.parse_args().out.absolute()))


if __name__ == "__main__":
    main()
