"""The numbers of versions, which served before, and which may stay warm."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gslice.control.versions import (
    Version,
    before,
    is_served_as,
    likely,
    model_settings,
    number_of,
    restored,
    surplus,
    where_it_is,
)
from gslice.core.types import FunctionSpec, ProgramSpec, ReplicaBounds, ShareBounds, VersionPolicy

SPEC = FunctionSpec("f", engine="python", python="m:C", python_path="/p", args={"tag": 1})

SAME_MODEL = {
    "share": ShareBounds(5, 5, auto=False),
    "instances": 3,
    "priority": "high",
    "slo_p99_us": 7,
    "batch_max": 9,
    "delay_us": 11,
    "queue_max": 13,
    "request_max_bytes": 15,
    "warmup": "/w.npz",
    "warmup_count": 3,
    "sources": {"warmup": "s3://b/w.npz"},
    "side_effects": True,
    "threads": 2,
    "lanes": 3,
    "device": "cpu:1",
    "devices": ("cpu:1", "cpu:2"),
    "residency": "cold",
    "idle_after_us": 1,
    "versions": VersionPolicy(3, "2"),
    "version": "17",
    "replicas": ReplicaBounds(2, 3),
    "also_on": ("cpu:1",),
    "isolation": "exclusive",
}
OTHER_MODEL = {
    "engine": "torch",
    "model": "/m.onnx",
    "python": "m:D",
    "python_path": "/q",
    "args": {"tag": 2},
    "precision": "fp16",
    "channels_last": True,
    "environment": {"A": "1"},
}

loads = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from(["x", "y"]), st.integers(1, 3)), max_size=30
)


def changed(**changes: object) -> FunctionSpec:
    return dataclasses.replace(SPEC, **changes)  # type: ignore[arg-type]


def version(number: int, served_s: float, spec: FunctionSpec = SPEC, print_: str = "x") -> Version:
    return Version(number, spec, print_, 0.0, served_s)


def test_every_setting_is_the_model_s_or_is_not() -> None:
    settings = {field.name for field in dataclasses.fields(FunctionSpec)}
    assert {*SAME_MODEL, *OTHER_MODEL, "name", "program"} == settings


@pytest.mark.parametrize("setting", SAME_MODEL)
def test_how_a_model_is_served_gives_no_new_number(setting: str) -> None:
    spec = changed(**{setting: SAME_MODEL[setting]})
    assert likely(spec, [version(4, 0.0)]) == version(4, 0.0)


@pytest.mark.parametrize("setting", OTHER_MODEL)
def test_another_model_gives_a_new_number(setting: str) -> None:
    spec = changed(**{setting: OTHER_MODEL[setting]})
    assert model_settings(spec)[setting] == OTHER_MODEL[setting]
    assert likely(spec, [version(4, 0.0)]) is None


def test_a_program_is_what_is_run_and_not_how_it_is_asked() -> None:
    ran = Version(4, changed(program=ProgramSpec(("vllm",), "/d")), "x", 0.0, 0.0)
    asked = changed(program=ProgramSpec(("vllm",), "/d", 1, "http://a/", stop_timeout_us=7))
    assert likely(asked, [ran]) == ran
    for other in (ProgramSpec(("vllm", "-v"), "/d"), ProgramSpec(("vllm",), "/e")):
        assert likely(changed(program=other), [ran]) is None
    assert "program" not in model_settings(changed())


@given(loads)
def test_numbers_are_stable_and_never_given_twice(loads: list[tuple[int, str, int]]) -> None:
    recorded: dict[int, Version] = {}
    models: dict[int, tuple[int, str]] = {}
    for at, (tag, content, batch) in enumerate(loads):
        spec = changed(args={"tag": tag}, batch_max=batch)
        number = number_of(f"{tag}{content}", list(recorded.values()))
        assert models.setdefault(number, (tag, content)) == (tag, content)
        previous = before(list(recorded.values()), number)
        assert previous is None or previous.number != number
        recorded[number] = version(number, float(at), spec, f"{tag}{content}")
    assert len(models) == len(set(models.values()))
    assert sorted(models) == list(range(1, len(models) + 1))


def test_before_is_what_served_last_not_what_is_numbered_below() -> None:
    recorded = [version(1, 30.0), version(2, 10.0), version(3, 20.0)]
    found = before(recorded, 1)
    assert found is not None
    assert found.number == 3
    assert before([version(1, 30.0)], 1) is None


def test_a_restored_version_is_served_as_declared() -> None:
    old = version(2, 0.0, changed(**{**OTHER_MODEL, "warmup": "/old.npz", "batch_max": 64}))
    spec = restored(changed(batch_max=9, args={"tag": 5}), old)
    assert {key: getattr(spec, key) for key in OTHER_MODEL} == OTHER_MODEL
    assert (spec.version, spec.warmup, spec.batch_max) == ("2", "/old.npz", 9)


def test_a_worker_must_know_of_most_settings() -> None:
    unknown = {"devices", "share", "residency", "idle_after_us", "versions"}
    unknown |= {"replicas", "also_on"}
    for setting, value in {**SAME_MODEL, **OTHER_MODEL}.items():
        assert is_served_as(SPEC, changed(**{setting: value})) == (setting in unknown), setting


def test_where_replicas_are_is_no_difference_as_long_as_one_can_stay() -> None:
    on_two = SPEC.placed_on(("a", "b"))
    assert is_served_as(on_two, SPEC.placed_on(("b", "c")))
    assert not is_served_as(on_two, SPEC.placed_on(("c",)))
    wanted = changed(device="a", devices=("a", "b", "c"), replicas=ReplicaBounds(2, 2))
    assert where_it_is(wanted, SPEC.placed_on(("c", "b"))) == wanted.placed_on(("c", "b"))
    assert where_it_is(wanted, SPEC.placed_on(("c", "d"))) == wanted, "it may not stay on d"


@given(
    st.lists(st.integers(1, 6).map(str), max_size=8), st.integers(1, 6).map(str), st.integers(1, 8)
)
def test_no_more_are_kept_than_may_be(kept: list[str], serving: str, keep: int) -> None:
    gone = surplus(kept, serving, keep)
    left = [number for place, number in enumerate(kept) if place not in gone]
    assert len({serving, *left}) == len(left) + 1 <= max(1, keep)
    # Those that served last stay: whoever goes is older than all that stay, or known already.
    for place in gone:
        newer = {serving, *kept[:place]}
        assert kept[place] in newer or len({serving, *left}) == keep


def test_a_declared_number_is_given_unless_another_model_has_it() -> None:
    recorded = [version(3, 1.0, print_="a"), version(4, 2.0, print_="b")]
    assert number_of("new", [], 7) == 7
    assert number_of("new", recorded, 7) == 7
    assert number_of("a", recorded, 3) == 3
    assert number_of("b", recorded, 2) == 2, "its record of another number is no matter"
    assert number_of("new", recorded, 3) == 5, "that is another model's"
    assert number_of("b", recorded, 3) == 4
