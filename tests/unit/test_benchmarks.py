"""The benchmarks' common format, the load client, and the results that are committed."""

import argparse
import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

from benchmarks.child import child
from benchmarks.common import Report, medians, some_of
from benchmarks.cores import ROOT, out_of_the_way, pin_process, two_cores
from benchmarks.echo import METHOD, echo_server
from benchmarks.http2 import Connection, Request
from benchmarks.load import closed_loop
from benchmarks.wire import Counters
from gslice.client.load import percentile

RESULTS = sorted((Path(__file__).parents[2] / "benchmarks" / "results").rglob("*.json"))
KEYS = {"question", "command", "time", "commit", "machine", "versions", "settings", "rows"}
OVERHEAD_KEYS = {
    "name",
    "payload_bytes",
    "concurrency",
    "rps",
    "p50_us",
    "p99_us",
    "engine_us",
    "added_us",
    "copies_per_request",
}


def test_median_and_spread():
    row = medians([{"a": 1.0, "b": 5}, {"a": 2.0, "b": 5}, {"a": 4.0, "b": 5}], spread_of=("a",))
    assert row == {"a": 2.0, "a_spread_percent": 150.0, "b": 5}


def test_percentile_is_the_nearest_rank():
    values = [float(n) for n in range(1, 101)]
    assert percentile(values, 50) == 50
    assert percentile(values, 99) == 99
    assert percentile([7.0], 99) == 7


def test_an_option_names_some_of_what_is_known():
    names = some_of(["python", "native"])
    assert names("native,python") == ["native", "python"]
    with pytest.raises(argparse.ArgumentTypeError, match="'rust' is none of python, native"):
        names("native,rust")


def test_the_engines_time_is_a_mean_over_batches():
    before = Counters(ok=10, copies=40, batches=8, compute_ns=8_000_000)
    after = Counters(ok=14, copies=48, batches=10, compute_ns=37_500_000)
    assert after.compute_mean_us_since(before) == 14_750.0
    assert after.copies_per_request_since(before) == 2
    assert before.compute_mean_us_since(before) == 0


def test_the_plain_script_is_plain():
    """A worker's memory is compared with it: nothing of ours may make it larger."""
    code = (
        "import argparse, contextlib, json, os, subprocess, sys, time, pathlib, dataclasses\n"
        "import collections.abc, numpy, onnxruntime; before = set(sys.modules)\n"
        "import benchmarks.bare; print(sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    light = ["benchmarks", "benchmarks.bare", "benchmarks.child", "benchmarks.cores"]
    assert done.stdout.strip() == str(light)


def test_a_child_that_ended_is_named():
    with (
        child(
            "the crab", [sys.executable, "-c", "raise SystemExit(3)"], two_cores().client
        ) as process,
        pytest.raises(RuntimeError, match="the crab ended with code 3"),
    ):
        process.read()


def test_a_child_that_does_not_end_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.child.STOP_TIMEOUT_S", 0.1)
    ended = tmp_path / "ended"
    code = (
        "import pathlib, sys, time; print('up', flush=True); time.sleep(20);"
        "pathlib.Path(sys.argv[1]).touch()"
    )
    command = [sys.executable, "-c", code, str(ended)]
    with (
        pytest.raises(subprocess.TimeoutExpired),
        child("a deaf one", command, two_cores().client) as process,
    ):
        assert process.read() == "up"
    assert not ended.exists()


def test_a_process_that_has_ended_is_not_moved():
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    pin_process(process.pid, {two_cores().client})


def test_a_server_leaves_its_core_and_comes_back():
    cores = two_cores()
    lines = "import sys\nfor _ in sys.stdin: print(1, flush=True)"
    with child("a server", [sys.executable, "-c", lines], cores.server) as process:
        process.write("Are you there?")
        process.read()
        with out_of_the_way([process.pid], cores):
            assert os.sched_getaffinity(process.pid) == {cores.client}
        assert os.sched_getaffinity(process.pid) == {cores.server}


def test_report_is_written_and_shown(tmp_path, capsys):
    report = Report("How long?", {"repeats": 3}, [{"name": "identity", "p50_us": 12.5}])
    report.write(tmp_path / "new" / "report.json")
    report.show()
    written = json.loads((tmp_path / "new" / "report.json").read_text())
    assert written.keys() == KEYS
    assert written["rows"] == [{"name": "identity", "p50_us": 12.5}]
    assert written["machine"]["cores"] >= 1
    shown = capsys.readouterr().out
    assert "identity" in shown
    assert "12.5" in shown


@pytest.mark.parametrize("size", [0, 1, 1024, 70_000, 3_000_000])
def test_bare_client_gets_back_what_it_sent(size):
    message = bytes(i % 251 for i in range(size))

    async def call(address):
        request = Request(address, METHOD, message)
        async with await Connection.connect(address) as connection:
            return await asyncio.gather(*(connection.call(request, keep=True) for _ in range(3)))

    with echo_server(two_cores().server) as address:
        assert asyncio.run(call(address)) == [message] * 3


def test_bare_client_tells_of_a_failed_call():
    async def call(address):
        async with await Connection.connect(address) as connection:
            await connection.call(Request(address, "/benchmarks.Echo/Nothing", b""))

    with echo_server(two_cores().server) as address, pytest.raises(RuntimeError, match="failed"):
        asyncio.run(call(address))


def test_a_call_that_is_given_up_disturbs_no_other():
    async def call(address):
        request = Request(address, METHOD, b"payload")
        async with await Connection.connect(address) as connection:
            connection.call(request).cancel()
            return await connection.call(request, keep=True)

    with echo_server(two_cores().server) as address:
        assert asyncio.run(call(address)) == b"payload"


def test_more_calls_than_the_server_takes_at_once_wait_in_the_client():
    transport = mock.Mock(is_closing=lambda: False)

    def opened():
        """Numbers of the streams so far, each with the first byte of its message."""
        heads = [call.args[0] for call in transport.writelines.call_args_list[1:]]
        return [(int.from_bytes(head[5:9], "big"), body[-1]) for head, _, _, body in heads]

    async def call():
        connection = Connection()
        connection.connection_made(transport)

        def receive(frames):
            connection.get_buffer(0)[: len(frames)] = frames
            connection.buffer_updated(len(frames))

        receive(bytes.fromhex("000006 04 00 00000000 0003 00000002"))  # two streams at most
        calls = [connection.call(Request("a:1", METHOD, bytes([n]))) for n in range(5)]
        assert opened() == [(1, 0), (3, 1)]
        receive(bytes.fromhex("000005 00 00 00000003 00 00000000" + "000000 01 05 00000003"))
        assert opened() == [(1, 0), (3, 1), (5, 2)]
        receive(bytes.fromhex("000004 03 00 00000001 00000007"))  # refused
        assert opened() == [(1, 0), (3, 1), (5, 2), (7, 3)]
        receive(bytes.fromhex("000006 04 00 00000000 0003 00000003"))
        assert [number for number, _ in opened()] == [1, 3, 5, 7, 9]
        connection.connection_lost(None)
        return await asyncio.gather(*calls, return_exceptions=True)

    refused, answered, *lost = asyncio.run(call())
    assert isinstance(refused, RuntimeError)
    assert answered == b""
    assert [type(error) for error in lost] == [ConnectionError] * 3


def test_closed_loop_measures():
    async def measure(address):
        request = Request(address, METHOD, b"payload")
        async with await Connection.connect(address) as connection:
            return await closed_loop(connection, request, concurrency=2, seconds=0.5)

    with echo_server(two_cores().server) as address:
        load = asyncio.run(measure(address))
    assert load.requests >= 2
    assert 0 < load.p50_us <= load.p99_us
    assert load.rps == pytest.approx(load.requests / load.seconds)


@pytest.mark.parametrize("given", [["--json", "/somewhere/out.json"], ["--json=out.json"], []])
def test_a_report_names_the_command_and_not_where_it_wrote(monkeypatch, given):
    argv = ["/there/benchmarks/swap.py", "--resizes", "126", *given, "--quick"]
    monkeypatch.setattr(sys, "argv", argv)
    command = Report("Why?", {}).command
    assert command == "python -m benchmarks.swap --resizes 126 --quick"


def test_a_report_of_a_package_names_the_package(monkeypatch):
    argv = ["/there/benchmarks/goodput/__main__.py", "--mode", "live", "--plot", "/somewhere/x.png"]
    monkeypatch.setattr(sys, "argv", argv)
    assert Report("Why?", {}).command == "python -m benchmarks.goodput --mode live"


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_committed_results_have_the_common_format(path):
    result = json.loads(path.read_text())
    assert result.keys() == KEYS
    assert not result["commit"].endswith("+"), "measured on a tree that was not committed"
    assert result["rows"]
    assert all("name" in row for row in result["rows"])
    if path.stem == "overhead":
        assert all(row.keys() >= OVERHEAD_KEYS for row in result["rows"])
