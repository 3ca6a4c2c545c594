"""The torch engine on the CPU device: what it serves is what torch itself computes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gslice.core.errors import Internal, LoadFailed
from gslice.core.types import FunctionSpec, Signature, TensorSpec
from gslice.device.cpu import CpuDevice
from gslice.worker.engines import make_engine
from tests.served import Served

torch = pytest.importorskip("torch", reason="torch is not installed: make test-torch installs it")

from tests import torch_models as models  # noqa: E402  (it needs torch)

ROOT = str(Path(__file__).parents[2])


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def made(name: str, **options: Any) -> FunctionSpec:
    """A function of a factory in tests/torch_models.py."""
    python = f"{models.__name__}:{name}"
    return FunctionSpec("f", engine="torch", python=python, python_path=ROOT, **options)


def exported(path: Path, **options: Any) -> FunctionSpec:
    return FunctionSpec("f", engine="torch", model=str(path), **options)


def load(spec: FunctionSpec) -> Signature:
    return make_engine("torch").load(spec, CpuDevice((0,), 100.0))


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


def direct(model: Any, *arrays: np.ndarray) -> np.ndarray:
    """What torch answers without gslice."""
    with torch.inference_mode():
        return model.eval()(*(torch.from_numpy(array) for array in arrays)).numpy()


# ---- modules of a factory --------------------------------------------------------------------


def test_a_module_answers_as_torch_does_and_is_batched() -> None:
    requests = [{"x": random(rows, 8)} for rows in (1, 3, 2)]
    with Served(made("Affine", args={"outputs": 5}, lanes=1)) as served:
        assert served.signature == Signature(
            (TensorSpec("x", "FP32", (-1, 8)),), (TensorSpec("y", "FP32", (-1, 5)),), 16
        )
        answers = served.infer_together(requests)
        assert served.pump.counters()["python_calls"] == 1
        served.infer(requests[0])
        assert served.pump.counters()["zero_copy_batches"] == 1  # it runs where the tensors lie
    expected = direct(models.Affine(5), np.concatenate([r["x"] for r in requests]))
    np.testing.assert_allclose(np.concatenate([a["y"] for a in answers]), expected, rtol=1e-6)


def test_inputs_go_by_name_and_outputs_of_unknown_shape_come_back() -> None:
    a, b = random(2, 4), random(2, 4) * 2
    with Served(made("Pair")) as served:
        assert served.signature.rows_max == 0
        answer = served.infer({"a": a, "b": b})
        np.testing.assert_array_equal(answer["total"], a - 2 * b)
        np.testing.assert_array_equal(answer["above"], np.argwhere(a[0] > 0))


def test_bfloat16_goes_in_and_out_as_it_is() -> None:
    x = torch.tensor([[1.5, -2.0]], dtype=torch.bfloat16)
    with Served(made("Half")) as served:
        answer = served.infer({"x": x.view(torch.uint16).numpy()})["x"]
    assert answer.astype(np.float32).tolist() == [[2.5, -1.0]]


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", "bfloat16"), ("fp32", "float32")])
def test_precision_and_channels_last_change_what_is_computed_and_not_the_wire(
    precision: str, dtype: str
) -> None:
    x = random(2, 3, 16, 16)
    model = models.Image()
    expected = direct(model, x)
    spec = made("kept_image", precision=precision, channels_last=True)
    with Served(spec) as served:
        answer = served.infer({"image": x})["score"]
    assert models.kept.pop().seen[-1] == (getattr(torch, dtype), True)
    assert answer.dtype == np.float32
    np.testing.assert_allclose(answer, expected, rtol=0, atol=0.02 if precision == "bf16" else 1e-5)


def test_a_model_that_writes_into_its_inputs_does_it_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After a death the request runs again, so its tensors have to stay as they came."""
    caplog.set_level(logging.INFO)
    x = random(2, 8)
    with Served(made("Overwrites", lanes=1)) as served:
        for _ in range(2):
            np.testing.assert_array_equal(served.infer({"x": x})["x"], np.maximum(x, 0))
    assert [r.message for r in caplog.records].count(
        "the model writes into its inputs, so it gets copies from now on"
    ) == 1


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("raises", "ValueError: unlucky"),
        ("type", r"TypeError: output 'x' is torch.int64, the signature says torch.float32"),
        ("shape", r"ValueError: output 'x' has shape \[1, 1\], the signature says \[1\]"),
        ("count", "ValueError: the model returned 2 outputs, it declares 1"),
        ("name", "ValueError: the model returned no output 'x'"),
        ("no tensor", "TypeError: output 'x' is a float, no tensor"),
    ],
)
def test_what_is_wrong_fails_the_request_and_no_other(kind: str, message: str) -> None:
    with Served(made("Wrong", args={"kind": kind})) as served:
        with pytest.raises(Internal, match=f'^function "f": {message}$'):
            served.infer({"x": np.ones(1, np.float32)})
        assert served.infer({"x": np.zeros(1, np.float32)})["x"].tolist() == [0]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("absent", "{models} has no factory 'absent'"),
        ("not_a_module", "{models}:not_a_module gave a int, not a torch.nn.Module"),
        ("failing", "{models}:failing: RuntimeError: no weights$"),
        ("Mixed", "{models}:Mixed declares no inputs"),
        ("Text", "{models}:Text: tensor 'x' is BYTES, which torch cannot hold"),
        ("Wrong", "{models}:Wrong: TypeError: .*kind"),
    ],
)
def test_a_factory_that_cannot_be_served_says_why(name: str, reason: str) -> None:
    with pytest.raises(LoadFailed, match="function f: " + reason.format(models=models.__name__)):
        load(made(name))


# ---- exported programs -----------------------------------------------------------------------


def test_an_exported_program_answers_as_torch_does(tmp_path: Path) -> None:
    rows = torch.export.Dim("rows", min=1, max=8)
    path = models.export(tmp_path, models.Affine(), (torch.zeros(2, 8),), rows)
    with Served(exported(path)) as served:
        assert served.signature == Signature(
            (TensorSpec("x", "FP32", (-1, 8)),), (TensorSpec("output", "FP32", (-1, 3)),), 8
        )
        x = random(3, 8)
        expected = direct(models.Affine(), x)
        np.testing.assert_allclose(served.infer({"x": x})["output"], expected, rtol=1e-6)
        one = served.infer({"x": x[:1]})["output"]
        np.testing.assert_allclose(one, expected[:1], rtol=1e-5)


def test_names_come_from_the_arguments_and_the_results(tmp_path: Path) -> None:
    rows = torch.export.Dim("rows", max=64)
    x, mask = torch.ones(2, 4), torch.zeros(2, 1)
    path = models.export(tmp_path, models.Mixed(), (x,), rows, mask=mask, flag=True)
    with Served(exported(path)) as served:
        assert [t.name for t in served.signature.inputs] == ["x", "mask"]
        assert served.signature.outputs == (
            TensorSpec("product", "FP32", (-1, 4)),
            TensorSpec("more_0", "INT64", (-1,)),
        )
        assert served.signature.rows_max == 16
        given = {"x": random(3, 4), "mask": np.array([[1], [0], [2]], np.float32)}
        answer = served.infer(given)
        np.testing.assert_array_equal(answer["product"], given["x"] * given["mask"])
        np.testing.assert_array_equal(answer["more_0"], answer["product"].argmax(1))


def test_a_fixed_batch_is_padded_when_asked_for_and_else_served_as_it_is(tmp_path: Path) -> None:
    path = models.export(tmp_path, models.Affine(), (torch.zeros(4, 8),))
    assert load(exported(path)).rows_max == 0
    x = random(1, 8)
    with Served(exported(path, batch_max=4)) as served:
        assert (served.signature.rows_max, served.signature.buckets) == (4, (4,))
        answer = served.infer({"x": x})["output"]
    np.testing.assert_allclose(answer, direct(models.Affine(), x), rtol=1e-5)


def test_a_smallest_batch_is_kept_by_padding(tmp_path: Path) -> None:
    rows = torch.export.Dim("rows", min=4, max=12)
    path = models.export(tmp_path, models.Affine(), (torch.zeros(5, 8),), rows)
    x = random(1, 8)
    with Served(exported(path)) as served:
        assert (served.signature.rows_max, served.signature.buckets) == (12, (4, 8, 12))
        answer = served.infer({"x": x})["output"]
    np.testing.assert_allclose(answer, direct(models.Affine(), x), rtol=1e-5)
    with pytest.raises(LoadFailed, match="takes no batches below 4 rows"):
        load(exported(path, batch_max=2))


def _absent(folder: Path) -> Path:
    return folder / "absent.pt2"


def _damaged(folder: Path) -> Path:
    path = folder / "damaged.pt2"
    path.write_bytes(b"PK nonsense")
    return path


class _Complex(torch.nn.Module):
    def forward(self, x: Any) -> Any:
        return torch.complex(x, x)


def _complex(folder: Path) -> Path:
    return models.export(folder, _Complex(), (torch.zeros(2),))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_absent, "the model .* does not exist"),
        (_damaged, "torch cannot load .*damaged.pt2: .* \\(write it with torch.export.save\\)"),
        (_complex, "output 'output' of .* is of type torch.complex64, which cannot be served"),
    ],
)
def test_a_program_that_cannot_be_served_says_why(
    tmp_path: Path, make: Callable[[Path], Path], reason: str
) -> None:
    with pytest.raises(LoadFailed, match=f"function f: {reason}"):
        load(exported(make(tmp_path)))


def test_the_share_decides_the_threads() -> None:
    for cpus, percent, threads in (((0, 1, 2, 3), 50.0, 2), ((0,), 100.0, 1)):
        engine = make_engine("torch")
        engine.load(made("Affine"), CpuDevice(cpus, percent))
        assert (engine.threads, torch.get_num_threads()) == (threads, threads)
