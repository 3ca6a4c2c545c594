"""Repositories at a URL: an outline of each is fetched, in which models are empty files.

What reads a repository asks of a model's file only whether it is there. Functions name the file by
its URL, so that it is fetched, pinned and kept like any other: see docs/models.md.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from gslice.core.errors import GsliceError, Internal, InvalidArgument, Unavailable, from_code
from gslice.core.sources import Source, is_remote, redacted
from gslice.triton.repository import CONFIG_NAME, Root

if TYPE_CHECKING:
    from collections.abc import Callable

_LISTED = ("s3", "gs", "hf")
_COMMAND = (sys.executable, "-P", "-m", "gslice.fetch.outline")
_TIMEOUT_S = 300


def opened(place: str, outlines: Path, stale: Callable[[str], None]) -> Root:
    """A repository, of whose models it can be seen which there are.

    Args:
        place: A directory, or a URL.
        outlines: Where those of URLs are kept.
        stale: Told why one could not be looked at, if there is one of an earlier time.

    Raises:
        InvalidArgument: it is a URL of a kind that cannot be listed.
        GsliceError: it cannot be looked at.
    """
    if not is_remote(place):
        return Root(Path(place))
    url = _checked(place)
    kept = outlines.absolute() / Source(url).key
    outlines.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        _fetch(url, kept)
    except GsliceError as error:
        if not error.retriable or not kept.is_dir():
            raise
        seen = time.strftime("%Y-%m-%d %H:%M", time.localtime(kept.stat().st_mtime))
        stale(f"{error.message}; its models are those of {seen}")
    return Root(kept, url)


def _checked(place: str) -> str:
    url = place.rstrip("/")
    source = Source.parse(f"{url}/{CONFIG_NAME}" if "#" not in url else url)
    shown = redacted(url)
    if source.digest:
        raise InvalidArgument(
            f"{shown}: a pin is of one file",
            hint="`gslice import triton` writes a URL for each model, which can have one",
        )
    if source.scheme not in _LISTED:
        raise InvalidArgument(
            f"{shown}: nobody there tells which models there are",
            hint=f"repositories can be at {', '.join(f'{each}://' for each in _LISTED)}",
        )
    return url


def _fetch(url: str, kept: Path) -> None:
    """Puts an outline in the place of the one that was there.

    Raises:
        GsliceError: there is none to be had.
    """
    part = Path(tempfile.mkdtemp(dir=kept.parent, prefix=f".{kept.name}."))
    try:
        order = json.dumps({"url": url, "directory": str(part)})
        try:
            done = subprocess.run(
                _COMMAND, input=order, capture_output=True, text=True, timeout=_TIMEOUT_S
            )
        except subprocess.TimeoutExpired:
            raise Unavailable(f"{redacted(url)} was not listed in {_TIMEOUT_S} s") from None
        try:
            told = json.loads(done.stdout)
        except ValueError:
            text = redacted(done.stderr.strip().rpartition("\n")[2])
            raise Internal(f"{redacted(url)}: the process that lists it broke: {text}") from None
        if told["code"]:
            error = from_code(told["code"], told["message"])
            error.hint = told["hint"]
            raise error
        os.utime(part)
        shutil.rmtree(kept, ignore_errors=True)
        part.rename(kept)
    finally:
        shutil.rmtree(part, ignore_errors=True)
