"""The parts of benchmarks/peers that no server is needed for."""

import asyncio
import itertools
import statistics
import time

import numpy as np
import pytest

from benchmarks import h2load
from benchmarks.http1 import Pool, Post
from benchmarks.peers import perf_analyzer
from benchmarks.peers.loops import closed_loop, open_loop, poisson_schedule_ns
from benchmarks.peers.percentiles import percentiles_us
from benchmarks.peers.rows import absent, row, setup_text
from benchmarks.peers.streams import Stream, streams
from benchmarks.peers.turns import DRIVER, Load, Turn


def test_percentiles_keep_three_digits():
    values = [n * 1_000 for n in range(1, 10_001)]  # 1 us to 10 ms
    found = percentiles_us(values)
    assert found["p50_us"] == pytest.approx(5_000, rel=1e-3)
    assert found["p99_us"] == pytest.approx(9_900, rel=1e-3)
    assert found["p999_us"] == pytest.approx(9_990, rel=1e-3)


@pytest.mark.parametrize(
    ("count", "known"), [(0, ""), (1, ""), (2, "p50_us"), (99, "p50_us"), (100, "p99_us")]
)
def test_a_percentile_needs_a_value_beyond(count, known):
    found = percentiles_us([1_000] * count)
    assert list(found) == ["p50_us", "p99_us", "p999_us"]
    highest = [name for name, value in found.items() if value is not None][-1:]
    assert highest == ([known] if known else [])
    assert percentiles_us([1_000] * 1_000)["p999_us"] == pytest.approx(1, rel=1e-3)


def test_a_latency_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="-1 ns"):
        percentiles_us([-1])


def test_a_schedule_is_poisson_and_the_same_for_the_same_seed():
    schedule = poisson_schedule_ns(1_000, 20_000, seed=3)
    assert schedule == poisson_schedule_ns(1_000, 20_000, seed=3)
    assert schedule != poisson_schedule_ns(1_000, 20_000, seed=4)
    gaps = [after - before for before, after in itertools.pairwise([0, *schedule])]
    assert min(gaps) >= 0
    assert statistics.mean(gaps) == pytest.approx(1e6, rel=0.03)
    assert statistics.stdev(gaps) == pytest.approx(1e6, rel=0.05)  # of an exponential: its mean


class Server:
    """Answers each call after a while; counts how many it has at a time."""

    def __init__(self, seconds, fails=()):
        self.calls = self.inside = self.most = 0
        self._seconds = seconds
        self._fails = fails

    def call(self):
        return asyncio.ensure_future(self._answer())

    async def _answer(self):
        number, self.calls = self.calls, self.calls + 1
        self.inside += 1
        self.most = max(self.most, self.inside)
        await asyncio.sleep(self._seconds)
        self.inside -= 1
        if number in self._fails:
            raise RuntimeError(f"call {number}")


def test_a_closed_loop_keeps_so_many_in_flight():
    async def run():
        server = Server(0.002)
        return server, await closed_loop(server.call, concurrency=4, requests=50)

    server, outcome = asyncio.run(run())
    assert (server.calls, server.most, outcome.errors) == (50, 4, 0)
    assert len(outcome.latencies_ns) == 50
    assert min(outcome.latencies_ns) >= 1_900_000
    assert outcome.rps == pytest.approx(50 / outcome.seconds)


def test_fewer_requests_than_callers():
    async def run():
        return await closed_loop(Server(0).call, concurrency=8, requests=3)

    assert len(asyncio.run(run()).latencies_ns) == 3


def test_errors_are_counted_and_have_no_latency():
    async def run():
        return await closed_loop(Server(0, fails={1, 4}).call, concurrency=2, requests=10)

    outcome = asyncio.run(run())
    assert (len(outcome.latencies_ns), outcome.errors, outcome.example) == (8, 2, "call 1")


def test_an_open_loop_counts_from_when_a_request_was_due():
    """A server that stops for a while makes those late that came meanwhile."""

    async def run():
        loop = asyncio.get_running_loop()
        calls = 0

        def call():
            nonlocal calls
            calls += 1
            if calls == 10:
                time.sleep(0.05)  # the whole client stands still, and may not hide it
            answered = loop.create_future()
            answered.set_result(None)
            return answered

        return await open_loop(call, [n * 1_000_000 for n in range(60)])

    outcome = asyncio.run(run())
    assert len(outcome.latencies_ns) == len(outcome.late_ns) == 60
    late = [latency for latency in outcome.latencies_ns if latency > 10_000_000]
    assert len(late) >= 35  # every one of some 40 that were due more than 10 ms before its end
    assert max(outcome.late_ns) >= 45_000_000
    assert outcome.seconds >= 0.058


def test_an_open_loop_does_not_wait_for_answers():
    async def run():
        server = Server(0.05)
        return server, await open_loop(server.call, [0, 1_000_000, 2_000_000])

    server, outcome = asyncio.run(run())
    assert server.most == 3
    assert outcome.errors == 0


def turn(rps, p99_us=100.0, errors=0):
    latencies = {"p50_us": 50.0, "p99_us": p99_us, "p999_us": None}
    return Turn(rps, latencies, None, errors, "broken" if errors else "", 10.0, 1000, 500)


def test_a_row_has_medians_and_the_ratios_of_neighbours():
    load = Load(DRIVER, concurrency=32)
    peer = [turn(50, 300.0), turn(200, 100.0, errors=2), turn(90, 300.0)]
    gslice = [turn(100), turn(100), turn(300)]
    found = row(load, peer, gslice)
    assert found["load"] == "closed 32"
    assert found["rps"] == 90
    assert found["ratio_to_gslice"] == 0.5  # of 0.5, 2 and 0.3: not 90 / 100
    assert found["p99_ratio_to_gslice"] == 3
    assert found["p999_us"] is None
    assert (found["errors"], found["error"]) == (2, "broken")
    assert found["rps_spread_percent"] == pytest.approx(166.7)
    assert found["server_rss_bytes"] == 1000


def test_a_row_without_gslice_has_no_ratio():
    found = row(Load(DRIVER, percent=80, rate_per_s=40.0), [turn(40)], [])
    assert (found["load"], found["rate_per_s"]) == ("open 80 %", 40.0)
    assert found["ratio_to_gslice"] is None


def test_who_did_not_race_has_a_row():
    found = absent("mosec", "not installed: no environment")
    assert found["name"] == found["peer"] == "mosec"
    assert found["status"] == "not installed: no environment"


def test_a_turn_counts_all_requests_that_took_processor_time():
    from benchmarks.peers.server import Usage

    before, after = Usage(1_000.0, 0, 0), Usage(2_000.0, 70, 30)
    found = Turn.of(10.0, [1_000] * 8, [], 2, "", before, after)
    assert found.cpu_us_per_request == 100
    assert (found.rss_bytes, found.pss_bytes, found.late_p99_us) == (70, 30, None)


def test_no_path_of_a_machine_is_told():
    text = '/opt/env-1/bin/python serve "/home/me/models/a.onnx" --at 127.0.0.1:80 /inference ./x'
    assert setup_text(text) == 'python serve "a.onnx" --at 127.0.0.1:80 /inference ./x'


def test_streams_have_the_sizes_they_say():
    made = streams()
    assert list(made) == ["identity-1k", "identity-600k", "onnx"]
    assert made["identity-1k"]().array.nbytes == 1024
    assert made["identity-600k"]().array.nbytes == 602_112


def test_a_wrong_answer_is_seen():
    array = np.arange(4, dtype=np.float32)
    identity = Stream("s", "f", "x", array, "x", array)
    assert identity.is_right(array.tobytes())
    assert not identity.is_right(array.tobytes()[:-1])
    assert not identity.is_right((array + 1e-6).tobytes())


H2LOAD_OUTPUT = """starting benchmark...
spawning thread #0: 1 total client(s). 200 total requests
Application protocol: h2c
finished in 12.30ms, 16260.16 req/s, 17.12MB/s
requests: 200 total, 200 started, 200 done, 197 succeeded, 3 failed, 0 errored, 0 timeout
status codes: 197 2xx, 0 3xx, 0 4xx, 3 5xx
traffic: 215KB (220805) total, 4.31KB (4413) headers (space savings 90.00%), 208KB (213998) data
                     min         max         mean         sd        +/- sd
"""


def test_h2load_is_read():
    log = "1700000000000000\t200\t812\n1700000000000001\t500\t99\n1700000000000002\t200\t1024\n"
    found = h2load.parse(H2LOAD_OUTPUT, log)
    assert found == h2load.H2Load(found.rps, 197, 3, 213_998, [812_000, 1_024_000])
    assert found.rps == pytest.approx(200 / 1026e-6)


def test_h2load_sees_grpc_errors_by_the_bytes_that_are_missing():
    def ran(data_bytes):
        return h2load.H2Load(1.0, succeeded=10, failed=1, data_bytes=data_bytes, latencies_ns=[])

    assert ran(10 * 1029).errors(1029) == 1
    assert ran(8 * 1029).errors(1029) == 3
    assert ran(8 * 1029 + 1).errors(1029) == 3


def test_h2load_that_says_something_else_is_told():
    with pytest.raises(RuntimeError, match="Connection refused"):
        h2load.parse("starting\nConnection refused\n", "")


def test_perf_analyzer_is_read():
    text = (
        "Concurrency,Inferences/Second,Client Send,p50 latency,p90 latency,p99 latency\n"
        "8,90.4971,3,34677,212029,504292\n"
    )
    assert perf_analyzer.parse(text) == perf_analyzer.Analyzed(90.4971, 34_677, 504_292)
    with pytest.raises(RuntimeError, match="Inferences/Second"):
        perf_analyzer.parse("Concurrency,Something\n8,1\n")


def test_a_perf_analyzer_that_lacks_a_library_tells(tmp_path):
    program = tmp_path / perf_analyzer.FOLDER / "bin" / "perf_analyzer"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\necho no libb64 >&2\nexit 127\n")
    program.chmod(0o755)
    assert perf_analyzer.find(tmp_path) == str(program)
    with pytest.raises(RuntimeError, match="no libb64"):
        perf_analyzer.version(str(program))


def answering(*answers):
    """An HTTP/1.1 server that gives these answers, one after the other, on each connection."""

    async def serve(reader, writer):
        for answer in answers:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            body = await reader.readexactly(length)
            writer.write(answer(body))
            await writer.drain()
        writer.close()

    return serve


def ok(body):
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def ask(server, body, connections, calls):
    async def run():
        listening = await asyncio.start_server(server, "127.0.0.1", 0)
        async with listening:
            address = f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
            post = Post(address, "/there", "application/octet-stream", body)
            async with await Pool.connect(address, connections) as pool:
                waiting = [pool.call(post, keep=True) for _ in range(calls)]
                return await asyncio.gather(*waiting, return_exceptions=True)

    return asyncio.run(run())


@pytest.mark.parametrize("size", [0, 1, 1_024, 3_000_000])
def test_http_client_gets_back_what_it_sent(size):
    body = bytes(n % 251 for n in range(size))
    assert ask(answering(ok, ok, ok), body, connections=2, calls=6) == [body] * 6


def test_http_client_tells_of_errors():
    def broken(body):
        return b"HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbusy"

    first, second, third = ask(answering(broken, ok), b"body", connections=1, calls=3)
    assert str(first) == "status 503: b'busy'"
    assert second == b"body"
    assert isinstance(third, ConnectionError)


def test_http_client_refuses_an_answer_without_a_length():
    def endless(body):
        return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"

    (failure,) = ask(answering(endless), b"", connections=1, calls=1)
    assert "content-length" in str(failure)
