"""What befalls a node again and again: short in tests/process, long in tests/soak."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter

import grpc
import grpc.aio
import numpy as np

from gslice.client import aio, calls
from gslice.core.errors import Unavailable
from tests.node import WAIT_S, Node, kill_and_wait

CANCEL_AFTER_S = 0.006  # at most: some are cancelled before they are sent, some once answered
_PACE_S = 0.01
_CHANNELS = 4


def kill_frontend(node: Node, function: str) -> float:
    """kill -9 of the front-end; the seconds until its port answers a request again."""
    (pid,) = node.frontend_pids()
    kill_and_wait(pid)
    began_s = time.monotonic()
    asyncio.run(_answer(node.grpc_address, function, began_s + WAIT_S))
    took_s = time.monotonic() - began_s
    node.wait_status(lambda s: [f.state for f in s.frontends if f.pid != pid] == ["SERVING"])
    return took_s


def replace_daemon(node: Node) -> float:
    """kill -9 of the daemon, and a start of another; the seconds until that serves.

    All workers and front-ends must be those of before.
    """
    before = node.wait_status(lambda s: s.state == "SERVING")
    node.kill_daemon()
    began_s = time.monotonic()
    node.start()
    took_s = time.monotonic() - began_s
    after = node.status()
    assert after.pid != before.pid
    assert [p.pid for p in after.frontends] == [p.pid for p in before.frontends]
    pids = [
        {f.name: sorted(w.pid for w in f.workers) for f in s.functions} for s in (before, after)
    ]
    assert pids[0] == pids[1]
    return took_s


def cancel_calls(
    address: str, functions: list[str], count: int, rate_per_s: float, seed: int
) -> Counter[str]:
    """Begins calls at a rate over a few channels and cancels each a moment later.

    Returns:
        How many ended how: `cancelled`, `ok`, or the name of a status that is neither.
    """
    return asyncio.run(_cancel_calls(address, functions, count, rate_per_s, random.Random(seed)))


async def _answer(address: str, function: str, until_s: float) -> None:
    x = {"x": np.array([[1]], np.int64)}
    while True:
        # A connection of its own each time: gRPC waits longer and longer before it tries one again.
        async with aio.Client(address, WAIT_S) as client:
            try:
                await client.infer(function, x)
                return
            except Unavailable:
                assert time.monotonic() < until_s, "the port does not answer any more"
                await asyncio.sleep(_PACE_S)


async def _cancel_calls(
    address: str, functions: list[str], count: int, rate_per_s: float, chance: random.Random
) -> Counter[str]:
    method = f"/{calls.SERVICE}/ModelInfer"
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(address, options=options) for _ in range(_CHANNELS)]
    begin = [channel.unary_unary(method) for channel in channels]
    x = {"x": np.array([[1]], np.int64)}
    requests = [
        calls.infer(name, x, None, "", None).request.SerializeToString() for name in functions
    ]
    outcomes: Counter[str] = Counter()
    loop = asyncio.get_running_loop()
    open_calls: set[asyncio.Task[None]] = set()
    began_s = loop.time()

    async def one() -> None:
        call = chance.choice(begin)(chance.choice(requests))
        loop.call_later(chance.uniform(0, CANCEL_AFTER_S), call.cancel)
        outcomes[await _outcome(call)] += 1

    for number in range(count):
        task = asyncio.create_task(one())
        open_calls.add(task)
        task.add_done_callback(open_calls.discard)
        ahead_s = began_s + number / rate_per_s - loop.time()
        if ahead_s > 0:
            await asyncio.sleep(ahead_s)
    await asyncio.gather(*open_calls)
    await asyncio.gather(*(channel.close() for channel in channels))
    return outcomes


async def _outcome(call: grpc.aio.UnaryUnaryCall) -> str:
    try:
        await call
    except asyncio.CancelledError:
        return "cancelled"
    except grpc.RpcError as error:
        return str(error.code().name)
    return "ok"
