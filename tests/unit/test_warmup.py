"""Warm-up: every bucket runs once; what must run is told from what may fail."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gslice._native import Batch
from gslice.core.errors import LoadFailed
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
