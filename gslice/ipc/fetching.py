"""What the daemon and the process that fetches a file tell each other: JSON, a line each.

Over a socket, which is descriptor 3 of the process: one `FetchOrder` goes in; `{"news": FetchNews}`
come out, and at last `{"done": Fetched}`. The process ends when the daemon's end closes.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FetchOrder:
    """What to fetch.

    Attributes:
        url: See `core.sources`, without a pin.
        digest: What its content must be; empty: whatever it is.
        pinned: The digest stands in the URL's pin, and was not found out by an earlier load.
        with_data: Files beside it in which it keeps weights come along.
        directory: Of the cache.
        max_bytes: Of the cache.
    """

    url: str
    digest: str
    pinned: bool
    with_data: bool
    directory: str
    max_bytes: int


@dataclass(frozen=True)
class FetchNews:
    """How far it is.

    Attributes:
        done_bytes: Of all files together.
        size_bytes: Likewise; 0: nobody knows.
        trouble: Why it tries again; empty: it goes on.
    """

    done_bytes: int = 0
    size_bytes: int = 0
    trouble: str = ""


@dataclass(frozen=True)
class Fetched:
    """What came of it.

    Attributes:
        digest: Of the entry in the cache.
        was_there: Nothing had to be downloaded.
        code: Of the error; 0: there is none.
        message: Of the error.
        hint: Of the error.
    """

    digest: str = ""
    was_there: bool = False
    code: int = 0
    message: str = ""
    hint: str = ""
