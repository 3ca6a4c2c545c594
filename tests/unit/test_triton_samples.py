"""`model_warmup` of a repository: samples that a function is warmed up with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gslice.core.elements import encode_elements
from gslice.core.types import FunctionSpec
from gslice.triton.warmup import write_samples
from gslice.worker.samples import read_samples
from tests.unit.triton_bench import X, read, refused

SAMPLE = 'model_warmup {{ name: "a" batch_size: 1 inputs {{ key: "x" value {{ {0} }} }} }}\n'
FP32 = "data_type: TYPE_FP32 dims: [ 2, 3 ]"


def sample(folder: Path, value: str) -> np.ndarray | None:
    found = read(folder, SAMPLE.format(value)).samples
    return found[0]["x"] if found else None


def test_zeros_are_what_warms_up_anyway(tmp_path: Path) -> None:
    config = X + SAMPLE.format("data_type: TYPE_FP32 dims: 8 zero_data: true")
    assert read(tmp_path, config).samples == []


def test_zeros_say_the_length_that_the_model_leaves_open(tmp_path: Path) -> None:
    config = X.replace("8", "-1") + SAMPLE.format("data_type: TYPE_FP32 dims: 8 zero_data: true")
    (found,) = read(tmp_path, config).samples
    assert found["x"].tolist() == [0.0] * 8


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [("FP32", "float32"), ("INT64", "int64"), ("BOOL", "bool"), ("BF16", "uint16")],
)
def test_random_data(tmp_path: Path, dtype: str, kind: str) -> None:
    array = sample(tmp_path, f"data_type: TYPE_{dtype} dims: [ 16, 4 ] random_data: true")
    assert array is not None
    assert (array.dtype, array.shape) == (np.dtype(kind), (16, 4))
    assert len(np.unique(array)) > 1
    assert dtype == "BF16" or array.max() <= 1


def test_data_of_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "m/warmup"
    folder.mkdir(parents=True)
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    (folder / "raw").write_bytes(values.tobytes())
    array = sample(tmp_path, f'{FP32} input_data_file: "raw"')
    assert array is not None
    np.testing.assert_array_equal(array, values)


def test_text_of_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "m/warmup"
    folder.mkdir(parents=True)
    (folder / "raw").write_bytes(encode_elements(["one", "three"]))
    array = sample(tmp_path, 'data_type: TYPE_STRING dims: 2 input_data_file: "raw"')
    assert array is not None
    assert array.tolist() == [b"one", b"three"]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (f'{FP32} input_data_file: "none"', "No such file"),
        (f'{FP32} input_data_file: "short"', "holds 1 elements"),
        (f'{FP32} input_data_file: "odd"', "multiple of element size"),
        ("data_type: TYPE_FP32 dims: [ -1 ] zero_data: true", "dims that are known"),
        ("dims: [ 1 ] zero_data: true", "needs a data_type"),
        (f"data_type: TYPE_FP32 dims: [ 1, {1 << 28}, 2 ] zero_data: true", "more than 1GiB"),
        (f"data_type: TYPE_FP32 dims: [ {(1 << 63) - 1} ] zero_data: true", "more than 1GiB"),
        (f'{FP32} input_data_file: "../config.pbtxt"', "'../config.pbtxt' is not in warmup"),
        (f'{FP32} input_data_file: "/etc/hostname"', "'/etc/hostname' is not in warmup"),
    ],
)
def test_samples_that_are_refused(tmp_path: Path, value: str, reason: str) -> None:
    folder = tmp_path / "m/warmup"
    folder.mkdir(parents=True)
    (folder / "short").write_bytes(bytes(4))
    (folder / "odd").write_bytes(bytes(5))
    assert reason in refused(tmp_path, SAMPLE.format(value)).message


def test_all_samples_are_taken(tmp_path: Path) -> None:
    one = SAMPLE.format(f"{FP32} random_data: true")
    zeros = SAMPLE.format(f"{FP32} zero_data: true").replace("batch_size: 1", "count: 5")
    found = read(tmp_path, one + zeros)
    assert [note.setting for note in found.notes] == ["model_warmup.count"]
    path = tmp_path / "both.npz"
    write_samples(path, found.samples)
    chosen = read_samples(FunctionSpec("f", warmup=str(path)))
    assert [each.arrays["x"].shape for each in chosen] == [(2, 3), (2, 3)]
    assert [bool(each.arrays["x"].any()) for each in chosen] == [True, False]


def test_a_sample_is_written_once(tmp_path: Path) -> None:
    path = tmp_path / "new/f.npz"
    given = {"x": np.arange(3, dtype=np.int64), "file": np.array([b"text"])}
    write_samples(path, [given])
    with np.load(path) as archive:
        assert {name: archive[name].tolist() for name in archive.files} == {
            "x": [0, 1, 2],
            "file": [b"text"],
        }
    before = path.stat().st_ino
    write_samples(path, [given])
    assert path.stat().st_ino == before
    held = path.open()  # so that its inode is not given to another file
    write_samples(path, [{"x": np.zeros(1)}])
    assert path.stat().st_ino != before
    held.close()
