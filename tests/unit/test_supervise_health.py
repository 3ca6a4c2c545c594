"""The health of a program: whatever listens there, the answer is one line."""

from __future__ import annotations

import asyncio

import pytest

from gslice.supervise.health import ailment


async def asked_of(answer: bytes, path: str = "/health?deep=1") -> tuple[str, bytes]:
    """What is told of a server that gives this answer, and what it was asked."""
    heard = b""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal heard
        heard = await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        told = await ailment(f"http://127.0.0.1:{port}{path}", 5.0)
    return told.replace(str(port), "PORT"), heard


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", ""),
        (b"HTTP/1.0 204 No Content\r\n\r\n", ""),
        (b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", "answers 302"),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "answers 503"),
        (b"", "does not answer: it closed the connection"),
        (b"SSH-2.0-OpenSSH\r\n", "does not answer: that is not HTTP"),
        (b"HTTP/1.1 fine\r\n", "does not answer: that is not HTTP"),
        (b"x" * 100_000 + b"\n", "does not answer: that is not HTTP"),
    ],
)
def test_only_2xx_is_well(answer: bytes, told: str) -> None:
    found, heard = asyncio.run(asked_of(answer))
    assert found == (told and f"http://127.0.0.1:PORT/health?deep=1 {told}")
    assert heard.startswith(b"GET /health?deep=1 HTTP/1.1\r\nHost: 127.0.0.1:")


def test_a_path_is_not_needed() -> None:
    _, heard = asyncio.run(asked_of(b"HTTP/1.1 200 OK\r\n\r\n", ""))
    assert heard.startswith(b"GET / HTTP/1.1\r\n")


def test_nobody_listens_or_nobody_speaks() -> None:
    async def scenario() -> tuple[str, str]:
        over = asyncio.Event()

        async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await over.wait()
            writer.close()

        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        mute = await ailment(url, 0.05)
        over.set()
        server.close()
        await server.wait_closed()
        return mute, await ailment(url, 5.0)

    mute, absent = asyncio.run(scenario())
    assert mute.endswith("does not answer within 0.05 s")
    assert "does not answer: " in absent
