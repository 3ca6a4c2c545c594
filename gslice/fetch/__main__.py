"""`python -m gslice.fetch`: fetches one file into the cache, for a daemon: see `ipc.fetching`."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import threading
from typing import TYPE_CHECKING

from gslice.core.errors import GsliceError, Internal
from gslice.core.sources import Source, redacted
from gslice.fetch.download import Download
from gslice.fetch.remote import needed, open_remote
from gslice.ipc.codec import from_json, to_json
from gslice.ipc.fetching import Fetched, FetchNews, FetchOrder
from gslice.ipc.messages import LISTEN_FD

if TYPE_CHECKING:
    from collections.abc import Callable

_NICENESS = 10


def main() -> int:
    """Carries one order out. Returns the exit code, which says only whether it was answered."""
    logging.basicConfig(level=logging.ERROR)
    os.nice(_NICENESS)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    with socket.socket(fileno=LISTEN_FD) as daemon, daemon.makefile("rw") as lines:
        order = from_json(FetchOrder, json.loads(lines.readline()))
        threading.Thread(target=_end_with_daemon, args=(daemon,), daemon=True).start()

        def tell(news: FetchNews | Fetched) -> None:
            kind = "done" if isinstance(news, Fetched) else "news"
            print(json.dumps({kind: to_json(news)}), file=lines, flush=True)

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


def _end_with_daemon(daemon: socket.socket) -> None:
    """It says nothing more: its end closes with it."""
    daemon.recv(1)
    os._exit(1)


if __name__ == "__main__":
    # No waiting for threads of libraries.
    code = main()
    sys.stderr.flush()
    os._exit(code)
