"""`python -m gslice.fetch`: fetches one file into the cache, for a daemon: see `ipc.fetching`."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from typing import TYPE_CHECKING, TextIO

from gslice.core.errors import GsliceError, Internal
from gslice.core.sources import Source, redacted
from gslice.fetch.download import Download
from gslice.fetch.remote import needed, open_remote
from gslice.ipc.codec import from_json, to_json
from gslice.ipc.fetching import Fetched, FetchNews, FetchOrder

if TYPE_CHECKING:
    from collections.abc import Callable

_NICENESS = 10


def main() -> int:
    """Carries one order out. Returns the exit code, which says only whether it was answered."""
    logging.basicConfig(level=logging.ERROR)
    answer = sys.stdout
    sys.stdout = sys.stderr  # libraries print
    os.nice(_NICENESS)
    order = from_json(FetchOrder, json.loads(sys.stdin.readline()))
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def tell(news: FetchNews | Fetched) -> None:
        _tell(answer, news)

    tell(fetch(order, tell))
    return 0


def fetch(order: FetchOrder, tell: Callable[[FetchNews], None]) -> Fetched:
    """Carries an order out; what goes wrong is in the answer."""
    source = Source(order.url)
    try:
        with needed(source.scheme):  # some import what they need when it is first used
            return Download(order, source, open_remote(source), tell).run()
    except GsliceError as error:
        return Fetched(code=error.code, message=redacted(error.message), hint=error.hint)
    except OSError as error:
        text = f"{error.filename or order.directory}: {error.strerror or error}"
        return Fetched(code=Internal.code, message=redacted(text))


def _tell(answer: TextIO, news: FetchNews | Fetched) -> None:
    kind = "done" if isinstance(news, Fetched) else "news"
    print(json.dumps({kind: to_json(news)}), file=answer, flush=True)


def _end_with_parent() -> None:
    """The daemon says nothing more: its end of the pipe closes with it."""
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    # No waiting for threads of libraries.
    code = main()
    sys.stderr.flush()
    os._exit(code)
