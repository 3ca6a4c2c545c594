"""The demo from start to end: serve, read a page, load, report, leave nothing behind."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from gslice.client import Client
from gslice.client.aio import Client as AsyncClient
from gslice.core.errors import Internal
from gslice.demo import picture, report
from gslice.demo.assets import Assets
from gslice.demo.filetype import FILETYPE, FileType, FileTypeReader
from gslice.demo.load import Measured, Recorder, drive
from gslice.demo.node import ServedNode
from gslice.demo.ocr import DETECTOR, RECOGNIZER, Line, PageReader

PICTURE = "gslice-demo.png"
_T = TypeVar("_T")

CONCURRENCY = {DETECTOR: 2, RECOGNIZER: 4, FILETYPE: 8}


@dataclass(frozen=True)
class Options:
    """What the user chose.

    Attributes:
        out: Directory for the picture.
        seconds: How long the load lasts.
        keep: Keep the node's directory: node.yaml, state and logs.
    """

    out: Path
    seconds: float
    keep: bool


@dataclass(frozen=True)
class Answers:
    """What the pipeline read, and what it sent for that.

    Attributes:
        page: BGR pixels.
        lines: Of the page.
        files: What the demo's own files are.
        sent: Inputs by function.
    """

    page: NDArray[np.uint8]
    lines: list[Line]
    files: list[FileType]
    sent: dict[str, list[Mapping[str, NDArray[Any]]]]


def run(assets: Assets, options: Options, console: Console) -> dict[str, Any]:
    """Runs the demo.

    Args:
        assets: Models and page.
        options: What the user chose.
        console: Where people look.

    Returns:
        Everything it found out, in JSON's types.

    Raises:
        GsliceError: something failed, or something was left behind.
        KeyboardInterrupt: it was interrupted, and has stopped in order.
    """
    options.out.mkdir(parents=True, exist_ok=True)
    with _directory(options.keep, console) as directory:
        node = ServedNode(directory, _functions(assets))
        try:
            found = asyncio.run(_interruptible(_demo(node, assets, options, console)))
        finally:
            if node.started:
                left = ", ".join(node.leftovers) or "no process, socket, cgroup or segment"
                console.print(f"left behind: {left}", soft_wrap=True)
    if node.leftovers:
        raise Internal(f"the node left something behind: {', '.join(node.leftovers)}")
    return found


async def _demo(
    node: ServedNode, assets: Assets, options: Options, console: Console
) -> dict[str, Any]:
    async with AsyncExitStack() as stack:
        console.print("starting a daemon, a front-end and three workers")
        with console.status("loading the models"):
            await stack.enter_async_context(node)
        console.print(f"serving {', '.join(CONCURRENCY)} on {node.grpc_address}\n")

        with console.status("reading the page"):
            answers = await asyncio.to_thread(_read, node.grpc_address, assets, node.config)
        report.show_lines(console, answers.lines, answers.files)

        console.print()
        measured = await _load(node.grpc_address, answers, options.seconds, console)
        figures = report.function_figures(measured, (await node.refresh()).functions)
        report.show_figures(console, figures)

        path = options.out / PICTURE
        await asyncio.to_thread(_write_picture, path, answers, figures)
        console.print(f"\nannotated page: [bold]{path}[/bold]", soft_wrap=True)
    return report.as_json(answers.lines, answers.files, figures, str(path))


def _read(address: str, assets: Assets, config: Path) -> Answers:
    """Runs the pipeline once; every inference goes over gRPC."""
    page = np.ascontiguousarray(np.asarray(Image.open(assets.page).convert("RGB"))[:, :, ::-1])
    with Client(address) as client:
        infer = Recorder(client.infer)
        lines = PageReader(infer, assets.recognizer).read(page)
        files = FileTypeReader(infer).read([assets.page, assets.detector, config, Path(__file__)])
    return Answers(page, lines, files, infer.sent)


async def _load(
    address: str, answers: Answers, seconds: float, console: Console
) -> dict[str, Measured]:
    progress = Progress(
        TextColumn("load"),
        BarColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[rates]}"),
        console=console,
        transient=True,
    )
    task = progress.add_task("load", total=seconds, rates="")

    def show(measured: Mapping[str, Measured]) -> None:
        rates = "  ".join(f"{name} {m.rate_per_s:,.0f}/s" for name, m in measured.items())
        elapsed_s = max(m.elapsed_s for m in measured.values())
        progress.update(task, completed=min(elapsed_s, seconds), rates=rates)

    with progress:
        async with AsyncClient(address) as client:
            return await drive(client, answers.sent, CONCURRENCY, seconds, show)


def _write_picture(path: Path, answers: Answers, figures: list[report.FunctionFigures]) -> None:
    cores = len(os.sched_getaffinity(0))
    image = picture.draw(
        answers.page,
        answers.lines,
        title="gslice demo",
        subtitle=f"{len(answers.lines)} lines, read by two PP-OCR models, with a file-type model "
        f"beside them on the same {cores} cores",
        figures=picture.Figures(report.HEADS, tuple(row.cells for row in figures)),
    )
    picture.write(image, path)


def _functions(assets: Assets) -> dict[str, Any]:
    """`functions` of node.yaml: two pinned shares, and one that takes what is left."""
    return {
        DETECTOR: {"model": str(assets.detector), "share": "25%"},
        RECOGNIZER: {"model": str(assets.recognizer), "share": "50%", "batch": {"max": 4}},
        FILETYPE: {"model": str(assets.filetype), "share": "auto", "batch": {"max": 16}},
    }


@contextmanager
def _directory(keep: bool, console: Console) -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="gslice-demo-"))
    try:
        yield directory
    finally:
        if keep:
            console.print(f"kept node.yaml, state and logs: {directory}", soft_wrap=True)
        else:
            shutil.rmtree(directory)


async def _interruptible(work: Coroutine[Any, Any, _T]) -> _T:
    """Ends the work in order on SIGINT or SIGTERM; further ones change nothing, the end is near."""
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work)
    received: list[signal.Signals] = []

    def interrupt(number: signal.Signals) -> None:
        if not received:
            received.append(number)
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt, number)
    try:
        return await task
    except asyncio.CancelledError:
        if not received:
            raise
        raise KeyboardInterrupt from None
