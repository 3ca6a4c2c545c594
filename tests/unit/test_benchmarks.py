"""The benchmarks' common format, the load client, and the results that are committed."""

import asyncio
import json
from pathlib import Path

import grpc.aio
import pytest

from benchmarks.common import Report, medians, percentile, two_cores
from benchmarks.echo import METHOD, echo_server
from benchmarks.load import UNLIMITED, closed_loop

RESULTS = sorted((Path(__file__).parents[2] / "benchmarks" / "results").glob("*.json"))
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


def test_load_client_measures_the_echo_server():
    async def measure(address):
        async with grpc.aio.insecure_channel(address, options=UNLIMITED) as channel:
            return await closed_loop(channel, METHOD, b"payload", concurrency=2, seconds=0.05)

    with echo_server(two_cores().server) as address:
        load = asyncio.run(measure(address))
    assert load.answer == b"payload"
    assert load.requests >= 2
    assert 0 < load.p50_us <= load.p99_us
    assert load.rps == pytest.approx(load.requests / load.seconds)


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_committed_results_have_the_common_format(path):
    result = json.loads(path.read_text())
    assert result.keys() == KEYS
    assert not result["commit"].endswith("+"), "measured on a tree that was not committed"
    assert result["rows"]
    assert all("name" in row for row in result["rows"])
    if path.stem == "overhead":
        assert all(row.keys() >= OVERHEAD_KEYS for row in result["rows"])
