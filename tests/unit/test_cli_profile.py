"""`gslice profile`: what it asks for, its table, its picture, and what it refuses."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gslice.cli.profile import parse_buckets, parse_shares
from gslice.core.errors import InvalidArgument
from tests.cli import failing, gslice
from tests.fakes.servers import FakeControl, control_message, control_server

pytestmark = pytest.mark.usefixtures("here")


def point(bucket: int, share: float, median_us: float, joules: float = 0.0) -> Any:
    return control_message(
        "ProfilePoint",
        bucket=bucket,
        share_percent=share,
        median_us=median_us,
        p99_us=1.5 * median_us,
        batches=99,
        joules=joules,
        fitted_us=1.01 * median_us,
    )


def example(joules: float = 0.0) -> Any:
    points = [point(1, 50, 2000, joules), point(1, 100, 1500, joules), point(8, 50, 9000, joules)]
    curves = [
        control_message(
            "ProfileCurve",
            bucket=bucket,
            knee_percent=knee,
            knee_us=1800.0 * bucket,
            shares_percent=[50, 75, 100],
            medians_us=[2000.0 * bucket, 1700.0 * bucket, 1500.0 * bucket],
        )
        for bucket, knee in ((1, 75.0), (8, 100.0))
    ]
    return control_message(
        "ProfileResult",
        name="detector",
        model="/detector.onnx",
        device="cpu",
        limiter="cgroup",
        machine="Xeon, 2 cores",
        version="0.3.0",
        at_s=1.0,
        error_percent=3.25,
        points=points,
        curves=curves,
    )


@pytest.fixture
def control(state_dir: Path) -> Iterator[FakeControl]:
    with control_server(state_dir, FakeControl(control_message("Status"))) as servicer:
        servicer.profile = [
            control_message("ProfileStep", left=3, excess_percent=60.0),
            control_message("ProfileStep", point=point(1, 100, 1500), left=2, left_s=7.5),
            control_message("ProfileStep", point=point(8, 50, 9000), left=1, left_s=3.0),
            control_message("ProfileStep", result=example()),
        ]
        yield servicer


def test_a_table_the_knees_and_where_it_was_measured(control: FakeControl) -> None:
    done = gslice("profile", "detector")
    head, first, *_ = lines = done.stdout.splitlines()
    assert head.split() == ["BATCH", "SHARE", "MEDIAN", "P99", "MODEL", "TIMED"]
    assert " ".join(first.split()) == "1 50% 2.00 ms 3.00 ms 2.02 ms 99"
    assert "knee of a batch of 1: 75%, 1.80 ms" in lines
    assert lines[-1].startswith("model error 3.2 %; measured beside what served, ")
    assert lines[-1].endswith("on cpu by cgroup: Xeon, 2 cores; gslice 0.3.0")
    assert done.stderr.splitlines() == [
        "warning: up to 60% of the device beyond what is free is used meanwhile"
    ]
    (asked,) = control.asked
    assert (asked.name, list(asked.shares_percent), list(asked.buckets)) == ("detector", [], [])


def test_what_is_chosen_is_asked_for(control: FakeControl) -> None:
    gslice("profile", "detector", "--shares", "10%, 12.5%", "--buckets", "1,16")
    (asked,) = control.asked
    assert (list(asked.shares_percent), list(asked.buckets)) == ([10, 12.5], [1, 16])
    assert not asked.show


def test_energy_has_a_column_where_it_is_counted(control: FakeControl) -> None:
    control.profile[-1].result.CopyFrom(example(joules=0.1234))
    head, first, *_ = gslice("profile", "detector").stdout.splitlines()
    assert (head.split()[-1], first.split()[-1]) == ("J/BATCH", "0.123")


def test_json_is_the_result_alone(control: FakeControl) -> None:
    done = gslice("profile", "detector", "--json")
    shown = json.loads(done.stdout)
    assert done.stderr == ""
    assert shown["error_percent"] == 3.25
    assert [each["bucket"] for each in shown["points"]] == [1, 1, 8]
    assert shown["curves"][0]["knee_percent"] == 75


def test_show_measures_nothing(control: FakeControl) -> None:
    control.profile = control.profile[-1:]
    control.profile[0].result.quick = True
    assert "measured in passing, at a load, " in gslice("profile", "f", "--show").stdout
    assert control.asked[0].show


def test_a_plot_is_a_picture(control: FakeControl, here: Path) -> None:
    gslice("profile", "detector", "--plot", "out.png")
    data = (here / "out.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert len(data) > 10_000


def test_without_matplotlib_it_is_told_before_anything_is_measured(
    control: FakeControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert failing("profile", "f", "--plot", "out.png") == [
        "error: --plot needs matplotlib, which is not installed",
        "hint: pip install 'gslice[plot]'",
    ]
    assert control.asked == []


def test_a_profile_without_a_plot_loads_no_matplotlib(
    control: FakeControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)  # another test has drawn
    gslice("profile", "detector")
    assert "matplotlib" not in sys.modules


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--shares", "10"], "'10' has no percent sign; write it as 40%"),
        (["--shares", "10%,"], "'' is not a percentage"),
        (["--buckets", "1,x"], "--buckets 1,x: 'x' is no number of rows; write 1,4,16"),
        (["--buckets", "0"], "--buckets 0: '0' is no number of rows"),
        (["--show", "--buckets", "1"], "--show measures nothing"),
        (["--plot", "out.jpeg"], "out.jpeg: a plot ends in .pdf, .png, .svg"),
        (["--plot", "nowhere/out.png"], "nowhere/out.png: there is no directory"),
    ],
)
def test_wrong_options_are_named(args: list[str], told: str, control: FakeControl) -> None:
    assert failing("profile", "f", *args)[0].startswith(f"error: {told}")
    assert control.asked == []


def test_lists_are_read_as_people_write_them() -> None:
    assert parse_shares("") == []
    assert parse_buckets("") == []
    assert parse_buckets("4, 1") == [4, 1]
    with pytest.raises(InvalidArgument):
        parse_buckets("\u00b2")
