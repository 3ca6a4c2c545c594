"""Answers a POST with the body it got: `python http_echo.py PORT [--wrong | --die | --once]`."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
            body = await reader.readexactly(length)
            if "--wrong" in sys.argv:
                body = bytes(length)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % length)
            writer.write(body)
            await writer.drain()
            if "--once" in sys.argv:
                sys.exit("it answers once")
    writer.close()


async def main() -> None:
    server = await asyncio.start_server(answer, "127.0.0.1", int(sys.argv[1]), limit=1 << 20)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    if "--die" in sys.argv:
        print("it cannot live", file=sys.stderr)
        sys.exit(3)
    asyncio.run(main())
