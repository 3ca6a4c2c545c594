"""Blocks of weights that the daemon holds: for whom, how long, and how they count."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gslice.core.types import FunctionSpec, MemoryTaken, ShareBounds
from gslice.ipc.messages import EXIT_DEVICE_LOST, Weights
from gslice.supervise.weights import GpuWeights, added, model_key, saved_bytes, together
from tests.unit.gpu_bench import Bench

MIB = 1 << 20


def spec(folder: Path, name: str = "f", **settings: Any) -> FunctionSpec:
    model = folder / "model.pt2"
    if not model.exists():
        model.write_text("weights")
    return FunctionSpec(name, engine="torch", model=str(model), **settings)


def descriptor() -> int:
    return os.memfd_create("weights")


def is_open(fd: int) -> bool:
    return Path(f"/proc/self/fd/{fd}").exists()


def worker(weights: Weights | None, own_bytes: int = 0, device: str = "cuda:0") -> Any:
    shared_bytes = weights.size_bytes if weights else 0
    memory = MemoryTaken(weights_bytes=own_bytes, shared_bytes=shared_bytes)
    return SimpleNamespace(memory=memory, weights=weights, device=device)


def test_copies_of_a_model_are_known_by_what_makes_its_weights(tmp_path: Path) -> None:
    same = spec(tmp_path)
    model = model_key(same)
    assert model_key(spec(tmp_path, "other", instances=3, batch_max=4)) == model
    assert model_key(spec(tmp_path, share=ShareBounds(10, 20, auto=False))) == model
    assert model_key(spec(tmp_path, precision="fp16")) != model
    assert model_key(spec(tmp_path, channels_last=True)) != model
    assert model_key(spec(tmp_path, environment={"SEED": "1"})) != model
    Path(same.model).write_text("other weights")
    assert model_key(same) != model


def test_another_file_with_the_same_size_and_time_is_another_model(tmp_path: Path) -> None:
    """Archives and images of containers may give all files one time."""
    same = spec(tmp_path)
    os.utime(same.model, (0, 0))
    model = model_key(same)
    other = tmp_path / "other.pt2"
    other.write_text("WEIGHTS")
    os.utime(other, (0, 0))
    other.replace(same.model)
    assert model_key(same) != model


def test_code_counts_too(tmp_path: Path) -> None:
    one = FunctionSpec("f", engine="python", python="mine.tagger:Tagger", python_path=str(tmp_path))
    model = model_key(one)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "tagger.py").write_text("class Tagger: ...")
    assert model_key(one) != model
    package = dataclasses.replace(one, python="mine:Tagger")
    model = model_key(package)
    (tmp_path / "mine" / "__init__.py").write_text("class Tagger: ...")
    assert model_key(package) != model
    assert model_key(FunctionSpec("f", args={"layers": 2})) != model_key(FunctionSpec("f"))


def test_a_block_stays_until_its_last_holder_lets_go() -> None:
    held, one, other, fd = GpuWeights(), object(), object(), descriptor()
    assert held.hold(one, "m") is None
    held.keep(one, Weights("m", 5, "d"), fd, held.epoch)
    block = held.hold(other, "m")
    assert block is not None
    assert (block.fd, block.weights.size_bytes) == (fd, 5)
    held.release(one)
    assert is_open(fd)
    held.release(other)
    assert not is_open(fd)
    assert held.hold(one, "m") is None


def test_a_second_block_of_a_model_is_not_needed() -> None:
    held, one, other, first, second = GpuWeights(), object(), object(), descriptor(), descriptor()
    held.keep(one, Weights("m", 5, "d"), first, held.epoch)
    held.keep(other, Weights("m", 5, "d"), second, held.epoch)
    assert not is_open(second)
    held.release(one)
    assert is_open(first)
    held.release(other)
    assert not is_open(first)


def test_what_was_made_before_a_fault_is_not_kept_after() -> None:
    held, holder, first, late = GpuWeights(), object(), descriptor(), descriptor()
    held.keep(holder, Weights("m", 5, "d"), first, held.epoch)
    epoch = held.epoch
    held.drop()
    assert not is_open(first)
    held.keep(holder, Weights("m", 5, "d"), late, epoch)
    assert not is_open(late)
    assert held.hold(holder, "m") is None


def test_a_load_needs_no_room_for_what_is_there(tmp_path: Path) -> None:
    held, wanted = GpuWeights(), spec(tmp_path)
    memory = MemoryTaken(weights_bytes=MIB, shared_bytes=50 * MIB)
    assert held.to_come(wanted, memory) == memory
    held.keep(held, Weights(model_key(wanted), 50 * MIB, "d"), descriptor(), held.epoch)
    assert held.size_bytes(wanted) == 50 * MIB
    assert held.to_come(wanted, memory) == MemoryTaken(weights_bytes=MIB)
    assert held.size_bytes(spec(tmp_path, precision="bf16")) == 0
    held.drop()


def test_what_sharing_saves_is_a_copy_for_each_but_the_first() -> None:
    three, one = Weights("m", 50 * MIB, "d", 1), Weights("n", 7 * MIB, "d", 2)
    workers = [*(worker(three) for _ in range(3)), worker(one), worker(None, 9 * MIB)]
    assert saved_bytes(workers) == 2 * 50 * MIB
    assert saved_bytes([]) == 0


def test_shared_weights_count_once() -> None:
    shared, other = Weights("m", 50 * MIB, "d"), Weights("n", 7 * MIB, "e")
    first, second = worker(shared, 1), worker(shared, 2)
    assert together([first, second]) == MemoryTaken(weights_bytes=3, shared_bytes=50 * MIB)
    taken = together([first, worker(other), worker(None, 9 * MIB)])
    assert taken == MemoryTaken(weights_bytes=9 * MIB + 1, shared_bytes=57 * MIB)
    assert added([first], [second, worker(other)]).shared_bytes == 7 * MIB
    elsewhere = worker(shared, 4, "cuda:1")
    assert together([first, second, elsewhere]).shared_bytes == 100 * MIB, "each GPU has its own"
    assert (first.memory + second.memory).device_parts["shared_weights"] == 50 * MIB
    assert together([]) == MemoryTaken()


def test_a_fault_drops_all_and_a_lost_device_its_own(tmp_path: Path) -> None:
    async def scene() -> None:
        bench = Bench(tmp_path)
        await bench.gpu.ready()
        held = bench.gpu.weights
        for name in ("m", "n"):
            held.keep(held, Weights(name, MIB, name), descriptor(), held.epoch)
        lost = bench.worker(1)
        lost.weights = Weights("m", MIB, "m")
        await bench.gpu.bury(lost, f"exited with code {EXIT_DEVICE_LOST}")
        assert held.hold(held, "m") is None
        assert held.hold(held, "n") is not None
        killed = bench.worker(2)
        killed.weights = Weights("n", MIB, "n")
        await bench.gpu.bury(killed, "killed by SIGKILL")
        assert held.hold(held, "n") is not None
        bench.mps.fault = True
        await bench.gpu.bury(bench.worker(3), f"exited with code {EXIT_DEVICE_LOST}")
        assert held.hold(held, "n") is None
        await bench.gpu.close()

    asyncio.run(scene())


@pytest.mark.parametrize("already", [0, 50 * MIB])
def test_the_limit_of_a_client_leaves_room_for_what_it_maps(tmp_path: Path, already: int) -> None:
    async def scene() -> None:
        bench = Bench(tmp_path, memory_limit_bytes=200 * MIB)
        await bench.gpu.ready()
        wanted = spec(tmp_path)
        if already:
            weights = Weights(model_key(wanted), already, "d")
            bench.gpu.weights.keep(bench, weights, descriptor(), 0)
            serving = bench.worker(1)
            serving.weights = weights
            serving.memory = MemoryTaken(shared_bytes=already)
        environment = bench.gpu.environment(wanted, 50.0)
        assert environment["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == "0=200M"
        bench.gpu.weights.drop()
        await bench.gpu.close()

    asyncio.run(scene())
