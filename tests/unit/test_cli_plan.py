"""`gslice plan`, and what `gslice status` says of SLOs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli import failing, gslice
from tests.fakes.servers import FakeControl, control_message, control_server

pytestmark = pytest.mark.usefixtures("here")

REASON = "40% of cpu: 120 requests/s within 30 ms, predicted p99 21 ms"


def decision(**more: Any) -> Any:
    return control_message(
        "Decision",
        **{
            "device": "cpu",
            "share_percent": 40.0,
            "rate_per_s": 120.0,
            "predicted_p99_us": 21_000.0,
            "capacity_per_s": 240.0,
            "batch_rows_max": 8,
            "reason": REASON,
            **more,
        },
    )


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GSLICE_STATE_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def control(here: Path) -> Iterator[FakeControl]:
    status = control_message("Status", version="0.4.0", state="SERVING", pid=7)
    function = status.functions.add(
        name="detector", state="READY", slo_p99_us=30_000, p99_us=25_000, attainment=0.9975
    )
    function.decision.CopyFrom(decision(shed_us=25_500.0))
    status.functions.add(name="other", state="READY")
    with control_server(here, FakeControl(status)) as servicer:
        servicer.planned = [
            control_message(
                "Planned", name="detector", slo_us=30_000, share_percent=25, decisions=[decision()]
            ),
            control_message("Planned", name="lost"),
        ]
        yield servicer


def test_a_line_a_decision_and_its_reason(control: FakeControl) -> None:
    head, detector, reason, lost = gslice("plan").stdout.splitlines()
    assert head.split()[:3] == ["FUNCTION", "DEVICE", "RATE/S"]
    assert " ".join(detector.split()) == "detector cpu 120.0 30.0 ms 21.0 ms 240.0 25% 40% 8 -"
    assert reason == f"detector: {REASON}"
    assert lost == "lost: there is no device that it may run on"
    assert list(control.asked[0].what_if) == []


def test_what_if_reaches_the_daemon(control: FakeControl) -> None:
    shown = gslice("plan", "--what-if", "detector.rate=2x", "--what-if", "slo=9ms", "--json").stdout
    assert list(control.asked[0].what_if) == ["detector.rate=2x", "slo=9ms"]
    assert json.loads(shown)["functions"][0]["decisions"][0]["share_percent"] == 40


def test_status_says_how_slos_are_kept(control: FakeControl) -> None:
    lines = [" ".join(line.split()) for line in gslice("status").stdout.splitlines()]
    kept = "detector 30.0 ms 25.0 ms 21.0 ms 99.75% 120.0 240.0 8 beyond 25.5 ms"
    assert kept in lines
    assert f"detector: {REASON}" in lines


def test_without_a_daemon_a_node_yaml_is_planned(here: Path) -> None:
    (here / "node.yaml").write_text(
        "version: 1\n"
        f"node: {{state_dir: {here}}}\n"
        "functions: {a: {identity: {inputs: [{name: x, dtype: INT64, dims: [-1, 1]}]},"
        " slo: {p99: 20ms}}}\n"
    )
    planned = gslice("plan", "-c", "node.yaml", "--what-if", "a.rate=50").stdout
    _, a, reason = planned.splitlines()
    assert a.split()[:3] == ["a", "cpu", "50.0"]
    assert "not profiled yet" in reason


def test_a_change_that_cannot_be_read(here: Path) -> None:
    (here / "node.yaml").write_text(f"version: 1\nnode: {{state_dir: {here}}}\n")
    told = failing("plan", "-c", "node.yaml", "--what-if", "rate=fast")
    assert told[0] == "error: 'fast' is no rate"
