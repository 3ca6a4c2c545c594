"""Asks a program whether it serves: one GET, of which the status alone counts."""

from __future__ import annotations

import asyncio
import functools
import ssl
import urllib.parse

_LINE_MAX_BYTES = 1 << 10


async def ailment(url: str, timeout_s: float) -> str:
    """Why a program does not serve; empty: its URL answers 2xx.

    Neither redirections nor proxies are followed: the program itself is asked.

    Args:
        url: http or https.
        timeout_s: For all of it.
    """
    try:
        async with asyncio.timeout(timeout_s):
            status = await _status(urllib.parse.urlsplit(url))
    except TimeoutError:
        return f"{url} does not answer within {timeout_s:g} s"
    except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        return f"{url} does not answer: {_words(error)}"
    return "" if 200 <= status < 300 else f"{url} answers {status}"


async def _status(url: urllib.parse.SplitResult) -> int:
    secure = url.scheme == "https"
    reader, writer = await asyncio.open_connection(
        url.hostname,
        url.port or (443 if secure else 80),
        ssl=_authorities() if secure else None,
        limit=_LINE_MAX_BYTES,
    )
    try:
        target = urllib.parse.urlunsplit(("", "", url.path or "/", url.query, ""))
        host = url.netloc.rpartition("@")[2]
        writer.write(
            f"GET {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: gslice\r\n"
            "Accept: */*\r\nConnection: close\r\n\r\n".encode("ascii")
        )
        line = await reader.readuntil(b"\n")
    finally:
        writer.close()
    version, _, rest = line.decode("latin-1").partition(" ")
    if not version.startswith("HTTP/") or not rest[:3].isdecimal():
        raise ValueError("that is not HTTP")
    return int(rest[:3])


@functools.cache
def _authorities() -> ssl.SSLContext:
    """Reading them takes longer than to ask."""
    return ssl.create_default_context()


def _words(error: Exception) -> str:
    if isinstance(error, asyncio.IncompleteReadError):
        return "it closed the connection"
    if isinstance(error, asyncio.LimitOverrunError):
        return "that is not HTTP"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
