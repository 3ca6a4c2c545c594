"""Workers of a GPU, of stand-ins: what they are started with, and the memory that each took."""

from __future__ import annotations

from pathlib import Path

from tests.fakes.gpu import GIB, FakeGpu
from tests.process.gpu import MPS, on_gpu


def test_workers_that_load_together_are_measured_alone(start_gpu_node, gpu: FakeGpu) -> None:
    gpu.delay("cuMemAlloc_v2", 200_000)  # in which the others would take theirs
    weights = {"weight_bytes": GIB}
    node = start_gpu_node(
        {"two": on_gpu(args=weights, instances=2), "one": on_gpu(args=weights)}, devices=MPS
    )
    for name, instances in (("two", 2), ("one", 1)):
        taken_gib = node.function(name).device_memory_bytes / GIB
        assert instances <= taken_gib < instances + 0.5, name


def test_array_interfaces_do_not_wait_unless_the_user_wants_it(
    start_gpu_node, gpu: FakeGpu
) -> None:
    node = start_gpu_node(
        {"f": on_gpu(environment={"NUMBA_CUDA_ARRAY_INTERFACE_SYNC": "1"})}, devices=MPS
    )
    (pid,) = node.worker_pids("f")
    environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    assert b"CUPY_CUDA_ARRAY_INTERFACE_SYNC=0" in environment
    assert b"NUMBA_CUDA_ARRAY_INTERFACE_SYNC=1" in environment
