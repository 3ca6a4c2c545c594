"""The torch engine on a GPU of stand-ins, with torch's CPU in place of its GPU.

Run by test_engines_gpu.py, in a process that finds only these.
"""

from __future__ import annotations

import ctypes
import logging
import os
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gslice import _native
from gslice.core.errors import LoadFailed
from gslice.core.types import FunctionSpec, Signature, TensorSpec
from gslice.ipc.messages import Measure
from gslice.worker.engines import make_engine
from gslice.worker.gpu import GpuDevice
from gslice.worker.timing import Timing
from gslice.worker.weights import WeightStore
from tests.served import Served

ROOT = str(Path(__file__).parents[2])


def torch_served(
    cuda: _native.CudaDevice,
    name: str,
    graphs: str,
    store: WeightStore | None = None,
    **options: Any,
) -> Any:
    pytest.importorskip("torch", reason="torch is not installed")
    from gslice.worker.engines.torch_engine import TorchEngine
    from tests.fakes.torch_gpu import FakeGpuMemory

    memory = FakeGpuMemory(graphs)
    spec = FunctionSpec(
        "f", engine="torch", python=f"tests.torch_models:{name}", python_path=ROOT, **options
    )
    served = Served(spec, TorchEngine(lambda _: memory), cuda, store)
    return served, memory


@pytest.mark.parametrize("graphs", ["handle", "replay", "refused"])
def test_torch_answers_the_same_with_and_without_graphs(
    cuda: _native.CudaDevice, graphs: str, caplog: pytest.LogCaptureFixture
) -> None:
    x = np.random.default_rng(5).standard_normal((7, 8)).astype(np.float32)
    served, memory = torch_served(cuda, "Affine", graphs, batch_max=8)
    with served:
        buckets = (1, 2, 4, 8)
        assert served.signature == Signature(
            (TensorSpec("x", "FP32", (-1, 8)),), (TensorSpec("y", "FP32", (-1, 3)),), 8, buckets
        )
        answers = [served.infer({"x": x[:rows]})["y"] for rows in (7, 1, 3, 2, 7)]
        counters = served.pump.counters()
        tids = served.pump.lane_tids()
    expected = torch_affine(x)
    for answer in answers:
        np.testing.assert_allclose(answer, expected[: len(answer)], rtol=1e-5)
    captures = [(lane, bucket) for lane in range(2) for bucket in buckets]
    assert memory.captured == ([] if graphs == "refused" else captures)
    assert memory.ran == [each for each in captures for _ in range(2)]
    assert counters["batches"] == 5
    # The pump replays by itself what it has a handle of, and then needs no threads for Python.
    assert counters["python_calls"] == (0 if graphs == "handle" else 5)
    assert (len(tids) == 0) == (graphs == "handle")
    refusals = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert refusals == (
        [
            "nothing more is captured, for a batch of 1 rows cannot be: RuntimeError: "
            "operation not permitted when stream is capturing"
        ]
        if graphs == "refused"
        else []
    )


@pytest.mark.parametrize("graphs", ["handle", "replay", "refused"])
def test_torch_is_measured_as_it_is_served(cuda: _native.CudaDevice, graphs: str) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    from gslice.worker.engines.torch_engine import TorchEngine
    from tests.fakes.torch_gpu import FakeGpuMemory

    memory, store = FakeGpuMemory(graphs), WeightStore(cuda)
    spec = FunctionSpec(
        "f", engine="torch", python="tests.torch_models:Affine", python_path=ROOT, batch_max=8
    )
    engine = TorchEngine(lambda _: memory)
    signature = engine.load(spec, GpuDevice(cuda, (0,), store))
    times = Timing(engine, spec, signature, cuda).measure(Measure(4, 3))
    assert (times.bucket, len(times.each_us)) == (4, 3)
    assert memory.captured == ([] if graphs == "refused" else [(0, 4)])
    assert memory.ran == [(0, 4)] * (2 + 1 + 3)
    is_plain = engine.callable(0, 4) is engine.callable(0, 8)
    assert is_plain == (graphs == "refused"), "a graph is replayed, not run anew"
    assert isinstance(engine.prepare(0, 4), _native.CudaGraph) == (graphs == "handle")
    engine.close()
    store.close()


@pytest.mark.parametrize("options", [{}, {"precision": "bf16"}, {"channels_last": True}])
def test_torch_has_its_parameters_where_other_workers_have_them(
    cuda: _native.CudaDevice, options: dict[str, Any]
) -> None:
    image = np.random.default_rng(9).standard_normal((2, 3, 16, 16)).astype(np.float32)
    makes = WeightStore(cuda, "model")
    first, _ = torch_served(cuda, "Image", "replay", makes, **options)
    with first:
        expected = first.infer({"image": image})["score"]
        assert makes.shared is not None
        assert makes.made_bytes == makes.shared.size_bytes
        shared, fd = makes.shared, os.dup(makes.fd)  # which is enough to keep them
    takes = WeightStore(cuda, "model", shared, fd)
    second, _ = torch_served(cuda, "Image", "replay", takes, **options)
    with second:
        assert (takes.shared, takes.made_bytes, takes.own) == (shared, 0, "")
        np.testing.assert_array_equal(second.infer({"image": image})["score"], expected)
    os.close(fd)


def test_parameters_lie_as_their_module_had_them(cuda: _native.CudaDevice) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from gslice.worker.engines.torch_weights import place_parameters
    from tests.fakes.torch_gpu import FakeGpuMemory

    module = torch.nn.Module()
    module.last = torch.nn.Parameter(
        torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last), requires_grad=False
    )
    module.brain = torch.nn.Parameter(torch.randn(5).bfloat16())
    module.tied = module.brain
    module.scalar = torch.nn.Parameter(torch.tensor(3.0))
    module.gaps = torch.nn.Parameter(torch.randn(4, 4)[:, ::2])
    module.empty = torch.nn.Parameter(torch.empty(0))
    module.register_buffer("buffer", torch.ones(2))
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    strides = {name: p.stride() for name, p in module.named_parameters()}
    store = WeightStore(cuda, "model")
    place_parameters(module, FakeGpuMemory(), store)
    assert store.shared is not None
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name])
        if name != "gaps":
            assert parameter.stride() == strides[name]
        if name != "empty":
            assert parameter.data_ptr() % 256 == 0
    assert module.tied is module.brain
    module.buffer.add_(1)  # is the module's own
    del module
    store.close()


def test_torch_is_put_back_on_its_stream_after_a_capture_that_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from gslice.worker.engines.torch_cuda import CudaMemory

    current = ["default"]

    class Capture:
        """As torch.cuda.graph: the end of the capture fails before the stream is left."""

        def __init__(self, graph: object, stream: str, **_: object) -> None:
            self.stream = stream

        def __enter__(self) -> None:
            current[0] = self.stream

        def __exit__(self, *_: object) -> None:
            raise RuntimeError("the capture was invalidated")

    for name, stand_in in {
        "is_available": lambda: True,
        "ExternalStream": lambda handle, device: f"stream {handle}",
        "CUDAGraph": lambda: None,
        "default_generators": [None],
        "graph_pool_handle": lambda: (0, 1),
        "current_stream": lambda device: current[0],
        "set_stream": lambda stream: current.__setitem__(0, stream),
        "graph": Capture,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    memory = CudaMemory(types.SimpleNamespace(name="H100", ordinal=0))  # type: ignore[arg-type]
    batch: Any = types.SimpleNamespace(lane=0, stream=7)
    with pytest.raises(RuntimeError, match="the capture was invalidated"):
        memory.capture(batch, lambda _: None)
    assert current == ["default"]


def test_torch_runs_shapes_that_it_does_not_know_ahead_as_a_call(
    cuda: _native.CudaDevice,
) -> None:
    a, b = (np.random.default_rng(6).standard_normal((2, 2, 4))).astype(np.float32)
    served, memory = torch_served(cuda, "Pair", "handle")
    with served:
        answer = served.infer({"a": a, "b": b})
        assert served.pump.counters()["python_calls"] == 1
    assert memory.captured == []
    np.testing.assert_array_equal(answer["total"], a - 2 * b)
    np.testing.assert_array_equal(answer["above"], np.argwhere(a[0] > 0))


def test_a_torch_without_cuda_says_so(cuda: _native.CudaDevice) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if torch.version.cuda is not None:
        pytest.skip("this torch has CUDA")
    spec = FunctionSpec("f", engine="torch", model="m.pt2")
    with pytest.raises(LoadFailed, match=r"cannot use NVIDIA H100 .*: it is built without CUDA"):
        make_engine("torch").load(spec, GpuDevice(cuda, (0,), WeightStore(cuda)))


def test_a_lane_elsewhere_has_graphs_there_and_those_left_go() -> None:
    groups = _native.SmGroups(0)
    cuda = _native.CudaDevice(0, 2, groups=groups, chosen=[0])
    x = np.random.default_rng(5).standard_normal((3, 8)).astype(np.float32)
    served, memory = torch_served(cuda, "Affine", "handle", batch_max=4)
    with served:
        for chosen in ([1, 2], [3]):
            left = range(cuda.first_lane, cuda.first_lane + 2)
            served.move(groups, chosen)
            assert memory.forgotten == list(left)
            assert memory.captured[-1][0] == cuda.first_lane + 1
            np.testing.assert_allclose(served.infer({"x": x})["y"], torch_affine(x), rtol=1e-5)
        assert served.pump.counters()["python_calls"] == 0
        assert memory.trimmed == 3  # after the load, and of what each move left
    assert memory.trimmed == 4
    cuda.close()
    groups.close()


def torch_affine(x: np.ndarray) -> np.ndarray:
    import torch

    from tests.torch_models import Affine

    with torch.inference_mode():
        return Affine()(torch.from_numpy(x)).numpy()


assert ctypes.CDLL("libcuda.so.1"), "run by test_engines_gpu.py"
