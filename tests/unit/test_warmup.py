"""Warm-up: every bucket runs once; what must run is told from what may fail."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gslice._native import Batch
from gslice.cli.recording import add_sample
from gslice.core.errors import InvalidArgument, LoadFailed
from gslice.core.types import FunctionSpec, Signature, TensorSpec
from gslice.worker.warmup import warm_up
from tests.served import PlainEngine

Tensors = tuple[TensorSpec, ...]


def signature(dims: tuple[int, ...], dtype: str = "FP32", **options: object) -> Signature:
    tensors = (TensorSpec("x", dtype, dims),)
    return Signature(tensors, (TensorSpec("y", "FP32", (-1,)),), **options)


class Seen:
    """Remembers the inputs of each run, and refuses what it is told to."""

    def __init__(self, refuse: Callable[[tuple[int, ...]], bool] = lambda shape: False) -> None:
        self.runs: list[tuple[int, tuple[int, ...], object]] = []
        self._refuse = refuse

    def __call__(self, batch: Batch) -> None:
        shape = batch.input_shape(0)
        if self._refuse(shape):
            raise ValueError(f"no {shape}")
        self.runs.append((batch.bucket, shape, batch.input_bytes(0).tobytes()))
        batch.set_output(0, np.zeros(batch.bucket, np.float32))


def warm(shape: Signature, seen: Seen, trusts_zeros: bool = True, **options: object) -> None:
    engine = PlainEngine(shape, seen)
    engine.trusts_zeros = trusts_zeros
    warm_up(engine, FunctionSpec("f", **options), shape)


def test_every_bucket_runs_once_with_zeros() -> None:
    seen = Seen()
    warm(signature((-1, 2), rows_max=4, buckets=(1, 4)), seen)
    assert seen.runs == [(1, (1, 2), bytes(8)), (4, (4, 2), bytes(32))]


def test_without_buckets_one_row_is_enough() -> None:
    seen = Seen()
    warm(signature((-1, 2), rows_max=16), seen)
    assert [run[1] for run in seen.runs] == [(1, 2)]


def test_text_is_warmed_with_empty_elements() -> None:
    seen = Seen()
    warm(signature((-1, 2), "BYTES", rows_max=16), seen)
    assert seen.runs == [(1, (1, 2), bytes(8))]


def test_lengths_are_guessed_until_one_runs(caplog: pytest.LogCaptureFixture) -> None:
    seen = Seen(refuse=lambda shape: shape[1] < 200)
    warm(signature((-1, -1), rows_max=16), seen)
    assert [run[1] for run in seen.runs] == [(1, 224)]
    assert not caplog.records


@pytest.mark.parametrize(
    ("shape", "trusts_zeros"),
    [
        (signature((-1, -1), rows_max=16), True),
        (signature((-1, 2), rows_max=16), False),
        (signature((-1,), "BYTES", rows_max=16), True),
    ],
    ids=["guessed shape", "user's class", "empty text"],
)
def test_a_failure_that_says_little_is_a_line_in_the_log(
    shape: Signature, trusts_zeros: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        warm(shape, Seen(refuse=lambda shape: True), trusts_zeros)
    assert "warm-up with zeros failed" in caplog.text
    assert "ValueError: no (1" in caplog.text


def test_zeros_of_the_only_shape_must_run() -> None:
    with pytest.raises(LoadFailed, match=r"function f fails with a batch of zeros: ValueError: no"):
        warm(signature((-1, 2), rows_max=16), Seen(refuse=lambda shape: True))


@pytest.mark.parametrize(("given", "expected"), [((2,), (3, 2)), ((2, 2), (3, 2))])
def test_a_sample_fills_the_bucket(
    tmp_path: Path, given: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    sample = tmp_path / "sample.npz"
    np.savez(sample, x=np.arange(np.prod(given), dtype=np.float32).reshape(given))
    seen = Seen()
    warm(signature((-1, 2), rows_max=3, buckets=(3,)), seen, warmup=str(sample))
    ((bucket, shape, data),) = seen.runs
    assert (bucket, shape) == (3, expected)
    assert isinstance(data, bytes)
    assert np.frombuffer(data, np.float32)[:2].tolist() == [0, 1]


def test_a_text_sample(tmp_path: Path) -> None:
    sample = tmp_path / "sample.npz"
    np.savez(sample, x=np.array(["ab"]))
    seen = Seen()
    warm(signature((-1,), "BYTES", rows_max=3), seen, warmup=str(sample))
    assert seen.runs == [(1, (1,), b"\x02\x00\x00\x00ab")]


def test_a_sample_must_run(tmp_path: Path) -> None:
    sample = tmp_path / "sample.npz"
    np.savez(sample, x=np.zeros((1, 9), np.float32))
    with pytest.raises(LoadFailed, match=r"function f fails with its sample .*: ValueError: no"):
        warm(signature((-1, -1), rows_max=3), Seen(lambda shape: True), warmup=str(sample))


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        (None, "cannot be read: FileNotFoundError"),
        ({"z": np.zeros((1, 2), np.float32)}, "has no array 'x'"),
        ({"x": np.zeros((1, 3), np.float32)}, r"is float32\[1, 3\], expected FP32\[-1, 2\]"),
        ({"x": np.zeros((1, 2))}, r"is float64\[1, 2\], expected FP32\[-1, 2\]"),
        ({"x": np.zeros((0, 2), np.float32)}, r"is float32\[0, 2\], expected FP32\[-1, 2\]"),
    ],
)
def test_a_sample_that_does_not_fit_is_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray] | None, reason: str
) -> None:
    sample = tmp_path / "sample.npz"
    if arrays is not None:
        np.savez(sample, **arrays)
    with pytest.raises(LoadFailed, match=reason):
        warm(signature((-1, 2), rows_max=3), Seen(), warmup=str(sample))


# ---- several samples ---------------------------------------------------------------------------


def rows(*values: float) -> np.ndarray:
    return np.array([[value, value] for value in values], np.float32)


def first_numbers(seen: Seen) -> list[list[float]]:
    """By run, the first number of each row."""
    return [np.frombuffer(data, np.float32)[::2].tolist() for _, _, data in seen.runs]


@pytest.fixture
def five(tmp_path: Path) -> str:
    """Three samples with five rows in all; the second has no batch dimension."""
    path = tmp_path / "samples.npz"
    np.savez(path, **{"0/x": rows(1, 2), "1/x": rows(3)[0], "2/x": rows(4, 5)})
    return str(path)


def test_samples_fill_each_bucket_as_often_as_they_can(five: str) -> None:
    seen = Seen()
    warm(signature((-1, 2), rows_max=4, buckets=(2, 4)), seen, warmup=five)
    assert first_numbers(seen) == [[1, 2], [3, 4], [5, 1], [1, 2, 3, 4], [5, 1, 2, 3]]


def test_fewer_samples_are_run_where_that_is_asked_for(five: str) -> None:
    seen = Seen()
    warm(signature((-1, 2), rows_max=2, buckets=(2,)), seen, warmup=five, warmup_count=2)
    assert first_numbers(seen) == [[1, 2], [3, 1]]


def test_without_rows_each_sample_runs_by_itself(five: str) -> None:
    seen = Seen()
    warm(signature((-1, 2)), seen, warmup=five, warmup_count=1)
    assert first_numbers(seen) == [[1, 2]]
    with pytest.raises(LoadFailed, match=r"array 'x' of sample 2 of .* is float32\[2\]"):
        warm(signature((-1, 2)), seen, warmup=five)


def test_samples_of_other_shapes_have_batches_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "samples.npz"
    wide = np.full((1, 3), 9, np.float32)
    np.savez(path, **{"0/x": rows(1), "1/x": rows(2), "2/x": wide, "10/x": rows(4)})
    seen = Seen()
    warm(signature((-1, -1), rows_max=2, buckets=(2,)), seen, warmup=str(path))
    assert [shape for _, shape, _ in seen.runs] == [(2, 2), (2, 3), (2, 2)]


class RefusesNumber(Seen):
    """Refuses batches that hold a number."""

    def __init__(self, number: float, more_rows_than: int = 0) -> None:
        super().__init__()
        self._number = number
        self._more_rows_than = more_rows_than

    def __call__(self, batch: Batch) -> None:
        held = np.frombuffer(batch.input_bytes(0).tobytes(), np.float32)
        if self._number in held and len(set(held)) > self._more_rows_than:
            raise ValueError(f"no {self._number:g}")
        super().__call__(batch)


def test_the_sample_that_fails_is_named(five: str) -> None:
    shape = signature((-1, 2), rows_max=4, buckets=(4,))
    with pytest.raises(LoadFailed, match=r"f fails with sample 2 of .*npz: ValueError: no 3$"):
        warm(shape, RefusesNumber(3), warmup=five)
    together = r"f fails with sample 1 of .* to sample 3 of .*: ValueError: no 3$"
    with pytest.raises(LoadFailed, match=together):
        warm(shape, RefusesNumber(3, more_rows_than=2), warmup=five)


def test_samples_in_json(tmp_path: Path) -> None:
    path = tmp_path / "samples.json"
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [[1, 1]]}
    path.write_text(json.dumps([{"inputs": [tensor]}, {"inputs": [tensor | {"data": [2, 2]}]}]))
    seen = Seen()
    warm(signature((-1, 2), rows_max=2, buckets=(2,)), seen, warmup=str(path))
    assert first_numbers(seen) == [[1, 2]]
    text = {"name": "x", "datatype": "BYTES", "shape": [1], "data": ["ab"]}
    path.write_text(json.dumps({"inputs": [text]}))
    seen = Seen()
    warm(signature((-1,), "BYTES", rows_max=3), seen, warmup=str(path))
    assert seen.runs == [(1, (1,), b"\x02\x00\x00\x00ab")]


@pytest.mark.parametrize(
    "text", ["[]", "{}", "nothing", '[{"inputs": [{"name": "x"}]}]', '{"inputs": 3}']
)
def test_json_that_is_no_sample_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "samples.json"
    path.write_text(text)
    with pytest.raises(LoadFailed, match=r"samples.json (cannot be read|holds no sample)"):
        warm(signature((-1, 2), rows_max=3), Seen(), warmup=str(path))


def test_what_was_recorded_is_what_runs(tmp_path: Path) -> None:
    path = tmp_path / "samples.npz"
    assert [add_sample(path, {"x": rows(number)}) for number in (1, 2)] == [1, 2]
    seen = Seen()
    warm(signature((-1, 2), rows_max=1, buckets=(1,)), seen, warmup=str(path))
    assert first_numbers(seen) == [[1], [2]]
    with pytest.raises(InvalidArgument, match="zero byte"):
        add_sample(path, {"x": np.array([b"a\0"], object)})
    np.savez(path, x=rows(1))
    with pytest.raises(InvalidArgument, match="not numbered"):
        add_sample(path, {"x": rows(1)})
    with pytest.raises(InvalidArgument, match=r"kept in an .npz"):
        add_sample(tmp_path / "a.txt", {})
