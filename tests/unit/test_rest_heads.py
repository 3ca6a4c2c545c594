"""Connections to the REST front-end on which no request comes."""

from __future__ import annotations

import asyncio

from aiohttp import web

from gslice.frontend.rest.heads import Heads

HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n"


def test_a_connection_without_a_request_ends_and_others_stay() -> None:
    async def main() -> None:
        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            assert isinstance(heads, Heads)
            heads.came(request)  # type: ignore[arg-type]
            return web.Response(text="yes")

        loop = asyncio.get_running_loop()
        server = web.Server(answer)
        heads = Heads(server, first_s=0.2)
        listening = await loop.create_server(heads, "127.0.0.1", 0)
        place = listening.sockets[0].getsockname()
        used_reads, used = await asyncio.open_connection(*place)
        used.write(HEAD + b"\r\n")
        assert b"200 OK" in await used_reads.readuntil(b"yes")
        for begun in (b"", HEAD):
            reads, writes = await asyncio.open_connection(*place)
            writes.write(begun)
            async with asyncio.timeout(20):
                assert await reads.read() == b""
            writes.close()
        used.write(HEAD + b"\r\n")  # an older connection than those
        assert b"200 OK" in await used_reads.readuntil(b"yes")
        used.close()
        heads.close()
        listening.close()
        await server.shutdown(1)
        assert not heads._awaited

    asyncio.run(main())
