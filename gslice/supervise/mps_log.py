"""What an MPS server says, in whichever file it says it.

A control daemon in the foreground prints its own lines and its server's; one in the background has
a file for each. Drivers differ in what they do besides, so both places are looked at.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gslice.supervise.logs import opened_log, rotate

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_NEWS_MAX_BYTES = 256 << 10
# `[2026-01-31 12:00:00.000 Other  337] Startup`; a server is `Other` until it has started.
_SERVER = re.compile(r"\[[^\]]*\b(?:Server|Other)\s+\d+\]")


@dataclass(frozen=True)
class News:
    """What a server said lately.

    Attributes:
        lines: Whole ones, in order.
        ends_bytes: How far each file was read for them.
    """

    lines: list[str]
    ends_bytes: Mapping[Path, int]


class ServerLog:
    """The lines of a server since they were read last.

    Args:
        files: Where it may say them, besides others.

    Attributes:
        heard: It has said something, so that its silence means something.
    """

    def __init__(self, *files: Path) -> None:
        self.heard = False
        self._files = files
        self._read_bytes = dict.fromkeys(files, 0)

    def news(self) -> News:
        """What `read` has not been told of."""
        lines: list[str] = []
        ends_bytes = {file: self._news_of(file, lines) for file in self._files}
        self.heard = self.heard or bool(lines)
        return News(lines, ends_bytes)

    def read(self, news: News) -> None:
        """These are known from now on; what came after them is not."""
        for file, end in news.ends_bytes.items():
            self._read_bytes[file] = max(self._read_bytes[file], end)

    def bound(self) -> None:
        """Keeps the files from growing without an end.

        Raises:
            OSError: one could not be moved away.
        """
        for file in self._files:
            rotate(file)

    def _news_of(self, path: Path, lines: list[str]) -> int:
        try:
            with opened_log(path) as file:
                size = file.seek(0, os.SEEK_END)
                if size < self._read_bytes[path]:  # it was cut
                    self._read_bytes[path] = 0
                start = file.seek(max(self._read_bytes[path], size - _NEWS_MAX_BYTES))
                news = file.read(size - start)
        except OSError:  # it is not there, or no file of a log
            return 0
        whole = news[: news.rfind(b"\n") + 1]
        lines += filter(_SERVER.match, whole.decode(errors="replace").splitlines())
        return start + len(whole)
