from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.cli import failing, gslice, read_all
from tests.fakes.servers import FakeKServe, kserve_server

pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture
def echo() -> Iterator[tuple[FakeKServe, str]]:
    servicer = FakeKServe([("X", "TYPE_FP32", [4]), ("T", "TYPE_STRING", [1])])
    with kserve_server(servicer) as address:
        yield servicer, address


def test_infer_takes_values_in_order_and_by_name(echo: tuple[FakeKServe, str]) -> None:
    _, address = echo
    args = ["infer", "echo", "--grpc", address, "--json"]
    for values in (
        ["[[1, 2, 3, 4]]", "hi"],
        ["T=hi", "X=[1, 2, 3, 4]"],
        ['{"X": [1, 2, 3, 4], "T": ["hi"]}'],
    ):
        shown = json.loads(gslice(*args, *values).stdout)
        assert shown["outputs"] == {
            "out_X": {"dtype": "FP32", "shape": [1, 4], "values": [[1.0, 2.0, 3.0, 4.0]]},
            "out_T": {"dtype": "BYTES", "shape": [1, 1], "values": [["hi"]]},
        }


def test_infer_makes_up_what_is_not_given(echo: tuple[FakeKServe, str]) -> None:
    _, address = echo
    told = gslice("infer", "echo", "--grpc", address).stdout.splitlines()
    assert told[0] == "made-up inputs: X FP32 1x4, T BYTES 1x1"
    shown = json.loads(gslice("infer", "echo", "--grpc", address, "--json").stdout)
    assert shown["outputs"]["out_T"]["values"] == [["gslice"]]
    assert shown["outputs"]["out_X"]["shape"] == [1, 4]


def test_infer_reads_and_writes_files(echo: tuple[FakeKServe, str], here: Path) -> None:
    _, address = echo
    np.save(here / "x.npy", np.arange(4, dtype=np.float32))
    (here / "t.bin").write_bytes(b"some\x00bytes")
    shown = gslice("infer", "echo", "x.npy", "t.bin", "--grpc", address, "--out", "o.npz").stdout
    assert shown.splitlines()[1].split() == ["out_X", "FP32", "1x4", "0", "1", "2", "3"]
    with np.load(here / "o.npz") as saved:
        assert saved["out_X"].tolist() == [[0, 1, 2, 3]]
        assert saved["out_T"].tolist() == [[b"some\x00bytes"]]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (["[1,2,3,4]"], "error: no value for input T"),
        (["1", "2", "3"], "error: '3' is one input too many"),
        (["x.npy", "hi"], "error: there is no file x.npy"),
        (["nonsense", "hi"], "error: 'nonsense' is no file and no JSON"),
        (['{"Y": 1}'], "error: there is no input 'Y'"),
        (['["a"]', "hi"], "error: input 'X' does not fit FP32"),
        (["a.png", "hi"], "error: input 'X' has shape [-1, 4], which no image fits"),
    ],
)
def test_wrong_inputs_are_named(echo: tuple[FakeKServe, str], values: list[str], told: str) -> None:
    (line, *_) = failing("infer", "echo", "--grpc", echo[1], *values)
    assert line.startswith(told)


def test_text_longer_than_a_file_name_is_text(echo: tuple[FakeKServe, str]) -> None:
    long = "x" * 5000
    shown = gslice("infer", "echo", "[1,2,3,4]", long, "--grpc", echo[1], "--json")
    assert json.loads(shown.stdout)["outputs"]["out_T"]["values"] == [[long]]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["bad.npz"], "error: bad.npz is not a .npz file: File is not a zip file"),
        (["folder.json"], "error: folder.json: Is a directory"),
        (["bad.json"], "error: bad.json is not JSON: Expecting value: line 1 column 6 (char 5)"),
        (["x.npy", "hi"], "error: input 'X' does not fit FP32: 1e+300 would become inf"),
        (["1", "hi", "--labels", "latin.txt"], "error: latin.txt is not UTF-8 text"),
        (["1", "hi", "--labels", "none.txt"], "error: there is no file none.txt"),
        (["[1,2,3,4]", "hi", "--out", "no/o.npz"], "error: no/o.npz: No such file or directory"),
    ],
)
def test_files_that_cannot_be_used_are_named(
    echo: tuple[FakeKServe, str], here: Path, arguments: list[str], told: str
) -> None:
    (here / "bad.npz").write_bytes(b"PK\x03\x04 no zip")
    (here / "folder.json").mkdir()
    (here / "bad.json").write_text('{"a":')
    (here / "latin.txt").write_bytes(b"\xe9\n")
    np.save(here / "x.npy", np.full(4, 1e300))
    assert failing("infer", "echo", "--grpc", echo[1], *arguments) == [told]


def test_an_answer_is_written_whole_or_not_at_all(echo: tuple[FakeKServe, str], here: Path) -> None:
    (here / "t.bin").write_bytes(b"ends in\0")
    args = ["infer", "echo", "[1,2,3,4]", "t.bin", "--grpc", echo[1]]
    assert failing(*args, "--out", "o.npz") == [
        "error: output 'out_T' has elements that end in a zero byte, which .npz would cut off",
        "hint: --json shows them whole",
    ]
    assert not (here / "o.npz").exists()
    shown = json.loads(gslice(*args, "--json").stdout)
    assert shown["outputs"]["out_T"]["values"] == [["ends in\0"]]


def test_json_shows_bytes_that_are_no_text(echo: tuple[FakeKServe, str], here: Path) -> None:
    (here / "t.bin").write_bytes(b"\xff\0")
    args = ["infer", "echo", "[1,2,3,4]", "t.bin", "--grpc", echo[1], "--json"]
    shown = json.loads(gslice(*args).stdout)
    assert shown["outputs"]["out_T"]["values"] == [[{"b64": "/wA="}]]


def test_scores_are_shown_by_their_highest(here: Path) -> None:
    np.save(here / "x.npy", np.array([0, 9, 3, 0, 0, 0, 7, 0, 0], np.float32))
    (here / "labels.txt").write_text("cat\ndog\nowl\n")
    with kserve_server(FakeKServe([("X", "TYPE_FP32", [9])])) as address:
        shown = gslice(
            *("infer", "echo", "x.npy", "--grpc", address, "--top", "2"),
            *("--labels", "labels.txt"),
        ).stdout.splitlines()
    assert shown[1].split()[-2:] == ["dog:", "9"]
    assert shown[2].split() == ["6:", "7"]


@pytest.mark.parametrize(
    ("dims", "dtype", "shape"),
    [
        ([3, 2, 4], "TYPE_FP32", [1, 3, 2, 4]),
        ([2, 4, 3], "TYPE_UINT8", [1, 2, 4, 3]),
        ([-1, -1, 3], "TYPE_UINT8", [1, 6, 8, 3]),
        ([1, 6, 8], "TYPE_FP32", [1, 1, 6, 8]),
    ],
)
def test_images_are_laid_out_as_the_input_is(
    here: Path, dims: list[int], dtype: str, shape: list[int]
) -> None:
    from PIL import Image

    Image.new("RGB", (8, 6), (255, 0, 0)).save(here / "red.png")
    with kserve_server(FakeKServe([("X", dtype, dims)])) as address:
        shown = json.loads(gslice("infer", "echo", "red.png", "--grpc", address, "--json").stdout)
    output = shown["outputs"]["out_X"]
    assert output["shape"] == shape
    values = np.array(output["values"])
    if shape[-1] == 3:
        assert values.reshape(-1, 3)[0].tolist() == [255, 0, 0]
    elif shape[1] == 3:
        assert values[0, :, 0, 0].tolist() == [1.0, 0.0, 0.0]
    else:
        assert 0 < values[0, 0, 0, 0] < 1


@pytest.mark.parametrize("loop", [["--rate", "200"], ["--concurrency", "2"]])
def test_bench(echo: tuple[FakeKServe, str], loop: list[str]) -> None:
    servicer, address = echo
    args = ["bench", "echo", *loop, "--duration", "300ms", "--batch", "2", "--grpc", address]
    report = json.loads(gslice(*args, "--json").stdout)
    assert report["loop"] == ("open" if loop[0] == "--rate" else "closed")
    assert report["ok"] == len(servicer.requests) - 1 > 0  # the first is not counted
    assert report["errors"] == {}
    assert report["latency_us"]["p50"] <= report["latency_us"]["p99"] <= report["latency_us"]["max"]
    assert report["rows_per_s"] == pytest.approx(2 * report["rate_per_s"], abs=0.02)
    assert {tuple(tensor.shape) for tensor in servicer.requests[-1].inputs} == {(2, 4), (2, 1)}


def test_bench_counts_errors_by_their_class(echo: tuple[FakeKServe, str]) -> None:
    servicer, address = echo
    servicer.fail_every = 3
    result = gslice("bench", "echo", "--concurrency", "1", "--duration", "200ms", "--grpc", address)
    assert "x ResourceExhausted: no slot is free" in result.stderr
    head, row = result.stdout.splitlines()[1:3]
    assert head.split()[:3] == ["RATE/S", "OK", "ERRORS"]
    assert int(row.split()[2]) == len(servicer.requests) // 3


def test_bench_shows_how_far_it_is_on_a_terminal(echo: tuple[FakeKServe, str]) -> None:
    command = ["bench", "echo", "--concurrency", "2", "--duration", "700ms", "--grpc", echo[1]]
    master, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 120))
    environment = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    with subprocess.Popen(
        [sys.executable, "-m", "gslice", *command],
        stdin=subprocess.DEVNULL,
        stdout=terminal,
        stderr=terminal,
        env={**environment, "TERM": "xterm"},
        start_new_session=True,
    ) as bench:
        os.close(terminal)
        screen = read_all(master).decode()
        assert bench.wait(60) == 0, screen
    assert re.search(r"echo.*[━╸╺].*\d+/s  p99 \d", screen), screen
    assert "\x1b[2K" in screen, "the bar was not taken away"
    assert re.search(r"RATE/S .*P99\.9 ", re.sub(r"\x1b\[[0-9;]*m", "", screen)), screen


def test_bench_of_nothing(echo: tuple[FakeKServe, str]) -> None:
    args = ["bench", "nope", "--rate", "1", "--grpc", echo[1]]
    assert failing(*args) == ["error: no function is called nope"]


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--batch", "9"], "error: --batch 9: the function takes at most 8 rows"),
        (["--shape", "Z=1"], "error: --shape Z=1: there is no input 'Z'"),
        (["--shape", "X=1"], "error: --shape X=1: does not fit X, whose shape is [-1, 4]"),
        (["--shape", "X=a,b"], "error: --shape X=a,b: not a shape; write it as X=1,3,224,224"),
    ],
)
def test_wrong_load_is_named(echo: tuple[FakeKServe, str], args: list[str], told: str) -> None:
    assert failing("bench", "echo", "--rate", "1", "--grpc", echo[1], *args)[0] == told
