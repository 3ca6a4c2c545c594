"""Pages of a browser that are watched for what goes wrong in them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

WAIT_MS = 30_000
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-sync",
    "--no-first-run",
)
_ANSWERS = "Failed to load resource"  # of HTTP, which the page tells in its own words


def how_to_launch() -> dict[str, Any] | None:
    """What Playwright needs to know of this machine's Chromium; None: there is none."""
    found = next(filter(None, map(shutil.which, _BROWSERS)), None)
    return found and {"executable_path": found, "args": list(_ARGUMENTS)}


@contextmanager
def opened(browser: Any, url: str, **options: Any) -> Iterator[Any]:
    """A page in a context of its own; at its end nothing may have gone wrong in it.

    Args:
        browser: Playwright's.
        url: What it shows.
        options: Of the context, such as `viewport`.
    """
    context = browser.new_context(**options)
    context.set_default_timeout(WAIT_MS)
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: _note(wrong, said))
    page.goto(url)
    yield page
    context.close()
    assert wrong == []


def _note(wrong: list[str], said: Any) -> None:
    if said.type in ("error", "warning") and not said.text.startswith(_ANSWERS):
        wrong.append(said.text)
