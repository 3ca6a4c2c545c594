"""`gslice record`: the file that it makes, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gslice.client.tensors import encode
from tests.cli import failing, gslice
from tests.fakes.servers import FakeControl, control_message, control_server

pytestmark = pytest.mark.usefixtures("here")


def step(number: int, texts: list[bytes], full: bool = False) -> Any:
    tensors = {"x": np.full((1, 2), number, np.float32), "t": np.array([texts], object)}
    made = control_message("RecordStep", requests=number, full=full)
    for name, array in tensors.items():
        dtype = "FP32" if name == "x" else "BYTES"
        made.inputs.add(name=name, dtype=dtype, shape=array.shape, data=encode(array, dtype))
    return made


@pytest.fixture
def control(state_dir: Path) -> Iterator[FakeControl]:
    fake = FakeControl(control_message("Status"))
    fake.recorded = [control_message("RecordStep"), step(1, [b"one"]), step(2, [b"two"])]
    with control_server(state_dir, fake) as servicer:
        yield servicer


def test_requests_become_samples(control: FakeControl, here: Path) -> None:
    shown = gslice("record", "f", "--requests", "2", "--out", "s.npz", "--duration", "5s").stdout
    assert shown == "2 requests of f in s.npz; use them: warmup: s.npz\n"
    (asked,) = control.asked
    assert (asked.requests, asked.size_bytes, asked.duration_us) == (2, 64 << 20, 5_000_000)
    with np.load(here / "s.npz") as archive:
        found = {name: archive[name].tolist() for name in archive.files}
    assert found == {
        "0/x": [[1.0, 1.0]],
        "0/t": [[b"one"]],
        "1/x": [[2.0, 2.0]],
        "1/t": [[b"two"]],
    }
    assert (here / "s.npz").stat().st_mode & 0o777 == 0o600
    assert failing("record", "f", "--out", "s.npz") == [
        "error: s.npz is there already",
        "hint: name another, or add --force",
    ]


def test_it_is_told_why_there_are_fewer(control: FakeControl) -> None:
    few = gslice("record", "f", "--requests", "9", "--out", "few.npz", "--json")
    assert json.loads(few.stdout) == {"path": "few.npz", "requests": 2}
    assert "no more requests came in 60s" in few.stderr
    control.recorded = [step(1, [b"one"], full=True)]
    full = gslice("record", "f", "--out", "few.npz", "--force", "--max-size", "1KiB")
    assert "what one worker may copy, 1KiB, was full" in full.stderr


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--out", "s.json"], "s.json: samples are kept in an .npz"),
        (["--out", "none/s.npz"], "none is not a directory"),
        (["--out", "s.npz", "--duration", "5"], "'5' has no unit"),
    ],
)
def test_what_cannot_be_written_is_not_recorded(
    control: FakeControl, args: list[str], told: str
) -> None:
    assert failing("record", "f", *args)[0].startswith(f"error: {told}")
    assert control.asked == []


def test_bytes_that_npz_would_cut_off_are_refused(control: FakeControl, here: Path) -> None:
    control.recorded = [step(1, [b"zero\0"])]
    assert "elements that end in a zero byte" in failing("record", "f", "--out", "s.npz")[0]
    assert not (here / "s.npz").exists()
