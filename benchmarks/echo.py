"""The baseline: a bare grpc.aio server that answers with the bytes it got.

`python -m benchmarks.echo` prints its port and serves until its standard input closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import grpc
import grpc.aio
import uvloop

from benchmarks.child import child

UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
METHOD = "/benchmarks.Echo/Echo"


@contextlib.contextmanager
def echo_server(core: int) -> Iterator[str]:
    """Runs the echo server on one core; gives its address."""
    command = [sys.executable, "-m", "benchmarks.echo"]
    with child("the grpc.aio echo", command, core) as process:
        yield f"127.0.0.1:{int(process.read())}"


async def _echo(request: bytes, _context: Any) -> bytes:
    return request


async def _serve() -> None:
    server = grpc.aio.server(options=UNLIMITED)
    handler = grpc.unary_unary_rpc_method_handler(_echo)
    service = grpc.method_handlers_generic_handler("benchmarks.Echo", {"Echo": handler})
    server.add_generic_rpc_handlers((service,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.stop(0)


if __name__ == "__main__":
    uvloop.run(_serve())
