"""torch functions through the whole node, on its CPU device: the answers are torch's own."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from gslice.core.types import FunctionSpec
from gslice.ipc import messages
from tests.node import in_background
from tests.worker_process import CPUS, WorkerProcess

torch = pytest.importorskip("torch", reason="torch is not installed: make test-torch installs it")

from tests import torch_models as models  # noqa: E402  (it needs torch)

ROOT = Path(__file__).parents[2]


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def test_threads_that_torch_makes_while_it_runs_keep_a_new_share() -> None:
    cpus = {str(cpu) for cpu in CPUS}
    if len(cpus) < 2:
        pytest.skip("one core cannot be shared by cores")
    spec = FunctionSpec(
        "wide", engine="torch", python=f"{models.__name__}:Wide", python_path=str(ROOT), threads=2
    )
    with WorkerProcess() as worker:
        worker.serve(spec, 100.0, "threads")
        worker.infer({"x": random(8, 512)})
        reply = worker.request(messages.SetShare(100 / len(cpus)), messages.ShareSet)
        assert reply.share_effective_percent == pytest.approx(100 / len(cpus))
        lanes = [
            int(task.name)
            for task in Path(f"/proc/{worker.pid}/task").iterdir()
            if (task / "comm").read_text().startswith("gslice-lane")
        ]
        assert len(lanes) > spec.lanes  # a thread that another makes has its name
        assert {len(os.sched_getaffinity(lane)) for lane in lanes} == {1}


def test_a_factory_and_an_exported_program_are_served(start_node, tmp_path: Path) -> None:
    rows = torch.export.Dim("rows", min=1, max=8)
    path = models.export(tmp_path, models.Affine(), (torch.zeros(2, 8),), rows)
    node = start_node(
        {
            "made": {
                "torch": f"{models.__name__}:Affine",
                "python_path": str(ROOT),
                "args": {"outputs": 5},
                "batch": {"delay": "20ms"},
            },
            "exported": {"model": str(path), "precision": "bf16"},
            "broken": {"torch": f"{models.__name__}:failing", "python_path": str(ROOT)},
        }
    )
    x = random(4, 8)
    with torch.inference_mode():
        made, exported = (models.Affine(n)(torch.from_numpy(x)).numpy() for n in (5, 3))
    client = node.client()
    calls = [in_background(lambda i=i: client.infer("made", {"x": x[i : i + 1]})) for i in range(4)]
    answers = np.concatenate([call.result(30)["y"] for call in calls])
    np.testing.assert_allclose(answers, made, rtol=1e-5, atol=1e-6)
    answer = client.infer("exported", {"x": x})["output"]
    assert answer.dtype == np.float32  # what is computed with stays inside
    np.testing.assert_allclose(answer, exported, atol=0.05)
    broken = node.function("broken")
    assert broken.state == "FAILED"
    assert broken.reason.endswith("torch_models:failing: RuntimeError: no weights")
