"""The page in Chromium where callers are asked for a key."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gslice.core.access import Access, Key, Role, digest_of
from gslice.frontend.rest_server import RestServer
from gslice.frontend.settings import Limits
from tests.ui.control_daemon import ControlDaemon, status
from tests.ui.pages import WAIT_MS, opened

playwright = pytest.importorskip("playwright.sync_api")
expect = playwright.expect
expect.set_options(timeout=WAIT_MS)


class Keyed:
    """A front-end's HTTP server in a thread of the test's, which asks for keys."""

    daemon: ControlDaemon

    def __init__(self, control: Path) -> None:
        self.gate = SimpleNamespace()
        self.gate.access = Access(
            (
                Key("looker", digest_of("look"), (Role.VIEW,)),
                Key("owner", digest_of("own"), (Role.ADMIN,)),
                Key("caller", digest_of("call"), (Role.INFER,)),
            ),
            anonymous=(),
        )
        self._control = control
        self._loop = asyncio.new_event_loop()
        self._stopped = asyncio.Event()
        ready = threading.Event()
        self._thread = threading.Thread(
            target=self._loop.run_until_complete, args=[self._serve(ready.set)]
        )
        self._thread.start()
        assert ready.wait(WAIT_MS / 1000)

    async def _serve(self, ready: Callable[[], None]) -> None:
        readiness: Any = SimpleNamespace(draining=False)
        readiness.drain = lambda: setattr(readiness, "draining", True)
        server = RestServer(
            SimpleNamespace(gate=self.gate),  # type: ignore[arg-type]  # nothing is inferred here
            readiness,
            Limits(1 << 20, 30_000, 1 << 20),
            control=str(self._control),
        )
        self.url = f"http://{await server.start('127.0.0.1:0')}/ui/"
        ready()
        await self._stopped.wait()
        await server.drain(5)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()
        self._loop.close()


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    daemon = ControlDaemon(tmp_path_factory.mktemp("ui") / "control.sock").start()
    daemon.tell(node())
    server = Keyed(daemon.path)
    server.daemon = daemon
    yield server
    server.close()
    daemon.stop()


def node(problem: str = "") -> Any:
    told = status("detector")
    told.devices.add(
        name="cpu", kind="cpu", limiter="none", share_limit_percent=100, problem=problem
    )
    return told


def give(page: Any, key: str) -> None:
    expect(page.get_by_role("dialog")).to_be_visible()
    page.get_by_label("Key", exact=True).fill(key)
    page.keyboard.press("Enter")


def test_keys_let_look_or_change(browser, keyed) -> None:
    with opened(browser, keyed.url) as page:
        expect(page.locator("#key-trouble")).to_be_hidden()
        give(page, "made up")
        expect(page.locator("#key-trouble")).to_contain_text("the API key is not known here")
        give(page, "call")
        expect(page.locator("#key-trouble")).to_contain_text("has not the role view")
        give(page, "look")
        page.get_by_role("link", name="detector", exact=True).click()
        expect(page.locator("#share")).to_be_disabled()
        expect(page.locator(".preview")).to_contain_text("key 'looker' has not the role admin")
        expect(page.get_by_role("button", name="Unload")).to_be_hidden()
        page.reload()  # the tab keeps it
        expect(page.locator("#share")).to_be_disabled()
        page.get_by_role("button", name="Forget key").click()
        give(page, "own")
        expect(page.locator("#share")).to_be_enabled()
        page.locator("#share").fill("40")
        page.get_by_role("button", name="Resize to 40").click()
        expect(page.locator("[data-stage=done]")).to_be_visible()


def test_a_key_that_is_taken_back(browser, keyed) -> None:
    with opened(browser, keyed.url) as page:
        give(page, "own")
        expect(page.locator("tr[data-function=detector]")).to_be_visible()
        before = keyed.gate.access
        keyed.gate.access = Access(before.keys[:1], anonymous=())
        expect(page.locator("#key-trouble")).to_contain_text("the API key is not known here")
        keyed.gate.access = before


def test_a_page_that_stays_open_gets_over_what_it_meets(browser, keyed) -> None:
    with opened(browser, keyed.url) as page:
        give(page, "own")
        expect(page.locator("tr[data-function=detector]")).to_be_visible()
        problem = page.locator(".device .problem")
        keyed.daemon.tell(node("it fell off the bus"))
        expect(problem).to_have_text("it fell off the bus")
        keyed.daemon.tell(node())
        expect(problem).to_be_hidden()
        page.evaluate("location.hash = '#/f/100%'")
        expect(page.get_by_text("There is no such function now.")).to_be_visible()
        page.evaluate("location.hash = '#/'")
        page.route("**/api/session", lambda route: route.fulfill(body="<html>a proxy's</html>"))
        page.reload()
        expect(page.locator("#banner")).to_contain_text("Not connected")
        page.unroute("**/api/session")
        expect(page.locator("tr[data-function=detector]")).to_be_visible()


def test_scores_of_many_classes(browser, keyed) -> None:
    script = """async () => {
        const { showTensor } = await import('./answers.js');
        const [shape, numbers] = [[1, 300_000], new Float64Array(300_000).fill(-1)];
        numbers[7] = 3;
        return showTensor({ name: 'y', datatype: 'FP32', shape, numbers }).textContent;
    }"""
    with opened(browser, keyed.url) as page:
        give(page, "own")
        assert "from -1 to 3, mean " in page.evaluate(script)
