"""What the fakes leave open of engines: torch's own views, streams and graphs, and other libraries.

Each test serves a function in this process: engine, warm-up, pump and a front-end's data path.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gslice import _native
from gslice.core.types import FunctionSpec
from tests.served import Served

torch = pytest.importorskip("torch", reason="torch is not installed")

from tests import torch_models as models  # noqa: E402  (it needs torch)

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]

ROOT = str(Path(__file__).parents[2])
STEADY_BATCHES = 100


@pytest.fixture
def cuda() -> Iterator[_native.CudaDevice]:
    if not torch.cuda.is_available():
        pytest.skip(f"torch {torch.__version__} finds no GPU")
    device = _native.CudaDevice(0, 2)
    yield device
    device.close()


def made(name: str, **options: Any) -> FunctionSpec:
    python = f"{models.__name__}:{name}"
    return FunctionSpec("f", engine="torch", python=python, python_path=ROOT, **options)


def user(name: str, **options: Any) -> FunctionSpec:
    python = f"tests.gpu.functions.arrays:{name}"
    return FunctionSpec("f", engine="python", python=python, python_path=ROOT, **options)


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


def direct(model: Any, array: np.ndarray) -> np.ndarray:
    """What torch answers on the GPU without gslice."""
    with torch.inference_mode():
        return model.eval().cuda()(torch.from_numpy(array).cuda()).cpu().numpy()


def has_handles() -> bool:
    return hasattr(torch.cuda.CUDAGraph, "raw_cuda_graph_exec")


# ---- torch -----------------------------------------------------------------------------------


def test_graphs_answer_as_torch_does_in_every_bucket_and_lane(cuda: _native.CudaDevice):
    x = random(8, 8)
    expected = direct(models.Affine(), x)
    with Served(made("Affine", batch_max=8), cuda=cuda) as served:
        before = served.pump.counters()
        for rows in (1, 2, 3, 5, 8, 7, 1):
            answer = served.infer({"x": x[:rows]})["y"]
            np.testing.assert_allclose(answer, expected[:rows], rtol=1e-4, atol=1e-5)
        requests = [{"x": x[i : i + 1]} for i in range(8)] * 2
        answers = served.infer_together(requests)  # two batches, in both lanes
        for i, answer in enumerate(answers):
            np.testing.assert_allclose(answer["y"], expected[i % 8][None], rtol=1e-4, atol=1e-5)
        after = served.pump.counters()
    batches = after["batches"] - before["batches"]
    calls = after["python_calls"] - before["python_calls"]
    assert calls == (0 if has_handles() else batches)
    assert after["graph_launches"] - before["graph_launches"] == batches - calls


def test_steady_state_neither_waits_nor_allocates(cuda: _native.CudaDevice):
    x = {"image": random(4, 3, 16, 16)}
    with Served(made("Image", batch_max=4), cuda=cuda) as served:
        served.infer(x)
        before, held = served.pump.counters(), torch.cuda.memory_reserved()
        for _ in range(STEADY_BATCHES):
            served.infer(x)
        after = served.pump.counters()
        assert torch.cuda.memory_reserved() == held
    for name in ("synchronise_calls", "allocations", "lane_buffer_allocations"):
        assert after[name] == before[name], name


@pytest.mark.parametrize("precision", ["auto", "fp16", "bf16"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_images_in_every_precision(cuda: _native.CudaDevice, precision: str, channels_last: bool):
    x = random(3, 3, 16, 16)
    spec = made("kept_image", precision=precision, channels_last=channels_last)
    with Served(spec, cuda=cuda) as served:
        answer = served.infer({"image": x})["score"]
    dtype, is_last = models.kept.pop().seen[-1]
    wanted = {"auto": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    assert dtype == wanted
    assert is_last == channels_last
    np.testing.assert_allclose(answer, direct(models.Image(), x), atol=0.03)


def test_bfloat16_lies_in_the_lane_as_it_is(cuda: _native.CudaDevice):
    x = torch.tensor([[1.5, -2.0]], dtype=torch.bfloat16)
    with Served(made("Half"), cuda=cuda) as served:
        answer = served.infer({"x": x.view(torch.uint16).numpy()})["x"]
    assert answer.astype(np.float32).tolist() == [[2.5, -1.0]]


def test_a_program_exported_on_the_cpu_runs_on_the_gpu(cuda: _native.CudaDevice, tmp_path: Path):
    rows = torch.export.Dim("rows", min=1, max=8)
    path = models.export(tmp_path, models.Positions(), (torch.zeros(2, 8),), rows)
    x = random(3, 8)
    with Served(FunctionSpec("f", engine="torch", model=str(path)), cuda=cuda) as served:
        assert served.signature.buckets == (1, 2, 4, 8)
        answer = served.infer({"x": x})["output"]
    np.testing.assert_allclose(answer, x + np.arange(8, dtype=np.float32), rtol=1e-6)


def test_what_cannot_be_captured_runs_as_a_call(
    cuda: _native.CudaDevice, caplog: pytest.LogCaptureFixture
):
    x = random(2, 8)
    with Served(made("Waits", batch_max=2), cuda=cuda) as served:
        np.testing.assert_allclose(served.infer({"x": x})["x"], x * 2)
        assert served.pump.counters()["python_calls"] == 1
        assert torch.cuda.current_stream() == torch.cuda.default_stream()
    (refusal,) = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert refusal.startswith("nothing more is captured, for a batch of 1 rows cannot be: ")


def test_random_numbers_are_new_in_every_batch(cuda: _native.CudaDevice):
    x = np.zeros((1, 8), np.float32)
    with Served(made("Noise", batch_max=1), cuda=cuda) as served:
        first, second = (served.infer({"x": x})["x"] for _ in range(2))
        assert served.pump.counters()["python_calls"] == 2  # torch itself replays
    assert not np.array_equal(first, second)


def test_outputs_of_unknown_shape_come_back(cuda: _native.CudaDevice):
    a, b = random(2, 2, 4)
    with Served(made("Pair"), cuda=cuda) as served:
        for _ in range(3):
            answer = served.infer({"a": a, "b": b})
            np.testing.assert_allclose(answer["total"], a - 2 * b, rtol=1e-6)
            np.testing.assert_array_equal(answer["above"], np.argwhere(a[0] > 0))


def test_a_model_that_does_not_fit_says_so(cuda: _native.CudaDevice):
    from gslice.core.errors import LoadFailed

    with pytest.raises(LoadFailed, match=r"cannot be put on cuda:0: .*[Oo]ut ?[Oo]f ?[Mm]emory"):
        Served(made("Huge", args={"gib": 1024}), cuda=cuda)


# ---- the user's class ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "library"),
    [
        ("TorchScale", "torch"),
        ("TorchElsewhere", "torch"),
        ("CupyScale", "cupy"),
        ("CupyLegacy", "cupy"),
        ("NumbaScale", "numba"),
        ("NumbaDefault", "numba"),
    ],
)
def test_libraries_take_the_inputs_and_give_the_outputs(
    cuda: _native.CudaDevice, name: str, library: str
):
    pytest.importorskip(library, reason=f"{library} is not installed")
    x = random(64, 1 << 14)
    with Served(user(name), cuda=cuda) as served:
        for scale in (1, 2, 3):
            answer = served.infer({"x": x * scale})
            np.testing.assert_allclose(answer["y"], x * scale * 2, rtol=1e-6)
