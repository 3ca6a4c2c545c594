"""Plans of TensorRT: what is built, what is kept, and what is said when the library refuses."""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
import threading
from pathlib import Path
from typing import Any

import onnx
import pytest

from gslice.core.errors import Internal, LoadFailed
from gslice.core.plans import PlanCache
from gslice.core.types import FunctionSpec, Signature, TensorSpec
from gslice.device.cpu import CpuDevice
from gslice.worker.engines import make_engine
from gslice.worker.engines.tensorrt_api import TensorRt
from gslice.worker.engines.tensorrt_build import Target
from gslice.worker.engines.tensorrt_plan import Plans
from gslice.worker.engines.tensorrt_signature import describe
from tests import models
from tests.fakes.tensorrt import FakeTensorRt, lengths
from tests.unit.tensorrt_bench import shapes

H100 = Target("NVIDIA H100 80GB HBM3", (9, 0))
ADA = Target("", (8, 9))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRt:
    made = FakeTensorRt()
    monkeypatch.setitem(sys.modules, "tensorrt", made)  # type: ignore[arg-type]
    return made


@pytest.fixture
def rtx(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRt:
    made = FakeTensorRt("tensorrt_rtx", "1.4.0.76")
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", made)  # type: ignore[arg-type]
    return made


@pytest.fixture
def cache(tmp_path: Path) -> PlanCache:
    return PlanCache(tmp_path / "cache")


def spec_of(model: Path, engine: str = "tensorrt", **settings: Any) -> FunctionSpec:
    return FunctionSpec("f", engine=engine, model=str(model), **settings)


def plans_of(cache: PlanCache, target: Target = H100, name: str = "tensorrt") -> Plans:
    return Plans(TensorRt(name), target, cache)


def signature_of(cache: PlanCache, spec: FunctionSpec) -> Signature:
    library = TensorRt(spec.engine)
    loaded = Plans(library, H100, cache).load(spec)
    return describe(library, spec, loaded.engine).signature


# ---- profiles --------------------------------------------------------------------------------


def test_each_batch_size_has_a_profile_of_its_own(
    fake: FakeTensorRt, cache: PlanCache, tmp_path: Path
) -> None:
    spec = spec_of(models.affine(tmp_path), batch_max=6)
    plans_of(cache).find(spec)
    (kept,) = cache.plans()
    found = lengths(cache.directory / f"{kept.name}.plan")
    assert found == [{"x": [[rows, 8]] * 3} for rows in (1, 2, 4, 6)]
    assert signature_of(cache, spec) == Signature(
        (TensorSpec("x", "FP32", (-1, 8)),), (TensorSpec("y", "FP32", (-1, 3)),), 6, (1, 2, 4, 6)
    )


def test_lengths_that_the_model_leaves_open_are_as_given(
    fake: FakeTensorRt, cache: PlanCache, tmp_path: Path
) -> None:
    given = {"x": shapes([-1, 3, 8, 8], [-1, 3, 16, 16], [-1, 3, 32, 64])}
    spec = spec_of(models.dynamic_image(tmp_path), batch_max=2, args={"shapes": given})
    signature = signature_of(cache, spec)
    assert (signature.rows_max, signature.buckets) == (2, (1, 2))
    (kept,) = cache.plans()
    assert lengths(cache.directory / f"{kept.name}.plan") == [
        {"x": [[rows, 3, 8, 8], [rows, 3, 16, 16], [rows, 3, 32, 64]]} for rows in (1, 2)
    ]


def test_a_model_of_one_batch_size_needs_no_profile(
    fake: FakeTensorRt, cache: PlanCache, tmp_path: Path
) -> None:
    signature = signature_of(cache, spec_of(models.fixed_batch(tmp_path, 2), batch_max=2))
    assert (signature.rows_max, signature.buckets) == (2, (2,))
    assert signature_of(cache, spec_of(models.fixed_batch(tmp_path, 2))).rows_max == 0


def test_what_has_no_rows_takes_shapes_in_full(
    fake: FakeTensorRt, cache: PlanCache, tmp_path: Path
) -> None:
    spec = spec_of(models.nonzero(tmp_path))
    with pytest.raises(LoadFailed, match=r"no rows together, and 'x' has .-1.*in full"):
        plans_of(cache).find(spec)
    spec = dataclasses.replace(spec, args={"shapes": {"x": shapes([1], [8], [64])}})
    signature = signature_of(cache, spec)
    assert (signature.rows_max, signature.buckets) == (0, ())
    assert signature.outputs == (TensorSpec("y", "INT64", (1, -1)),)


# ---- the cache -------------------------------------------------------------------------------


def test_a_plan_is_built_once_for_all_that_it_holds_for(
    fake: FakeTensorRt, cache: PlanCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(models.affine(tmp_path))
    assert plans_of(cache).find(spec).built
    moved = Path(spec.model).rename(tmp_path / "moved.onnx")
    spec = dataclasses.replace(spec, model=str(moved), slo_p99_us=5)
    assert not plans_of(cache).find(spec).built
    for changed, target in (
        (dataclasses.replace(spec, batch_max=2), H100),
        (spec, Target("NVIDIA L4", (8, 9))),
        (spec_of(models.affine(tmp_path, outputs=4)), H100),
    ):
        assert plans_of(cache, target).find(changed).built
        assert not plans_of(cache, target).find(changed).built
    fake.__version__ = "11.4.1.2"
    assert plans_of(cache).find(spec).built
    assert fake.builds == len(cache.plans()) == 5


def test_weights_beside_the_model_are_part_of_it(
    fake: FakeTensorRt, cache: PlanCache, tmp_path: Path
) -> None:
    path = models.affine(tmp_path)
    options = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0}
    onnx.save(onnx.load(path), path, **options)
    plans_of(cache).find(spec_of(path))
    weights = tmp_path / "weights.bin"
    weights.write_bytes(weights.read_bytes()[::-1])
    assert plans_of(cache).find(spec_of(path)).built


def test_two_that_need_a_plan_build_it_once(
    fake: FakeTensorRt, cache: PlanCache, tmp_path: Path
) -> None:
    spec = spec_of(models.affine(tmp_path))
    both, found = threading.Barrier(2), []

    def find() -> None:
        both.wait()
        found.append(plans_of(cache).find(spec))

    threads = [threading.Thread(target=find) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(each.built for each in found) == [False, True]
    assert fake.builds == 1


def test_a_damaged_plan_is_built_anew(
    fake: FakeTensorRt, cache: PlanCache, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = spec_of(models.affine(tmp_path))
    plans_of(cache).find(spec)
    (kept,) = cache.plans()
    (cache.directory / f"{kept.name}.plan").write_bytes(b"?")
    assert plans_of(cache).load(spec).engine.num_io_tensors == 2
    assert fake.builds == 2
    assert "what was kept is damaged, and is built anew: tensorrt: loading" in caplog.text
    fake.refusals["deserialize_cuda_engine"] = "Version tag does not match"
    with pytest.raises(LoadFailed, match=r"function f: tensorrt: loading .*: Version tag does"):
        plans_of(cache).load(spec)
    assert fake.builds == 2, "the plan is whole, so another would not load either"


def test_a_place_that_cannot_be_written_to_costs_the_cache_only(
    fake: FakeTensorRt, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    cache = PlanCache(tmp_path / "file" / "cache")
    assert plans_of(cache).load(spec_of(models.affine(tmp_path))).engine is not None
    assert "the plan is not kept: " in caplog.text


def test_a_plan_that_is_named_is_loaded_as_it_is(
    fake: FakeTensorRt, cache: PlanCache, tmp_path: Path
) -> None:
    plan = plans_of(cache).find(spec_of(models.affine(tmp_path), batch_max=8)).plan
    for name in ("m.plan", "m.engine"):
        path = tmp_path / name
        path.write_bytes(plan)
        assert signature_of(cache, spec_of(path)).buckets == (1, 2, 4, 8)
        assert signature_of(cache, spec_of(path, batch_max=5)).buckets == (1, 2, 4)
    assert fake.builds == 1
    path.write_bytes(b"?")
    with pytest.raises(LoadFailed, match=r"loading the plan of .*: Magic tag does not match"):
        plans_of(cache).load(spec_of(path))


def test_batches_of_a_plan_with_ranges(
    fake: FakeTensorRt, cache: PlanCache, tmp_path: Path
) -> None:
    library = TensorRt("tensorrt")
    engine = plans_of(cache).load(spec_of(models.affine(tmp_path))).engine
    engine.profiles = [{"x": [[1, 8], [2, 8], [40, 8]]}, {"x": [[32, 8]] * 3}]

    def buckets(**settings: Any) -> tuple[int, ...]:
        spec = spec_of(Path("m.plan"), **settings)
        described = describe(library, spec, engine)
        assert [each.index for each in described.profiles] == [1, 0]  # the narrower goes first
        return described.signature.buckets

    assert buckets() == (1, 2, 4, 8, 16, 32)
    assert buckets(batch_max=6) == (1, 2, 4, 6)
    assert buckets(batch_max=40) == (1, 2, 4, 8, 16, 32, 40)
    engine.profiles = [{"x": [[32, 8]] * 3}]
    with pytest.raises(LoadFailed, match="takes batches of 32 to 32 rows, none of 4"):
        describe(library, spec_of(Path("m.plan"), batch_max=4), engine)


# ---- RTX -------------------------------------------------------------------------------------


def test_rtx_builds_for_a_kind_of_gpu_that_is_not_there(
    rtx: FakeTensorRt, cache: PlanCache, tmp_path: Path
) -> None:
    spec = spec_of(models.affine(tmp_path), "tensorrt_rtx")
    assert plans_of(cache, ADA, "tensorrt_rtx").find(spec).built
    here = Target("NVIDIA L4", (8, 9))
    loaded = plans_of(cache, here, "tensorrt_rtx").load(spec)
    assert loaded.engine.capabilities == ["SM89"]
    assert [plan.gpu for plan in cache.plans()] == ["compute capability 8.9"]
    # Of one that it has no name for, the plan is for all.
    assert plans_of(cache, H100, "tensorrt_rtx").load(spec).engine.capabilities == []
    assert cache.plans()[0].gpu == "any from 8.0 on"


# ---- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "doing"),
    [
        ("init_libnvinfer_plugins", "starting"),
        ("Builder", "starting"),
        ("create_network", "starting"),
        ("create_builder_config", "starting"),
        ("parse_from_file", "reading .*affine.onnx"),
        ("create_optimization_profile", "starting"),
        ("set_shape", r"a profile of 'x' from \[1, 8\] to \[1, 8\]"),
        ("add_optimization_profile", "adding a profile"),
        ("build_serialized_network", "building"),
        ("deserialize_cuda_engine", "loading the plan of .*"),
    ],
)
def test_whatever_the_library_refuses_is_an_error_with_its_words(
    fake: FakeTensorRt, cache: PlanCache, tmp_path: Path, call: str, doing: str
) -> None:
    fake.refusals[call] = "Error Code 4:\n  no such luck"
    with pytest.raises(LoadFailed, match=f"^function f: tensorrt: {doing} failed: .*no such luck"):
        plans_of(cache).load(spec_of(models.affine(tmp_path)))
    if call != "deserialize_cuda_engine":
        assert cache.plans() == []


@pytest.mark.parametrize("call", ["set_compute_capability", "build_serialized_network"])
def test_rtx_refuses_alike(rtx: FakeTensorRt, cache: PlanCache, tmp_path: Path, call: str) -> None:
    rtx.refusals[call] = "no such luck"
    with pytest.raises(LoadFailed, match=r"function f: tensorrt_rtx: .* failed: no such luck"):
        plans_of(cache, ADA, "tensorrt_rtx").find(spec_of(models.affine(tmp_path), "tensorrt_rtx"))


def test_a_refusal_without_words_and_one_of_an_earlier_call(fake: FakeTensorRt) -> None:
    library = TensorRt("tensorrt")
    library.logger.log(1, "of before")
    with pytest.raises(Internal, match="tensorrt: waiting failed: it gives no reason"):
        library.check("waiting", lambda: None)
    library.logger.log(1, "of before")
    library.do("waiting", lambda: None)
    assert library.check("counting", lambda: 0) == 0


def test_what_the_library_says_is_logged_by_its_weight(
    fake: FakeTensorRt, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    logger = TensorRt("tensorrt").logger
    for severity in range(5):
        logger.log(severity, f"line\n{severity}")
    told = [(record.levelno, record.getMessage()) for record in caplog.records]
    assert told == [
        (logging.ERROR, "tensorrt: line 0"),
        (logging.ERROR, "tensorrt: line 1"),
        (logging.INFO, "tensorrt: line 2"),
        (logging.DEBUG, "tensorrt: line 3"),
    ]


@pytest.mark.parametrize(
    ("model", "content", "message"),
    [
        ("absent.onnx", None, "the model .*absent.onnx does not exist"),
        ("damaged.onnx", b"?", "reading .*damaged.onnx failed: Failed to parse ONNX model"),
        ("empty.plan", b"", "the model .*empty.plan is empty"),
    ],
)
def test_a_file_that_is_no_model_is_told_of(
    fake: FakeTensorRt, cache: PlanCache, tmp_path: Path, model: str, content: Any, message: str
) -> None:
    if content is not None:
        (tmp_path / model).write_bytes(content)
    with pytest.raises(LoadFailed, match=message):
        plans_of(cache).load(spec_of(tmp_path / model))


@pytest.mark.parametrize(
    ("of", "message"),
    [
        ("host_tensors", "tensor 'y' is read or written on the host"),
        ("packed_tensors", "tensor 'y' does not lie row by row"),
    ],
)
def test_tensors_that_cannot_be_served_are_refused(
    fake: FakeTensorRt, cache: PlanCache, tmp_path: Path, of: str, message: str
) -> None:
    getattr(fake, of).add("y")
    with pytest.raises(LoadFailed, match=message):
        signature_of(cache, spec_of(models.affine(tmp_path)))


def test_lengths_on_the_host_are_refused_when_it_is_built(
    fake: FakeTensorRt, cache: PlanCache, tmp_path: Path
) -> None:
    path = models.identity(tmp_path)
    model = onnx.load(path)
    model.graph.input[0].name = model.graph.node[0].input[0] = "lengths"
    onnx.save(model, path)
    with pytest.raises(LoadFailed, match="input 'lengths' holds lengths that are read on the"):
        plans_of(cache).find(spec_of(path))


def test_it_is_a_gpu_or_nothing(fake: FakeTensorRt, tmp_path: Path) -> None:
    engine = make_engine("tensorrt")
    with pytest.raises(LoadFailed, match="engine tensorrt runs on GPUs only"):
        engine.load(spec_of(models.affine(tmp_path)), CpuDevice((0,), 100.0))
    engine.close()


@pytest.mark.parametrize(("engine", "extra"), [("tensorrt",) * 2, ("tensorrt_rtx", "tensorrt-rtx")])
def test_a_package_that_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, engine: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, engine, None)  # type: ignore[arg-type]
    with pytest.raises(LoadFailed, match=f"needs the package {engine} .*'gslice.{extra}.'"):
        make_engine(engine)


def test_a_package_that_cannot_be_imported_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "raise ImportError('libnvinfer.so.10: no such file')"
    (tmp_path / "tensorrt.py").write_text(text)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.syspath_prepend(os.fspath(tmp_path))
    with pytest.raises(LoadFailed, match=r"package tensorrt cannot be imported: .*libnvinfer.so"):
        make_engine("tensorrt")
