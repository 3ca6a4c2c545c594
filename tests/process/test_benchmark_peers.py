"""The race of benchmarks/peers: gslice by itself, and beside a server that echoes."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from benchmarks.cores import ROOT, two_cores
from benchmarks.peers.calls import HttpCalls
from benchmarks.peers.gslice import Gslice
from benchmarks.peers.peer import Installed, Peer
from benchmarks.peers.race import Plan, race
from benchmarks.peers.rows import rows_of
from benchmarks.peers.server import Command, Failed
from benchmarks.peers.streams import Stream, streams
from benchmarks.peers.turns import DRIVER, H2LOAD
from gslice import __version__

PLAN = Plan(seconds=0.2, repeats=2, concurrencies=(4,), open_percents=(50,))
ECHO = Path(__file__).parent / "http_echo.py"


class Echo(Peer):
    """Answers with the body it got, or with something else."""

    name = "echo"
    package = "pytest"
    documentation = "none"
    protocol = HttpCalls
    path = "/"

    def __init__(self, *options: str) -> None:
        self._options = options

    def command(
        self, installed: Installed, stream: Stream, directory: Path, ports: list[int]
    ) -> Command:
        arguments = [str(installed.python), str(ECHO), str(ports[0]), *self._options]
        return Command(arguments, {}, {"notes.txt": "none"}, {"options": self._options})


def here(peer: Peer) -> tuple[Peer, Installed]:
    return peer, peer.installed(Path(sys.executable))


@pytest.mark.timeout(300)
def test_gslice_alone(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    options = ["--quick", "--peers", "gslice,mosec", "--streams", "identity-1k,onnx"]
    done = subprocess.run(
        [*(sys.executable, "-m", "benchmarks.peers", *options), "-e", str(tmp_path), "--json", out],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    absent, *rows = result["rows"]
    assert absent["peer"] == "mosec"
    assert absent["status"].startswith("not installed: ")
    assert {row["stream"] for row in rows} == {"identity-1k", "onnx"}
    assert {"closed 8", "closed 32", "open 50 %", "open 80 %"} == {row["load"] for row in rows}
    peaks = {
        row["stream"]: row["rps"]
        for row in rows
        if (row["load"], row["client"]) == ("closed 32", DRIVER)
    }
    for row in rows:
        assert row["peer"] == "gslice"
        assert row["status"] == "ran"
        assert row["version"] == __version__
        if row["rate_per_s"] is None:
            assert row["errors"] == 0, row
        else:
            part = {"open 50 %": 0.5, "open 80 %": 0.8}[row["load"]]
            assert row["rate_per_s"] == pytest.approx(part * peaks[row["stream"]], abs=0.1)
            # An open loop does not wait for a machine that stalls: the longest queue fills then.
            assert row["errors"] == 0 or "is full" in row["error"], row
        assert row["ratio_to_gslice"] == 1
        assert 0 < row["rps"] < 1e6
        # A machine that stalls gives not even two answers in so short a time.
        assert row["p50_us"] is None or 1 < row["p50_us"] < 1e8
        assert any(other["p50_us"] for other in rows if other["stream"] == row["stream"])
        if row["client"] in (DRIVER, H2LOAD):
            assert 0 <= row["server_cpu_us_per_request"] < 1e6  # in ticks of 10 ms
        assert row["server_rss_bytes"] > row["server_pss_bytes"] > 10_000_000
    assert "node.yaml" in result["settings"]["servers"]["gslice, onnx"]["files"]
    assert str(ROOT) not in out.read_text()


@pytest.mark.timeout(120)
def test_a_pair_takes_turns_at_the_same_loads() -> None:
    stream, core = streams()["identity-600k"](), two_cores().server
    before = set(psutil.Process().children(recursive=True))
    racers = asyncio.run(race([here(Gslice()), here(Echo())], stream, PLAN, core))
    assert set(psutil.Process().children(recursive=True)) <= before
    rows = rows_of(racers, stream.name)
    for load in {row["load"] for row in rows}:
        mine, echo = ([row for row in rows if (row["peer"], row["load"]) == (name, load)]
                      for name in ("gslice", "echo"))  # fmt: skip
        assert len(mine) == len(echo) >= 1
        assert {row["protocol"] for row in echo} == {"HTTP/1.1"}
        assert all(row["errors"] == 0 for row in mine + echo), mine + echo
        assert all(row["ratio_to_gslice"] > 0 for row in echo)
    (rate,) = {row["rate_per_s"] for row in rows if row["rate_per_s"]}
    assert rate == pytest.approx(min(racer.peak_rps for racer in racers) / 2, abs=0.1)
    assert all(len(turns) == PLAN.repeats for racer in racers for turns in racer.turns.values())


@pytest.mark.parametrize(
    ("options", "reason"),
    [(("--wrong",), "echo gave a wrong answer of 1024 bytes"),
     (("--die",), "echo ended with code 3: it cannot live"),
     (("--once",), "echo broke at")],
)  # fmt: skip
def test_who_does_not_serve_is_told(options: tuple[str, ...], reason: str) -> None:
    stream = streams()["identity-1k"]()
    with pytest.raises(Failed, match=reason):
        asyncio.run(race([here(Echo(*options))], stream, PLAN, two_cores().server))
