"""`gslice build` and `gslice cache`: plans before they are needed, and after."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from gslice.cli.build import _environment as environment_of
from gslice.core.errors import FailedPrecondition
from gslice.core.plans import Plan, PlanCache, PlanKey, beyond, default_cache_dir, unused
from gslice.core.types import FunctionSpec
from gslice.device import inventory
from gslice.device.cuda import Gpu
from gslice.device.inventory import Inventory
from tests import models
from tests.cli import failing, gslice
from tests.fakes.tensorrt import install


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PlanCache:
    monkeypatch.setenv("GSLICE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return PlanCache()


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-ins of the packages, for the process that builds."""
    monkeypatch.setenv("PYTHONPATH", install(tmp_path / "packages"))


def node(tmp_path: Path, **functions: dict[str, Any]) -> None:
    model = str(models.affine(tmp_path))
    plain = {name: {"model": model, **body} for name, body in functions.items()}
    text = {"version": 1, "devices": {"cuda:0": {}}, "functions": plain}
    (tmp_path / "node.yaml").write_text(json.dumps(text))


@pytest.mark.usefixtures("library")
def test_a_plan_is_built_for_a_gpu_that_is_not_here(tmp_path: Path, cache: PlanCache) -> None:
    node(tmp_path, f={"engine": "tensorrt_rtx"}, other={})
    first = gslice("build", "--compute-capability", "8.9").stdout
    assert "f" in first
    assert "other" not in first
    assert " built " in first
    assert "was there" in gslice("build", "f", "--compute-capability", "8.9").stdout
    (answer,) = json.loads(gslice("build", "--compute-capability", "8.0", "--json").stdout)
    assert answer["function"] == "f"
    assert answer["built"]
    assert answer["gpu"] == "compute capability 8.0"
    assert [plan.gpu for plan in cache.plans()] == [
        "compute capability 8.0",
        "compute capability 8.9",
    ]


@pytest.mark.usefixtures("library")
def test_what_cannot_be_built_is_told(tmp_path: Path) -> None:
    node(tmp_path, f={"engine": "tensorrt"})
    (error, hint) = failing("build", "--compute-capability", "8.9")
    assert error == "error: function f: tensorrt builds on the GPU that is to run it"
    assert hint.startswith("hint: build it there")
    (tmp_path / "affine.onnx").write_bytes(b"?")
    node_text = (tmp_path / "node.yaml").read_text().replace("tensorrt", "tensorrt_rtx")
    (tmp_path / "node.yaml").write_text(node_text)
    told = failing("build", "--compute-capability", "8.9")
    assert told[-1].startswith("error: function f: tensorrt_rtx: reading ")
    assert told[-1].endswith(
        f"failed: Failed to parse ONNX model from file: {tmp_path / 'affine.onnx'}!"
    )


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("g",), "error: node.yaml has no function g"),
        (("other",), "error: function other: nothing is built of it"),
        (("--compute-capability", "9"), "error: --compute-capability 9: write it as 8.9"),
        (("--device", "cpu"), "error: cpu is no GPU; write --device cuda:0"),
    ],
)
def test_what_makes_no_sense_is_refused(
    tmp_path: Path, arguments: tuple[str, ...], error: str
) -> None:
    node(tmp_path, f={"engine": "tensorrt_rtx"}, other={})
    assert failing("build", *arguments)[0] == error


def test_the_process_that_builds_sees_the_one_gpu_that_is_meant(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpus = {
        "cuda:0": Gpu("GPU-0", "whole", 132, (9, 0), 80 << 30),
        "cuda:1/mig:2": Gpu("MIG-2", "part", 16, (9, 0), 10 << 30),
    }
    monkeypatch.setattr(inventory, "read_inventory", lambda: Inventory(13000, "libcuda", gpus))
    spec = FunctionSpec("f", engine="tensorrt", device="cuda:1/mig:2")
    assert environment_of(spec, "") == {"CUDA_VISIBLE_DEVICES": "MIG-2"}
    assert environment_of(spec, "cuda:0") == {"CUDA_VISIBLE_DEVICES": "GPU-0"}
    with pytest.raises(FailedPrecondition, match="there is no GPU cuda:7"):
        environment_of(spec, "cuda:7")


def test_a_node_without_plans_has_nothing_to_build(tmp_path: Path) -> None:
    node(tmp_path, other={})
    done = gslice("build")
    assert done.stdout == ""
    assert done.stderr == "warning: node.yaml has no function of which a plan is built\n"


# ---- the cache -------------------------------------------------------------------------------


def keep(cache: PlanCache, model: str, size_bytes: int, used_s_ago: float) -> PlanKey:
    key = PlanKey(f"/models/{model}", f"digest of {model}", "tensorrt 10", "H100")
    cache.keep(key, b"x" * size_bytes, 1.5)
    used_s = time.time() - used_s_ago
    os.utime(cache.directory / f"{key.name}.plan", (used_s, used_s))
    return key


def test_plans_are_listed_and_pruned(cache: PlanCache) -> None:
    assert gslice("cache", "ls").stdout.startswith("0 plans, 0 B, in ")
    old = keep(cache, "old.onnx", 1000, 10 * 86_400)
    large = keep(cache, "large.onnx", 5000, 86_400)
    new = keep(cache, "new.onnx", 100, 0)
    cache.keep_compiled(cache.compiled(new, "L4"), b"y" * 11)
    listed = gslice("cache", "ls").stdout.splitlines()
    assert [line.split()[1] for line in listed[1:4]] == ["new.onnx", "large.onnx", "old.onnx"]
    assert listed[4] == f"3 plans, 6.0 KiB, in {cache.directory}"
    as_json = json.loads(gslice("cache", "ls", "--json").stdout)
    assert [plan["size_bytes"] for plan in as_json["plans"]] == [111, 5000, 1000]
    dry = gslice("cache", "prune", "--unused-for", "72h", "--dry-run").stdout
    assert dry.splitlines()[-1] == "1 plan, 1000 B would be freed"
    assert len(cache.plans()) == 3
    told = gslice("cache", "prune", "--unused-for", "72h").stdout
    assert told.splitlines() == [f"{old.name[:12]}  /models/old.onnx  H100", "1 plan, 1000 B freed"]
    gone = json.loads(gslice("cache", "prune", "--to-size", "1KiB", "--json").stdout)
    assert [plan["name"] for plan in gone] == [large.name]
    assert cache.read(new) == b"x" * 100
    gslice("cache", "prune", "--all")
    assert list(cache.directory.iterdir()) == []
    assert failing("cache", "prune")[0].startswith("error: say what may go: ")


def test_leavings_go_and_what_is_being_built_stays(cache: PlanCache) -> None:
    kept = keep(cache, "kept.onnx", 1, 0)
    with cache.alone(kept):
        pass
    cut_off = PlanKey("m", "of a build that was cut off", "tensorrt 10", "H100")
    with cache.alone(cut_off):
        (cache.directory / f"{cut_off.name}.plan").write_bytes(b"no word of it")
    under_way = PlanKey("m", "of a build under way", "tensorrt 10", "H100")
    with cache.alone(under_way):
        (cache.directory / f"{under_way.name}.plan.77").write_bytes(b"half")
        assert cache.read(cut_off) is None
        cache.prune(lambda plans: [])
        names = {path.name.partition(".")[0] for path in cache.directory.iterdir()}
        assert names == {kept.name, under_way.name}
    cache.prune(lambda plans: [])
    names = {path.name.partition(".")[0] for path in cache.directory.iterdir()}
    assert names == {kept.name}


def test_which_plans_are_not_needed() -> None:
    plans = [Plan(str(i), size_bytes=10, used_s=100.0 - i) for i in range(4)]
    assert unused(plans, 2.5, 100.0) == plans[3:]
    assert beyond(plans, 25) == plans[2:]
    assert beyond(plans, 40) == []
    assert beyond(plans, 0) == plans


def test_a_description_that_cannot_be_read_hides_its_plan_only(cache: PlanCache) -> None:
    kept, damaged = keep(cache, "kept.onnx", 1, 0), keep(cache, "damaged.onnx", 1, 0)
    (cache.directory / f"{damaged.name}.json").write_text("{")
    assert [plan.name for plan in cache.plans()] == [kept.name]


def test_where_plans_are_kept(tmp_path: Path) -> None:
    assert default_cache_dir({"GSLICE_CACHE_DIR": "/c", "XDG_CACHE_HOME": "/x"}) == Path("/c")
    assert default_cache_dir({"XDG_CACHE_HOME": "/x"}) == Path("/x/gslice")
    assert default_cache_dir({}) == Path("~/.cache/gslice").expanduser()
