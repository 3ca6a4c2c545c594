"""What `gslice top` shows; colours only repeat it."""

from __future__ import annotations

from typing import Any

import pytest

from gslice.cli import top_view
from tests.cli import failing
from tests.fakes.servers import control_message


def function(name: str = "f", **fields: Any) -> Any:
    usual = {"state": "READY", "device": "cpu", "share_granted_percent": 40.0}
    return control_message("Function", name=name, **{**usual, **fields})


def status(*functions: Any, **device: Any) -> Any:
    made = control_message("Status", state="SERVING", version="1", functions=functions)
    made.devices.add(**{"name": "cpu", "limiter": "cgroup", "share_limit_percent": 80.0, **device})
    return made


def cell(title: str, shown: Any) -> str:
    (column,) = (column for column in top_view.COLUMNS if column.title == title)
    (text,) = top_view.cells(shown, [column])
    return str(text)


def test_a_device_is_a_bar_of_its_shares() -> None:
    node = status(function("detector"), function("tagger", share_granted_percent=20.0))
    (line,) = top_view.device_lines(node, 100)
    bar = line.plain.partition("[")[2].partition("]")[0]
    assert line.plain.startswith("cpu  [detector 40%")
    assert line.plain.endswith("]  60% of 80%")
    width = len(bar)
    detector, tagger, free = bar.split("|")
    assert len(detector) + 1 == round(width * 0.4)
    assert tagger.startswith("tagger 20%")
    assert len(free.rstrip()) == round(width * 0.8) - round(width * 0.6)  # up to the limit
    assert line.cell_len <= 100


def test_shares_that_take_turns_are_more_than_a_device() -> None:
    node = status(
        function("a", share_granted_percent=90.0), function("b", share_granted_percent=90.0)
    )
    (line,) = top_view.device_lines(node, 80)
    assert line.plain.endswith("180% of 80%, in turns")
    assert line.plain.count("|") == 2


@pytest.mark.parametrize("width", [20, 40, 200])
def test_a_bar_fits_its_screen(width: int) -> None:
    many = [function(f"function-{n}", share_granted_percent=1.0) for n in range(30)]
    (line,) = top_view.device_lines(status(*many), width)
    assert line.cell_len <= max(width, len("cpu  []  30% of 80%") + 10)


def test_a_broken_promise_is_marked_without_colour() -> None:
    kept = function(p99_us=15_000.0, slo_p99_us=30_000.0)
    broken = function(p99_us=45_000.0, slo_p99_us=30_000.0)
    assert cell("P99", kept) == "15.0 ms"
    assert cell("P99", broken) == "! 45.0 ms"
    assert cell("P99 OF SLO", kept) == "#####.....   50%"
    assert cell("P99 OF SLO", broken) == "##########  150%"
    assert cell("P99 OF SLO", function()) == "-"


def test_what_a_share_really_is_and_what_batches_are() -> None:
    assert cell("SHARE", function(share_effective_percent=40.2)) == "40%"
    assert cell("SHARE", function(share_effective_percent=25.0)) == "25% of 40%"
    free = function(limiter="none", share_effective_percent=100.0)
    assert cell("SHARE", free) == "40%, no limit"
    batching = function(batch_mean_rows=3.7)
    assert cell("BATCH", batching) == "3.7"
    batching.decision.batch_rows_max = 8
    assert cell("BATCH", batching) == "3.7 of 8"
    assert cell("QUEUE", function(queued=3, in_flight=2)) == "5"
    worked = function()
    worked.workers.add(pid=1, restarts=2)
    assert cell("WORKERS", worked) == "1 (+2)"


def test_a_narrow_screen_has_the_columns_that_matter() -> None:
    everything = [column.title for column in top_view.COLUMNS]
    shown = {width: [c.title for c in top_view.columns_for(width, 8)] for width in (120, 80, 30, 1)}
    assert shown[120] == everything
    assert shown[1] == ["FUNCTION", "P99"]
    for less, more in ((1, 30), (30, 80), (80, 120)):
        assert set(shown[less]) <= set(shown[more])
        assert [title for title in everything if title in shown[less]] == shown[less]
    assert {"STATE", "RATE/S", "SHARE"} < set(shown[80])
    assert len(top_view.columns_for(80, 30)) < len(shown[80])


def test_the_line_of_a_function_says_why() -> None:
    failed = function(state="FAILED", reason="no such file")
    assert top_view.function_line(failed).plain == "f: no such file"
    serving = function(engine="onnxruntime", version="3", ok=7, failed=1)
    serving.decision.reason = "needs 20% at 5/s"
    line = top_view.function_line(serving).plain
    assert line == "f: onnxruntime, version 3, 7 answered, 1 not; needs 20% at 5/s"


def test_legal_steps_are_those_of_the_limiter() -> None:
    (threads,) = status(limiter="threads", cpus=[0, 1, 2, 3]).devices
    assert top_view.legal_step(threads) == "whole cores of 4: steps of 25%"
    (gpu,) = status(limiter="mps", gpu={"sms": 132}).devices
    assert top_view.legal_step(gpu) == "pairs of 132 SMs: steps of 1.52%"
    assert top_view.legal_step(status().devices[0]) == "any percentage"


def test_it_needs_a_terminal() -> None:
    assert failing("top") == [
        "error: this is no terminal",
        "hint: for programs: gslice status --json",
    ]
