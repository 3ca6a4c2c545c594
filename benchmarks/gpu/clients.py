"""What a process under test does: `python -m benchmarks.gpu.clients ROLE ARGUMENTS`.

Answers are JSON objects, one a line. A role that waits goes on when a line arrives, or when its
standard input ends.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import mmap
import os
import socket
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks.gpu.driver import OUT_OF_MEMORY, CudaError, Gpu
from benchmarks.gpu.kernels import Burn, fault
from benchmarks.gpu.step import needed
from gslice._native import CudaDevice, WeightBlock
from gslice.core.errors import GsliceError

MIB = 1 << 20
_CURVE_POINT_S = 0.06
_LEAST_REPLAYS = 8


def tell(**answer: Any) -> None:
    """One answer."""
    print(json.dumps(answer), flush=True)


def wait() -> dict[str, Any]:
    """Until the other side says so, or has gone; what it says."""
    said: dict[str, Any] = json.loads(sys.stdin.readline() or "{}")
    return said


def limit(whole: int = 0) -> None:
    """How many multiprocessors there are, and how long fixed work takes on them."""
    begun = time.perf_counter()
    with Gpu() as gpu:
        context_ms = (time.perf_counter() - begun) * 1e3
        sms = gpu.multiprocessors()
        burn_us = Burn(gpu, whole or sms).time_us()
        tell(pid=os.getpid(), sms=sms, burn_us=burn_us, context_ms=round(context_ms, 1))
        wait()


def rate(seconds: float, waves: float) -> None:
    """How often a small kernel runs: `waves` below 1 leave multiprocessors free for others."""
    with Gpu() as gpu:
        burn = Burn(gpu, gpu.multiprocessors(), waves=waves)
        burn.time_us(3)
        tell(pid=os.getpid(), ready=True)
        wait()
        runs, end = 0, time.perf_counter() + seconds
        while time.perf_counter() < end:
            for _ in range(10):
                burn.launch()
            gpu.wait(burn.stream)
            runs += 10
        tell(runs_per_s=round(runs / seconds, 1))


def export() -> None:
    """Offers device memory that holds 0, 1, 2 and so on to another process."""
    with Gpu() as gpu:
        values = (ctypes.c_uint32 * (MIB // 4))(*range(MIB // 4))
        memory = gpu.allocate(MIB)
        gpu.upload(memory, ctypes.addressof(values), MIB)
        tell(handle=gpu.export(memory).hex())
        wait()


def imported(handle: str) -> None:
    """Reads what `export` offers."""
    with Gpu() as gpu:
        memory = gpu.open_export(bytes.fromhex(handle))
        host = (ctypes.c_uint32 * 4)()
        gpu.download(ctypes.addressof(host), memory + 4000, ctypes.sizeof(host))
        gpu.close_export(memory)
        tell(values=list(host), right=list(host) == [1000, 1001, 1002, 1003])


def weights(socket_fd: int, size_bytes: int) -> None:
    """Makes weights that others can map, as a worker does, and sends their descriptor."""
    device = CudaDevice(0, 1)
    block = WeightBlock.create(device, size_bytes)
    block.write(0, np.arange(size_bytes // 4, dtype=np.uint32).view(np.uint8))
    block.seal()
    with socket.socket(fileno=socket_fd) as sender:
        socket.send_fds(sender, [b"weights"], [block.fd])
    tell(size_bytes=block.size_bytes)
    wait()


def weights_mapped(fd: int, size_bytes: int, writes: bool = False) -> None:
    """Maps what `weights` has made; what that takes, what is there, and what a write does."""
    device = CudaDevice(0, 1)
    before_bytes = device.memory_free_bytes()
    try:
        block = WeightBlock.map(device, fd, size_bytes)
    except GsliceError as error:
        tell(refused=error.message)
        return
    answer: dict[str, Any] = {"taken_bytes": before_bytes - device.memory_free_bytes()}
    with Gpu() as gpu:
        host = (ctypes.c_uint32 * 4)()
        gpu.download(ctypes.addressof(host), block.pointer + 4000, ctypes.sizeof(host))
        answer["right"] = list(host) == [1000, 1001, 1002, 1003]
        if writes:
            try:
                gpu.upload(block.pointer, ctypes.addressof(host), ctypes.sizeof(host))
            except CudaError as error:
                answer["write"] = error.code
            else:
                answer["write"] = 0
        tell(**answer)


def memory(size_bytes: int) -> None:
    """Whether so much device memory can be had."""
    with Gpu() as gpu:
        try:
            gpu.free(gpu.allocate(size_bytes))
        except CudaError as error:
            tell(allocated=False, code=error.code, out_of_memory=error.code == OUT_OF_MEMORY)
        else:
            tell(allocated=True)


def pinned(fd: int, size_bytes: int, expect: int, write: int) -> None:
    """Registers a memory file that others have registered too, and copies through it."""
    with mmap.mmap(fd, size_bytes) as mapping, Gpu() as gpu:
        view = ctypes.c_char.from_buffer(mapping)
        base = ctypes.addressof(view)
        gpu.register(base, size_bytes)
        device, stream = gpu.allocate(size_bytes), gpu.stream()
        gpu.upload(device, base, size_bytes, stream)
        gpu.wait(stream)
        back = ctypes.create_string_buffer(size_bytes)
        gpu.download(ctypes.addressof(back), device, size_bytes)
        right = back.raw == bytes([expect]) * size_bytes
        ctypes.memset(back, write, size_bytes)
        gpu.upload(device, ctypes.addressof(back), size_bytes)
        gpu.download(base, device, size_bytes, stream)
        gpu.wait(stream)
        gpu.unregister(base)
        tell(right=right)
        del view


def faulty() -> None:
    """Faults when told to."""
    gpu = Gpu()
    tell(pid=os.getpid(), ready=True)
    wait()
    try:
        fault(gpu)
    except CudaError as error:
        tell(code=error.code, text=str(error))


def bystander() -> None:
    """Works until something goes wrong, which it tells."""
    gpu = Gpu()
    burn = Burn(gpu, gpu.multiprocessors(), turns=2_000)
    burn.time_us(3)
    tell(pid=os.getpid(), ready=True)
    end = time.monotonic() + 20
    try:
        while time.monotonic() < end:
            burn.launch()
            gpu.wait(burn.stream)
    except CudaError as error:
        tell(code=error.code, text=str(error), at=time.monotonic())
    else:
        tell(code=0, text="it noticed nothing")


def lanes(seconds: float) -> None:
    """What two lanes do to each other: see `benchmarks.gpu.lanes`."""
    from benchmarks.gpu.lanes import measure

    tell(**measure(seconds))


def curve(models: list[str], buckets: list[int]) -> None:
    """How long replays of models take at this client's share, by batch size."""
    torch = needed("torch")
    for module in ("torchvision", "transformers"):
        needed(module)  # before the GPU is touched: the next share's process does so meanwhile
    from benchmarks.gpu.graphs import capture
    from benchmarks.gpu.models import MODELS

    tell(pid=os.getpid(), ready=True)
    end = time.monotonic() + wait().get("seconds", 0.0)
    begun = time.perf_counter()
    gpu = Gpu()
    tell(sms=gpu.multiprocessors(), context_ms=round((time.perf_counter() - begun) * 1e3, 1))
    events = (gpu.event(timed=True), gpu.event(timed=True))
    stream = torch.cuda.Stream()
    for name in models:
        model = MODELS[name]
        module = model.make()
        for bucket in buckets:
            if time.monotonic() >= end:
                break
            try:
                graph = capture(partial(module, model.ones(bucket)), stream)
            except RuntimeError as error:  # one that cannot be captured, or does not fit
                tell(model=name, bucket=bucket, lacking=str(error).splitlines()[0])
                break
            latency_us = median_us(gpu, graph.executable, stream.cuda_stream, events)
            tell(model=name, bucket=bucket, latency_us=latency_us)
    tell(done=True)


def median_us(gpu: Gpu, executable: int, stream: int, events: tuple[int, int]) -> float:
    """The GPU's time of a graph, by events around each replay."""
    begin, end = events
    times: list[float] = []
    until = time.perf_counter() + _CURVE_POINT_S
    while len(times) < _LEAST_REPLAYS or time.perf_counter() < until:
        gpu.record(begin, stream)
        gpu.launch_graph(executable, stream)
        gpu.record(end, stream)
        gpu.wait(stream)
        times.append(gpu.elapsed_us(begin, end))
    return round(statistics.median(times[1:]), 1)


def caller(address: str, function: str, model: str) -> None:
    """Calls a served function as it is told: at a `rate_per_s`, or so many at a time."""
    import uvloop

    uvloop.run(_call(address, function, model))


async def _call(address: str, function: str, model: str) -> None:
    from benchmarks.gpu.models import IMAGE, MODELS
    from benchmarks.http2 import Connection, Request
    from benchmarks.load import INFER, closed_loop
    from benchmarks.wire import infer_request

    row = MODELS[model].row
    tensor = np.ones((1, *row), np.uint8 if row == IMAGE else np.int32)
    request = Request(address, INFER, infer_request(function, {"x": tensor}))
    async with await Connection.connect(address) as connection:
        await connection.call(request, keep=True)
        tell(ready=True)
        while seconds := (said := wait()).get("seconds"):
            if "rate_per_s" in said:
                tell(**await _in_time(connection, request, **said))
            else:
                load = await closed_loop(connection, request, said["concurrency"], seconds)
                tell(rps=round(load.rps, 1), p50_us=round(load.p50_us), p99_us=round(load.p99_us))


async def _in_time(
    connection: Any, request: Any, seconds: float, rate_per_s: float, slo_us: float, seed: int
) -> dict[str, float]:
    """What comes of an open loop: an answer counts that came within the SLO of when it was due."""
    from benchmarks.load import OpenLoop
    from gslice.client.load import percentile

    async with OpenLoop(connection, request, rate_per_s, seed) as loop:
        await asyncio.sleep(seconds)
    answered = [call for call in loop.calls if not call.lost and not call.error]
    latencies_us = sorted(1e6 * (call.answered_s - call.due_s) for call in answered)
    return {
        "sent": len(loop.calls),
        "answered": len(answered),
        "in_time": sum(us <= slo_us for us in latencies_us),
        "p99_us": round(percentile(latencies_us, 99)) if latencies_us else 0,
    }


ROLES: dict[str, Callable[..., None]] = {
    role.__name__: role
    for role in (
        *(limit, rate, export, imported, memory, pinned, faulty, bystander),
        *(curve, caller, lanes, weights, weights_mapped),
    )
}


def main() -> None:
    _, role, arguments = sys.argv
    ROLES[role](**json.loads(arguments))


if __name__ == "__main__":
    main()
