"""What the front-end benchmark makes of h2load's and strace's words, and its bare echo."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest

from benchmarks import http2
from benchmarks.cores import ROOT, two_cores
from benchmarks.frontend import squeezenet
from benchmarks.frontend.__main__ import cases
from benchmarks.frontend.bare import bare_echo
from benchmarks.frontend.built import built
from benchmarks.frontend.counts import Calls
from benchmarks.frontend.h2load import Width, check_installed, h2load, load_of
from benchmarks.frontend.identity import Case, functions
from benchmarks.frontend.processes import context_switches, cpu_ns
from benchmarks.frontend.turns import Plan, Subject, compare
from benchmarks.h2load import H2Load
from benchmarks.http2 import Connection, Request
from benchmarks.wire import LARGE_BYTES, SMALL_BYTES
from gslice.core.errors import FailedPrecondition

METHOD = "/any.Service/Method"
SUMMARY = """\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 63.86    0.000053          53       100         4 recvmsg
 36.14    0.000030          15       300           epoll_wait
------ ----------- ----------- --------- --------- ----------------
100.00    0.000083          27       400         4 total
"""


@pytest.fixture(scope="module")
def echo_built():
    try:
        check_installed()
        return built("echo_nghttp2")
    except FailedPrecondition as error:
        pytest.skip(error.message)


# ---- h2load ----------------------------------------------------------------------------------


RAN = H2Load(1500.0, 3, 0, 45, [400_000, 200_000, 1_700_000], cpu_us=300)


@pytest.mark.parametrize(
    ("ran", "reason"),
    [
        (replace(RAN, succeeded=2, failed=1), "not all were answered"),
        (replace(RAN, data_bytes=44), "44 bytes, not 15 each"),  # failed gRPC calls
    ],
)
def test_a_run_with_a_failed_call_gives_no_figure(ran, reason):
    with pytest.raises(RuntimeError, match=reason):
        load_of(ran, 15)


def test_figures_of_a_run_that_was_answered_in_full():
    load = load_of(RAN, 15)
    assert (load.requests, load.p50_us, load.p99_us) == (3, 400, 1700)
    assert load.rps == pytest.approx(1500)
    assert load.client_cpu_us == pytest.approx(100)


def test_every_connection_has_a_call_in_flight():
    assert Width.of(32, 4) == Width(connections=4, streams=8)
    assert Width.of(8, 1000).concurrency == 1000


def test_cases_are_those_that_a_queue_holds():
    found = cases([8, 32], [1, 1000])
    assert Case(LARGE_BYTES, Width(1, 32), copies=False) in found
    assert Case(SMALL_BYTES, Width(1000, 1), copies=True) in found
    assert all(case.width.connections == 1 for case in found if case.payload_bytes == LARGE_BYTES)
    assert len(found) == len(set(found)) == 10
    assert {case.function for case in found} == functions().keys()


# ---- counting --------------------------------------------------------------------------------


def test_system_calls_are_read_from_the_summary():
    calls = Calls.parse(SUMMARY)
    assert calls.by_name == {"recvmsg": 100, "epoll_wait": 300}
    figures = calls.figures("worker", 200)
    assert figures["worker_system_calls"] == 2
    assert figures["worker_most"] == "epoll_wait 1.50, recvmsg 0.50"


def test_processor_time_and_switches_are_counted():
    before = cpu_ns([os.getpid()])
    sum(range(100_000))
    assert cpu_ns([os.getpid()]) > before
    assert context_switches([os.getpid()]) > 0


def test_allocations_are_counted(tmp_path):
    try:
        library = built("count_allocations")
    except FailedPrecondition as error:
        pytest.skip(error.message)
    code = (
        "import os, struct; from pathlib import Path\n"
        f"path = Path({str(tmp_path)!r}) / str(os.getpid())\n"
        "count = lambda: struct.unpack('=Q', path.read_bytes())[0]\n"
        "before = count(); kept = [bytearray(100_000) for _ in range(1000)]\n"
        "print(count() - before)"
    )
    environment = {"LD_PRELOAD": str(library), "GSLICE_COUNT_ALLOCATIONS": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert 1000 <= int(done.stdout) < 1200


# ---- servers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 1024, 5000, 70_000, 3_000_000])
def test_the_bare_echo_gives_back_what_came(echo_built, size):
    message = bytes(i % 251 for i in range(size))

    async def calls(address):
        request = Request(address, METHOD, message)
        async with await Connection.connect(address) as connection:
            return await asyncio.gather(*(connection.call(request, keep=True) for _ in range(5)))

    with bare_echo(two_cores().server) as bare:
        assert asyncio.run(calls(bare.address)) == [message] * 5


def test_the_bare_echo_hears_a_client_that_stopped_in_the_middle_of_a_message(echo_built):
    """It has the kernel wake it for much of a large message at once, but not for ever."""

    async def ask(address):
        request = Request(address, METHOD, bytes(300_000))
        host, port = address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(http2.PREFACE + frame(http2.SETTINGS, 0, b""))
        writer.write(frame(http2.HEADERS, 1, request.headers, http2.END_HEADERS))
        writer.write(frame(http2.DATA, 1, bytes(request.body[:16_000])))
        for data in (b"one.ping", b"two.ping"):  # at the second, it waits for the rest
            writer.write(frame(http2.PING, 0, data))
            await asyncio.wait_for(reader.readuntil(data), 10)
            writer.write(frame(http2.DATA, 1, bytes(16_000)))
        writer.close()

    def frame(kind, stream, payload, flags=0):
        return http2._frame(kind, flags, stream, payload)

    with bare_echo(two_cores().server) as bare:
        asyncio.run(ask(bare.address))


def test_the_bare_echo_is_measured_by_h2load(echo_built):
    core, width = two_cores().client, Width(connections=2, streams=3)
    with bare_echo(two_cores().server) as bare:
        request = Request(bare.address, METHOD, bytes(40_000))
        assert h2load(request, 40_000, 50, width, core).requests == 50
        with pytest.raises(RuntimeError, match="not 7 each"):
            h2load(request, 2, 50, width, core)
        subject = Subject(request, 40_000, [bare.pid])
        row = compare(subject, subject, width, Plan(seconds=0.05, repeats=2, core=core))
    assert 0.1 < row["echo_ratio"] < 10
    assert row["server_cpu_us_per_request"] > 0
    assert 0 < row["p50_us"] <= row["p99_us"]


def test_squeezenet_has_its_published_size(tmp_path):
    path = squeezenet.write(tmp_path / "squeezenet.onnx")
    session = onnxruntime.InferenceSession(str(path))
    (scores,) = session.run(None, {"x": np.ones(squeezenet.SHAPE, np.float32)})
    assert scores.shape == (1, squeezenet.CLASSES, 1, 1)
    assert np.isfinite(scores).all()
    assert 4.9e6 < path.stat().st_size < 5.1e6  # 1.24 million weights
