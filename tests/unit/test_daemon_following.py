"""How what runs differs from node.yaml, and how each difference goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gslice.core.config import load_config
from gslice.core.errors import NotFound, ResourceExhausted
from gslice.core.types import FunctionSpec
from gslice.daemon.desired import Desired
from gslice.daemon.following import ApplyPlan, plan_apply
from gslice.daemon.store import Store
from gslice.supervise.function import Function
from gslice.supervise.versions import Fetch

BODY = "{identity: {inputs: [{name: x, dtype: FP32, dims: [-1, 4]}]}"
NODE = f"""\
version: 1
node: {{metrics: 127.0.0.1:9}}
devices: {{"cpu:0": {{}}}}
functions:
  a: {BODY}, share: 40%}}
  b: {{python: m.py:B, args: {{x: 1}}, share: 30%}}
"""


class Running:
    """A function that serves, as far as a plan looks at it."""

    def __init__(self, spec: FunctionSpec, **changes: Any) -> None:
        self.spec, self.name = spec, spec.name
        self.state, self.reason = "READY", ""
        self.accepting, self.outdated = True, False
        self.deployment: Any = object()
        self.warm: FunctionSpec | None = None
        vars(self).update(changes)

    runs = Function.runs
    takes_in_place = Function.takes_in_place

    @property
    def kept(self) -> Any:
        return SimpleNamespace(find=lambda spec: self.warm)


class World:
    """A daemon as far as a plan needs it: everything runs as the file said at first."""

    def __init__(self, path: Path, store: Store) -> None:
        self.path = path
        path.write_text(NODE)
        config = load_config(path, environ={})
        self.desired = Desired(config, store, store.add_event)
        self.functions: dict[str, Any] = {n: Running(s) for n, s in config.functions.items()}
        self.model_changed: set[str] = set()

    async def plan_resize(self, name: str, share: Any) -> Any:
        if share.min_percent > 90:
            raise ResourceExhausted("it does not fit")
        return SimpleNamespace(text=f"in place: to {share.min_percent:g}%")

    async def resolve(self, spec: FunctionSpec, is_warm: Callable[..., bool], fetch: Fetch) -> Any:
        assert fetch.planned
        if spec.versions.serve == "9":
            raise NotFound("there is no version 9")
        number = "2" if spec.name in self.model_changed or spec.args.get("x", 1) != 1 else "1"
        return SimpleNamespace(spec=FunctionSpec(**{**vars(spec), "version": number}))

    def likely(self, spec: FunctionSpec) -> FunctionSpec:
        return spec

    def plan(self, *edits: tuple[str, str]) -> ApplyPlan:
        text = NODE
        for old, new in edits:
            assert old in text
            text = text.replace(old, new)
        self.path.write_text(text)
        file = load_config(self.path, environ={})
        world: Any = self
        return asyncio.run(plan_apply(file, self.desired, world, world))


@pytest.fixture
def world(tmp_path: Path):
    with Store(tmp_path / "gslice.db") as store:
        yield World(tmp_path / "node.yaml", store)


def ways(plan: ApplyPlan) -> list[tuple[str, str]]:
    return [(change.subject, change.how) for change in plan.changes]


def test_nothing_differs_at_first(world: World) -> None:
    plan = world.plan()
    assert (plan.changes, plan.kept, plan.overruled) == ((), (), ())


@pytest.mark.parametrize(
    ("edit", "how"),
    [
        (("share: 40%", "share: 50%"), "resize"),
        (("share: 40%", "share: 40%, residency: pinned"), "in place"),
        (("share: 40%", "share: 40%, queue: {max: 9}"), "reload"),
        (("x: 1", "x: 2"), "version"),
    ],
)
def test_each_difference_has_its_way(world: World, edit: tuple[str, str], how: str) -> None:
    (change,) = world.plan(edit).changes
    assert change.how == how
    assert len(change.settings) == 1


def test_a_setting_is_told_from_what_runs_to_what_the_file_says(world: World) -> None:
    (change,) = world.plan(("share: 40%", "share: 50%")).changes
    (setting,) = change.settings
    assert (setting.path, setting.running_value, setting.file_value) == (
        "functions.a.share",
        "40%",
        "50%",
    )
    assert change.detail == "in place: to 50%"


def test_who_leaves_goes_first_then_who_shrinks_and_who_is_new_comes_last(world: World) -> None:
    world.functions["gone"] = Running(FunctionSpec("gone"))
    plan = world.plan(
        (f"  a: {BODY}, share: 40%}}", f"  new: {BODY}}}\n  a: {BODY}, share: 50%}}"),
        ("share: 30%", "share: 20%"),
    )
    assert ways(plan) == [("gone", "unload"), ("b", "resize"), ("a", "resize"), ("new", "load")]


def test_a_resize_that_only_fits_later_is_planned_all_the_same(world: World) -> None:
    (change,) = world.plan(("share: 40%", "share: 95%")).changes
    assert (change.how, change.detail) == ("resize", "")


def test_content_of_files_that_changed_is_another_version(world: World) -> None:
    world.model_changed.add("b")
    (change,) = world.plan().changes
    assert (change.subject, change.how, change.settings) == ("b", "version", ())
    assert "version 2 is loaded beside" in change.detail
    world.functions["b"].warm = world.functions["b"].spec
    assert "is warm" in world.plan().changes[0].detail


def test_what_has_failed_is_loaded_again(world: World) -> None:
    world.functions["a"].state, world.functions["a"].reason = "FAILED", "no such file"
    (change,) = world.plan().changes
    assert (change.how, change.detail) == ("load", "it has failed: no such file")


def test_a_version_that_is_not_there_is_told_by_its_load(world: World) -> None:
    (change,) = world.plan(("share: 40%", "share: 40%, versions: {serve: 9}")).changes
    assert [setting.path for setting in change.settings] == ["functions.a.versions.serve"]


def test_a_command_is_ended_before_it_starts_anew(world: World) -> None:
    plan = world.plan((f"{BODY}, share: 40%}}", "{command: [sleep, 9], share: 40%}"))
    assert ways(plan) == [("a", "restart")]


def test_settings_of_the_node_wait_and_are_named(world: World) -> None:
    plan = world.plan(
        ("127.0.0.1:9", "127.0.0.1:8, state_dir: ./else"),
        ('"cpu:0": {}', '"cpu:0": {limits: {share: 50%}}'),
        ("share: 40%", "share: 10%"),
    )
    assert ways(plan) == [
        ("a", "resize"),
        ("node", "start"),
        ("node", "upgrade"),
        ("devices", "upgrade"),
    ]
    told = [(s.path, s.running_value, s.file_value) for c in plan.changes[2:] for s in c.settings]
    assert told[0] == ("node.metrics", "127.0.0.1:9", "127.0.0.1:8")
    path, before, after = told[1]
    assert (path, "100%" in before, "50%" in after) == ("devices.cpu:0", True, True)
    assert plan.config.node == world.desired.config.node
    assert plan.config.devices == world.desired.config.devices


def test_a_function_on_a_device_that_is_not_there_yet_waits(world: World) -> None:
    plan = world.plan(
        ('"cpu:0": {}', '"cpu:0": {}, "cpu:1": {}'),
        (
            f"  a: {BODY}, share: 40%}}",
            f'  a: {BODY}, share: 40%, device: "cpu:1"}}\n  new: {BODY}, device: "cpu:1"}}',
        ),
    )
    assert ways(plan) == [("devices", "upgrade"), ("a", "upgrade"), ("new", "upgrade")]
    assert plan.config.functions["a"].device == "cpu:0"
    assert "new" not in plan.config.functions


def test_auto_stays_auto_over_devices_that_come_later(world: World) -> None:
    plan = world.plan(('"cpu:0": {}', '"cpu:0": {}, "cpu:1": {}'))
    assert ways(plan) == [("devices", "upgrade")]


def test_run_time_changes_stay_unless_the_file_was_edited_too(world: World) -> None:
    for name in ("a", "b"):
        spec = FunctionSpec(**{**vars(world.desired.functions[name]), "queue_max": 7})
        world.desired.put(spec)
        world.functions[name] = Running(spec)
    plan = world.plan(("share: 40%", "share: 50%"))
    assert (plan.kept, plan.overruled) == (("b",), ("a",))
    (change,) = plan.changes
    assert {s.path for s in change.settings} == {"functions.a.queue.max", "functions.a.share"}
    world.desired.follow(plan.config)
    assert world.desired.changed == ["b"]
    assert world.desired.functions["a"].queue_max == 256
    assert world.desired.functions["a"].share.min_percent == 50
    assert [change.path for change in world.desired.diff()] == ["functions.b.queue.max"]


def test_the_digest_is_of_what_would_be_done(world: World) -> None:
    one = world.plan(("share: 40%", "share: 50%"))
    assert one.digest == world.plan(("share: 40%", "share: 50%")).digest
    assert one.digest != world.plan(("share: 40%", "share: 51%")).digest
    assert one.digest != world.plan().digest
