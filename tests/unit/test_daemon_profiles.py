"""Profiles: what is measured, in which order, what is kept of it and for whom it holds."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import gslice
from gslice.control.latency import Measurement
from gslice.core.errors import FailedPrecondition, NotFound
from gslice.core.types import FunctionSpec, Signature, TensorSpec
from gslice.daemon import profiles as profiles_module
from gslice.daemon import store as store_module
from gslice.daemon.profiles import Profile, Profiles
from gslice.daemon.store import SCHEMA_VERSION, Store
from gslice.ipc.messages import Measured
from gslice.supervise.profiling import Grid, Measuring, Profiler

SPEC = FunctionSpec("f", engine="python", slo_p99_us=1000)
X = (TensorSpec("x", "FP32", (-1,)),)
TENTHS = tuple(float(share) for share in range(10, 101, 10))


def measuring(bucket: int, share: float, median_us: float = 100.0) -> Measuring:
    return Measuring(share, Measurement(bucket, share, median_us, 2 * median_us, 50))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "gslice.db") as opened:
        yield opened


@pytest.fixture
def node() -> SimpleNamespace:
    """As much of a node as says where something was measured."""
    devices = {name: SimpleNamespace(cpus=(0, 1)) for name in ("cpu", "cpu:0-1")}
    gpu = SimpleNamespace(found=None, facts=SimpleNamespace(driver="580.1"))
    told: list[str] = []
    return SimpleNamespace(
        gpus={"cuda:0": gpu},
        device=devices.__getitem__,
        limiter=lambda device, spec: "mps" if device in ("cuda:0",) else "cgroup",
        event=lambda subject, kind, text: told.append(text),
        told=told,
    )


@pytest.fixture
def profiles(store: Store, node: Any) -> Profiles:
    return Profiles(store, node)


class FakeProfiler:
    """Measures nothing: gives points that a test made."""

    def __init__(self, points: Sequence[Measuring], spec: FunctionSpec = SPEC) -> None:
        self.spec = spec
        self._points = points

    def deployment(self, name: str) -> Any:
        return SimpleNamespace(spec=self.spec, signature=Signature(X, X, 4, (1, 4)))

    async def run(self, name: str, grid: Grid, tell: Any) -> list[Measuring]:
        for point in self._points:
            tell(point)
        return list(self._points)


def measure(profiles: Profiles, *points: Measuring, whole: bool = False) -> Profile:
    profiler, grid = FakeProfiler(points), Grid((100.0,), (1,), whole)
    return asyncio.run(profiles.measure(profiler, "f", grid, lambda _: None))  # type: ignore[arg-type]


def loaded(*timed: Measured, spec: FunctionSpec = SPEC) -> Any:
    """A deployment whose worker timed batches on its way."""
    workers = [SimpleNamespace(timed=list(timed), share_percent=40.0)]
    return SimpleNamespace(spec=spec, signature=Signature(X, X, 4), workers=workers)


# ---- where ---------------------------------------------------------------------------------------


def walk(grid: Grid, law: Any) -> list[Measuring]:
    done: list[Measuring] = []
    while point := grid.following(done):
        done.append(measuring(*point, law(*point)))
    return done


def test_a_chosen_grid_is_measured_whole_with_large_shares_first() -> None:
    grid = Grid((20.0, 60.0), (1, 8), whole=True)
    done = walk(grid, lambda bucket, share: 100.0)
    assert [each.point for each in done] == [(1, 60), (8, 60), (1, 20), (8, 20)]
    assert grid.most == 4


def test_few_points_tell_the_rest_where_the_law_holds() -> None:
    grid = Grid(TENTHS, (1, 2, 4, 8, 16), whole=False)
    done = walk(grid, lambda bucket, share: 300 + 50 * bucket + (20_000 + 9000 * bucket) / share)
    assert done[0].asked_percent == 100, "a worker with most threads can have less in place"
    assert 5 <= len(done) <= 20
    assert len({each.point for each in done}) == len(done)


def test_where_a_share_takes_another_worker_more_is_measured_at_each() -> None:
    def law(bucket: int, share: float) -> float:
        return 300 + 50 * bucket + (20_000 + 9000 * bucket) / share

    def workers(share_costs: bool) -> int:
        done = walk(Grid(TENTHS, (1, 2, 4, 8, 16), whole=False, share_costs=share_costs), law)
        shares = [each.asked_percent for each in done]
        return 1 + sum(one != other for one, other in itertools.pairwise(shares))

    assert workers(share_costs=True) <= 4
    assert workers(share_costs=True) < workers(share_costs=False)


def test_on_a_noisy_machine_it_ends_all_the_same() -> None:
    grid = Grid(TENTHS, (1, 2, 4, 8, 16), whole=False)
    done = walk(grid, lambda bucket, share: 100.0 + 977 * (7 * bucket + 13 * share) % 1000)
    assert len(done) == grid.most < 50


def test_a_point_counts_as_ordered_whatever_was_read_back() -> None:
    grid = Grid((10.0, 50.0), (1,), whole=False)
    done: list[Measuring] = []
    while point := grid.following(done):
        bucket, share = point
        done.append(Measuring(share, Measurement(bucket, share - 0.9, 100.0, 100.0, 9)))
        assert len(done) < 5
    assert sorted(each.point for each in done) == [(1, 10), (1, 50)]


@pytest.mark.parametrize("cores", [1, 3, 39, 78, 97])
def test_all_cores_are_all_of_the_device_once(node: Any, cores: int) -> None:
    node.limiter = lambda device, spec: "threads"
    node.device = lambda device: SimpleNamespace(cpus=tuple(range(cores)))
    profiler = Profiler(node, {}, SimpleNamespace(), SimpleNamespace())  # type: ignore[arg-type]
    shares = profiler._usual_shares(SPEC, 100.0)
    assert len(shares) == cores
    assert shares[-1] == 100.0
    node.limiter = lambda device, spec: "cgroup"
    assert profiler._usual_shares(SPEC, 75.0) == (*TENTHS[:7], 75.0)


# ---- kept ----------------------------------------------------------------------------------------


def test_what_was_measured_holds_from_one_daemon_to_the_next(
    profiles: Profiles, store: Store, node: Any
) -> None:
    assert profiles.model(SPEC, "cpu") is None
    measure(profiles, measuring(1, 50), measuring(4, 50, 300))
    for each in (profiles, Profiles(store, node)):
        model = each.model(SPEC, "cpu")
        assert model is not None
        assert model.buckets == (1, 4)
        assert model.median_us(4, 50) == pytest.approx(300, rel=0.05)
    assert "2 points, model error" in node.told[-1]


def test_to_ask_again_reads_nothing(profiles: Profiles, monkeypatch: pytest.MonkeyPatch) -> None:
    measure(profiles, measuring(1, 50))
    model = profiles.model(SPEC, "cpu")
    monkeypatch.setattr(profiles, "_read", None)
    assert profiles.model(dataclasses.replace(SPEC), "cpu") is model


@pytest.mark.parametrize(
    ("other", "holds"),
    [
        ({"share": SPEC.share, "instances": 2, "slo_p99_us": 7, "version": "4"}, True),
        ({"args": {"layers": 4}}, False),
        ({"threads": 1}, False),
    ],
)
def test_it_holds_for_the_model(profiles: Profiles, other: Any, holds: bool) -> None:
    measure(profiles, measuring(1, 50))
    found = profiles.model(dataclasses.replace(SPEC, **other), "cpu")
    assert (found is not None) is holds


def test_it_holds_on_devices_that_are_alike(profiles: Profiles, node: Any) -> None:
    measure(profiles, measuring(1, 50))
    assert profiles.model(SPEC, "cpu:0-1") is not None
    node.device = lambda name: SimpleNamespace(cpus=(0,))
    assert profiles.model(dataclasses.replace(SPEC, version="2"), "cpu:0-1") is None


def test_of_a_gpu_nothing_is_known_until_it_is(profiles: Profiles, node: Any) -> None:
    assert profiles.circumstances(SPEC, "cuda:0") is None
    assert profiles.model(SPEC, "cuda:0") is None
    node.gpus["cuda:0"].found = SimpleNamespace(name="H100", sms=132)
    found = profiles.circumstances(SPEC, "cuda:0")
    assert found is not None
    assert (found.machine, found.limiter) == ("H100, 132 SMs, driver 580.1", "mps")


def test_it_holds_for_every_version_that_measures_the_same(
    profiles: Profiles, store: Store, node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure(profiles, measuring(1, 50))
    monkeypatch.setattr(profiles_module, "__version__", "999")
    assert Profiles(store, node).shown(SPEC).gslice == gslice.__version__
    store.put_profile("f", '{"model": "of an older gslice"}', {})  # it hides nothing
    assert Profiles(store, node).shown(SPEC).points == (measuring(1, 50),)
    monkeypatch.setattr(profiles_module, "TIMING_VERSION", 999)
    with pytest.raises(NotFound, match=r"no profile that holds for it.*gslice profile f"):
        Profiles(store, node).shown(SPEC)


def test_a_model_that_changes_meanwhile_is_not_kept(profiles: Profiles) -> None:
    class Changing(FakeProfiler):
        async def run(self, *args: Any) -> list[Measuring]:
            profiles._node.limiter = lambda device, spec: "threads"  # type: ignore[method-assign]
            return await super().run(*args)

    order = profiles.measure(Changing([measuring(1, 50)]), "f", Grid((), (), False), lambda _: None)  # type: ignore[arg-type]
    with pytest.raises(FailedPrecondition, match="changed while it was measured"):
        asyncio.run(order)
    assert profiles.model(SPEC, "cpu") is None


def test_a_chosen_grid_adds_another_replaces(profiles: Profiles) -> None:
    measure(profiles, measuring(1, 50))
    measure(profiles, measuring(1, 50, 700), measuring(2, 50, 900), whole=True)
    kept = profiles.shown(SPEC)
    assert [each.point for each in kept.points] == [(1, 50), (2, 50)]
    assert kept.points[0].measurement.median_us == 700
    measure(profiles, measuring(4, 100))
    assert [each.point for each in profiles.shown(SPEC).points] == [(4, 100)]


# ---- in passing ----------------------------------------------------------------------------------


def test_what_a_load_times_is_kept_until_something_better_is(profiles: Profiles) -> None:
    assert profiles.lacks(SPEC)
    profiles.note(loaded(Measured(1, 100.0, 150.0, 20, 2000.0, 39.9, "cgroup", 1)))
    kept = profiles.shown(SPEC)
    assert (kept.quick, kept.points[0].asked_percent) == (True, 40)
    assert kept.points[0].measurement.share_percent == 39.9
    assert not profiles.lacks(SPEC)
    measure(profiles, measuring(2, 50), whole=True)
    assert [each.point for each in profiles.shown(SPEC).points] == [(2, 50)]
    profiles.note(loaded(Measured(1, 7.0, 7.0, 20, 2000.0, 39.9, "cgroup", 1)))
    assert not profiles.shown(SPEC).quick


def test_only_of_functions_with_an_slo(profiles: Profiles) -> None:
    assert not profiles.lacks(dataclasses.replace(SPEC, slo_p99_us=0))


def test_a_load_that_timed_nothing_leaves_nothing(profiles: Profiles) -> None:
    profiles.note(loaded())
    assert profiles.lacks(SPEC)


# ---- the store -----------------------------------------------------------------------------------


def test_a_database_without_profiles_is_brought_up(tmp_path: Path) -> None:
    path = tmp_path / "gslice.db"
    with Store(path) as store:
        store.observe("f", {"of": "kept"})
    with sqlite3.connect(path) as db:
        db.executescript("DROP TABLE profile; DROP TABLE drained; PRAGMA user_version = 3")
    with Store(path) as store:
        store.put_profile("f", "here", {"points": []})
        assert [key for _, key, _ in store.profiles("f")] == ["here"]
        assert store.observations("f") == [{"of": "kept"}]
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)


def test_profiles_are_bounded_and_replaced(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "PROFILES_MAX", 2)
    for circumstances, what in (("a", 1), ("b", 2), ("a", 3), ("c", 4)):
        store.put_profile("f", circumstances, {"what": what})
    assert [(key, what["what"]) for _, key, what in store.profiles("f")] == [("c", 4), ("a", 3)]
    assert store.profiles("g") == []
