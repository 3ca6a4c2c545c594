"""Chromium, and a node that it looks at: one of each for all tests of a module."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import models
from tests.fakes.gpu import FakeGpu
from tests.node import ANY_PORT, Node
from tests.process.gpu import MPS, meet, on_gpu
from tests.ui.pages import how_to_launch, opened


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium of this machine, driven by Playwright."""
    playwright = pytest.importorskip("playwright.sync_api")
    how = how_to_launch()
    if how is None:
        pytest.skip("no Chromium is here: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        launched = driver.chromium.launch(**how)
        yield launched
        launched.close()


@dataclass
class Site:
    """A node with a page.

    Attributes:
        node: It serves `colours` (a picture's mean colour) and `words` on the CPU device, `wave`
            on a GPU of stand-ins, and `broken`, which cannot be loaded.
        marker: While that file is there, a worker of `wave` that is set up waits at the gate.
        gate: The FIFO.
    """

    node: Node
    marker: Path
    gate: Path

    @property
    def url(self) -> str:
        return f"http://{self.node.status().http_address}/ui/"


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """One that serves while the module's tests run; nothing of it is left afterwards."""
    with (
        tempfile.TemporaryDirectory(prefix="gs") as directory,
        FakeGpu() as fake,
        pytest.MonkeyPatch.context() as patch,
    ):
        meet(fake, patch)
        home = Path(directory)
        marker, gate = home / "slow", home / "gate"
        os.mkfifo(gate)
        args = {"gate": str(gate), "marker": str(marker)}
        functions = {
            "colours": {
                "model": str(models.mean_colour(home)),
                "share": "30%",
                "slo": {"p99": "2s"},
                "device": "cpu",
            },
            "words": {"model": str(models.strings(home)), "share": "40%", "device": "cpu"},
            "wave": on_gpu("SlowSetup", args=args, share="25%"),
            "broken": {"model": "/nowhere.onnx", "share": "1%", "device": "cpu"},
        }
        node = Node(home, functions, node={"http": ANY_PORT}, devices={"cpu": {}, **MPS})
        try:
            yield Site(node.start(), marker, gate)
            node.stop()
        finally:
            node.destroy()


@pytest.fixture
def page(browser: Any, site: Site) -> Iterator[Any]:
    """A page that is open; whatever it complains of fails the test."""
    with opened(browser, site.url) as page:
        yield page
