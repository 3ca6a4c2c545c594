"""What the design rests on, asked of the GPU: `python -m benchmarks.gpu.questions NAME`.

Each question runs in a process of its own, because a limit is fixed when a process first uses the
GPU, and because a fault ends it. An answer says whether what the design assumes holds.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import socket
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.gpu.driver import COMPUTE_MAJOR, COMPUTE_MINOR, Gpu
from benchmarks.gpu.mps import Client, Mps
from benchmarks.gpu.step import Skipped, needed
from gslice.core.errors import GsliceError
from gslice.device.cuda import version_text
from gslice.device.inventory import read_inventory
from gslice.device.mps import find_control

MIB = 1 << 20
IMAGE_BYTES = 602_112  # 3 x 224 x 224 FP32
PERCENTS = (None, 75, 50, 25, 10, 5)
MPS_STEP_SMS = 2  # multiprocessors come in pairs
_BUSY_S = 1.0


@dataclass(frozen=True)
class Answer:
    """What was found.

    Attributes:
        holds: Whether what the design assumes is so; None: it is just a figure.
        text: The answer in a line.
        details: Everything that was read.
    """

    holds: bool | None
    text: str
    details: dict[str, Any] = field(default_factory=dict)


def device() -> Answer:
    """Which GPU and driver, and is MPS installed?"""
    with Gpu() as gpu:
        capability = f"{gpu.attribute(COMPUTE_MAJOR)}.{gpu.attribute(COMPUTE_MINOR)}"
        sms, version = gpu.multiprocessors(), gpu.version()
        text = f"{gpu.name()}, {sms} SMs, compute {capability}, CUDA {version_text(version)}"
    facts = {"sms": sms, "driver": version, "capability": capability}
    try:
        control = find_control(read_inventory().library)
    except GsliceError as error:
        return Answer(False, f"{text}; {error.message}", facts)
    return Answer(True, f"{text}; {control}", facts)


def limit() -> Answer:
    """Does a client get the SMs that it asked for, and does fixed work slow down accordingly?"""
    whole = _whole_multiprocessors()
    rows = []
    with Mps() as mps:
        for percent in PERCENTS:
            client = mps.client("limit", percent, whole=whole)
            found = client.read()
            attached = client.pid in mps.clients()
            client.close()
            rows.append({"percent": percent, "attached": attached, **found})
        logs = mps.log_tail()
    failed = [str(row["failed"]) for row in rows if "failed" in row]
    if failed:
        return Answer(False, failed[0], {"rows": rows, "logs": logs})
    free_us = rows[0]["burn_us"]
    for row in rows:
        row["slower"] = round(row["burn_us"] / free_us, 2)
    honoured = all(
        row["attached"]
        and abs(row["sms"] - _asked(whole, row["percent"])) <= MPS_STEP_SMS
        and 0.8 < row["slower"] * row["sms"] / whole < 1.25
        for row in rows
    )
    text = ", ".join(f"{r['percent'] or 'no'} %: {r['sms']} SMs x{r['slower']:g}" for r in rows)
    return Answer(honoured, text, {"rows": rows, "logs": logs})


def concurrency() -> Answer:
    """Do two processes share the GPU at the same moment under MPS, and take turns without it?"""
    work: dict[str, Any] = {"seconds": _BUSY_S, "waves": 0.5}  # half of the multiprocessors
    alone = _rates([Client("rate", {}, **work)])
    plain = _rates([Client("rate", {}, **work) for _ in range(2)])
    with Mps() as mps:
        shared = _rates([mps.client("rate", **work) for _ in range(2)])
        halves = _rates([mps.client("rate", 50, **work) for _ in range(2)])
    gain = sum(shared) / sum(plain)
    return Answer(
        gain > 1.4,
        f"two processes together: {gain:.2f} times the rate of time slicing",
        {"alone": alone, "time_slicing": plain, "mps": shared, "mps_50_50": halves},
    )


def memory_limit() -> Answer:
    """Is the limit on a client's device memory kept?"""
    limit = {"CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "0=1G"}
    with Mps() as mps:
        environment = mps.environment | limit
        within = Client("memory", environment, size_bytes=256 * MIB).finish()
        beyond = Client("memory", environment, size_bytes=2048 * MIB).finish()
    kept = within.get("allocated") is True and beyond.get("out_of_memory") is True
    return Answer(kept, f"256 MiB of 1 GiB: {within}; 2 GiB: {beyond}")


def ipc() -> Answer:
    """Can an MPS client read device memory of another one?"""
    with Mps() as mps:
        exporter = mps.client("export", 50)
        offered = exporter.read()
        if "failed" in offered:
            return Answer(False, str(offered["failed"]))
        found = mps.client("imported", 50, handle=offered["handle"]).finish()
        exporter.close()
    return Answer(found.get("right") is True, str(found.get("failed") or f"read {found['values']}"))


def shared_weights() -> Answer:
    """Can MPS clients share weights, when their maker is dead too, and what does a copy save?"""
    size, limit = 256 * MIB, {"CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "0=128M"}
    ours, theirs = socket.socketpair()
    with Mps() as mps, ours, theirs:
        there = theirs.fileno()
        maker = Client(
            *("weights", mps.environment), pass_fds=(there,), socket_fd=there, size_bytes=size
        )
        made = maker.read()
        if "failed" in made:
            return Answer(False, str(made["failed"]), {"logs": mps.log_tail()})
        _, (fd, *_), _, _ = socket.recv_fds(ours, 16, 1)

        def mapped(environment: Mapping[str, str], writes: bool = False) -> dict[str, Any]:
            return Client(
                *("weights_mapped", {**mps.environment, **environment}),
                pass_fds=(fd,),
                fd=fd,
                size_bytes=made["size_bytes"],
                writes=writes,
            ).finish()

        beside = mapped({})
        maker.kill()
        after, limited, written = mapped({}), mapped(limit), mapped({}, writes=True)
        os.close(fd)
        logs = mps.log_tail()
    right = beside.get("right") is True and after.get("right") is True
    saved = right and max(beside["taken_bytes"], after["taken_bytes"]) < size // 2
    read_only = written.get("write") not in (0, None)
    text = (
        f"beside their maker {'right' if beside.get('right') else beside}, after its death "
        f"{'right' if after.get('right') else after}; mapping 256 MiB under a limit of 128 MiB: "
        f"{'refused' if 'refused' in limited else 'possible'}; a write gets {written.get('write')}"
    )
    details = {"beside": beside, "after": after, "limited": limited, "written": written}
    return Answer(right and saved and read_only, text, details | {"logs": logs})


def pinned() -> Answer:
    """Can several processes register one memory file, and see each other's copies through it?"""
    with _memory_file(16 * MIB) as (fd, view):
        ctypes.memset(ctypes.addressof(view), 7, 16 * MIB)
        with Gpu() as gpu:
            gpu.register(ctypes.addressof(view), 16 * MIB)
            other = Client(
                *("pinned", {}), pass_fds=(fd,), fd=fd, size_bytes=16 * MIB, expect=7, write=9
            ).finish()
            stream, memory = gpu.stream(), gpu.allocate(16 * MIB)
            gpu.upload(memory, ctypes.addressof(view), 16 * MIB, stream)
            gpu.wait(stream)
            back = ctypes.create_string_buffer(16 * MIB)
            gpu.download(ctypes.addressof(back), memory, 16 * MIB)
            gpu.unregister(ctypes.addressof(view))
            seen = back.raw == b"\x09" * (16 * MIB)
    right = seen and other.get("right") is True
    return Answer(right, f"the other process: {other}; what it wrote came back: {seen}")


def copies() -> Answer:
    """How fast does a registered mapping copy: whole, and as sixteen images gathered?"""
    size = 64 * MIB
    with _memory_file(size) as (_, view), Gpu() as gpu:
        base = ctypes.addressof(view)
        begun = time.perf_counter()
        gpu.register(base, size)
        register_ms = (time.perf_counter() - begun) * 1e3
        memory, stream, event = gpu.allocate(size), gpu.stream(), gpu.event()

        def gather() -> None:
            for i in range(16):
                offset = i * IMAGE_BYTES
                gpu.upload(memory + offset, base + offset, IMAGE_BYTES, stream)

        whole_us = _copy_us(gpu, stream, lambda: gpu.upload(memory, base, size, stream))
        gather_us = _copy_us(gpu, stream, gather)
        one_us = _copy_us(gpu, stream, lambda: gpu.upload(memory, base, 16 * IMAGE_BYTES, stream))
        gpu.record(event, stream)
        gpu.wait(stream)
        query_us = _call_us(lambda: gpu.reached(event))
        batched = gpu.has("cuMemcpyBatchAsync_v2") or gpu.has("cuMemcpyBatchAsync")
        gpu.unregister(base)
    details = {
        "register_64MiB_ms": round(register_ms, 2),
        "h2d_gb_per_s": round(size / whole_us / 1e3, 1),
        "gather_16_images_us": round(gather_us, 1),
        "one_copy_of_16_images_us": round(one_us, 1),
        "event_query_us": round(query_us, 2),
        "batched_copies": batched,
    }
    text = (
        f"{details['h2d_gb_per_s']} GB/s; 16 images in {gather_us:.0f} us, in one copy"
        f" {one_us:.0f} us; event query {query_us:.1f} us from Python"
    )
    return Answer(None, text, details)


def graph_handle() -> Answer:
    """Can a graph that torch captured be launched from its raw handle, without torch?"""
    torch = needed("torch")
    from benchmarks.gpu.graphs import capture

    source = torch.randn(512, 512, device="cuda")
    target = torch.empty_like(source)
    stream = torch.cuda.Stream()
    graph = capture(lambda: torch.mm(source, source, out=target), stream)
    target.zero_()
    torch.cuda.synchronize()
    gpu = Gpu()
    gpu.launch_graph(graph.executable, stream.cuda_stream)
    gpu.wait(stream.cuda_stream)
    right = bool(torch.allclose(target, source @ source, rtol=1e-2, atol=1e-2))
    launch_us = _call_us(lambda: gpu.launch_graph(graph.executable, stream.cuda_stream), 200)
    gpu.wait(stream.cuda_stream)
    return Answer(
        right,
        f"{'right' if right else 'wrong'} result; a launch takes {launch_us:.1f} us from Python",
        {"launch_us": round(launch_us, 2), "torch_gives_executable": graph.from_torch},
    )


def green() -> Answer:
    """Do lanes on groups of SMs keep to them, what do they cost, and what does a graph remember?"""
    from benchmarks.gpu.green import measure

    return Answer(*measure())


def static_partition() -> Answer:
    """Does MPS offer static partitions here, and how large is a chunk?"""
    with Mps("-S") as mps:
        shown = mps.say("lspart")
    return Answer(None, " / ".join(shown.splitlines()[:4]) or "no answer", {"lspart": shown})


def fault_domain() -> Answer:
    """Does a fault of one client reach the others, and how soon can clients attach again?"""
    with Mps() as mps:
        bystander, culprit = mps.client("bystander"), mps.client("faulty")
        for client in (bystander, culprit):
            if "failed" in (answer := client.read()):
                return Answer(False, f"a client fails by itself: {answer['failed']}")
        begun = time.monotonic()
        culprit.go_on()
        fault, seen = culprit.finish(), bystander.finish()
        while "failed" in (found := mps.client("limit").finish()) and time.monotonic() < begun + 20:
            continue
        back_ms = (time.monotonic() - begun) * 1e3
        logs = mps.log_tail(40)
    named = any(str(culprit.pid) in line for lines in logs.values() for line in lines)
    text = (
        f"the culprit gets {fault.get('code')}, the other {seen.get('code')}; a new client works"
        f" after {back_ms:.0f} ms; the log {'names' if named else 'does not name'} the culprit"
    )
    details = {"fault": fault, "other": seen, "again": found, "named": named, "logs": logs}
    return Answer("failed" not in found, text, details)


QUESTIONS: dict[str, Callable[[], Answer]] = {
    question.__name__: question
    for question in (
        *(device, limit, pinned, copies, graph_handle, ipc, shared_weights, memory_limit),
        *(concurrency, fault_domain, green, static_partition),
    )
}


def _whole_multiprocessors() -> int:
    found = Client("limit", {}).finish()
    if "sms" not in found:
        raise RuntimeError(f"without MPS: {found['failed']}")
    return int(found["sms"])


def _asked(whole: int, percent: float | None) -> float:
    return whole * (100 if percent is None else percent) / 100


def _rates(clients: list[Client]) -> list[float]:
    """Runs a second of clients that begin together."""
    for client in clients:
        if "failed" in (answer := client.read()):
            raise RuntimeError(answer["failed"])
    for client in clients:
        client.go_on()
    answers = [client.finish() for client in clients]
    return [float(answer["runs_per_s"]) for answer in answers]


@contextmanager
def _memory_file(size_bytes: int) -> Iterator[tuple[int, ctypes.c_char]]:
    fd = os.memfd_create("gslice-probe")
    try:
        os.ftruncate(fd, size_bytes)
        # Not closed by hand: ctypes keeps a view until the process ends, which is soon.
        yield fd, ctypes.c_char.from_buffer(mmap.mmap(fd, size_bytes))
    finally:
        os.close(fd)


def _copy_us(gpu: Gpu, stream: int, enqueue: Callable[[], None]) -> float:
    """Median time from enqueueing to the end."""
    times = []
    for _ in range(30):
        begun = time.perf_counter()
        enqueue()
        gpu.wait(stream)
        times.append((time.perf_counter() - begun) * 1e6)
    return statistics.median(times)


def _call_us(call: Callable[[], object], repeats: int = 1000) -> float:
    begun = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - begun) / repeats * 1e6


def main() -> None:
    try:
        answer = QUESTIONS[sys.argv[1]]()
    except Skipped as reason:
        answer = Answer(None, f"not asked: {reason}")
    print(json.dumps(asdict(answer), default=str), flush=True)


if __name__ == "__main__":
    main()
