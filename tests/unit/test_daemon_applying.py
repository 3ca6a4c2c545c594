"""Following node.yaml: what comes between, and what a plan leaves alone."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gslice.core.config import load_config
from gslice.core.errors import Unavailable
from gslice.core.types import FunctionSpec
from gslice.daemon.applying import Applying, ConfigSource
from gslice.daemon.following import ApplyPlan, Planned
from gslice.daemon.sources import Sources
from gslice.supervise.versions import Fetch
from tests.unit.test_model_cache import keep


class World:
    """A daemon and its loads, as far as an apply needs them."""

    def __init__(self) -> None:
        self.wanted = {name: FunctionSpec(name) for name in ("a", "loaded", "unloaded")}
        self.done: list[str] = []
        names = ("a", "gone", "back")
        self.functions = {name: SimpleNamespace(name=name, source="") for name in names}

    @property
    def daemon(self) -> Any:
        desired = SimpleNamespace(
            follow=lambda config: None, functions=self.wanted, source=lambda name: "file", path=None
        )
        changes = SimpleNamespace(notify=lambda: None)
        node = SimpleNamespace(event=lambda *event: None, changes=changes)
        supervisor = SimpleNamespace(functions=self.functions)
        return SimpleNamespace(
            desired=desired, supervisor=supervisor, node=node, state="SERVING", versions=None
        )

    async def load(self, spec: FunctionSpec, stage: Any) -> None:
        self.done.append(f"load {spec.name}")
        if spec.name == "a":  # meanwhile somebody gives orders
            del self.wanted["unloaded"], self.functions["gone"]
            self.wanted["back"] = FunctionSpec("back")

    async def unload(self, name: str, stage: Any) -> None:
        self.done.append(f"unload {name}")


def test_orders_that_come_between_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    world: Any = World()
    ways = {"a": "load", "gone": "unload", "back": "unload", "unloaded": "load", "loaded": "load"}
    plan: Any = ApplyPlan(None, tuple(Planned(n, how, "") for n, how in ways.items()), (), ())  # type: ignore[arg-type]

    async def planned(*_: Any) -> ApplyPlan:
        return plan

    monkeypatch.setattr("gslice.daemon.applying.plan_apply", planned)
    told: list[tuple[str, str]] = []
    source: Any = ConfigSource(lambda: None)  # type: ignore[arg-type, return-value]

    async def apply() -> None:
        applying = Applying(world.daemon, world, source)
        await applying.carry_out("", lambda name, detail, subject="": told.append((name, detail)))

    asyncio.run(apply())
    assert world.done == ["load a", "load back", "load loaded"]
    assert told[-1] == ("done", "5 of 5 changes of node.yaml made")


def test_what_is_only_planned_is_not_fetched(tmp_path: Path) -> None:
    (tmp_path / "node.yaml").write_text("version: 1\nnode: {model_cache: {dir: models}}\n")
    sources = Sources(load_config(tmp_path / "node.yaml").node, lambda: ())
    url = "http://127.0.0.1:9/m.onnx"

    def plan(spec: FunctionSpec) -> FunctionSpec:
        return asyncio.run(sources.fetched(spec, None, Fetch(planned=True)))

    with pytest.raises(Unavailable, match="is not in the model cache"):
        plan(FunctionSpec("f", model=url))
    digest = keep(sources.cache, {"m.onnx": b"model"})
    assert plan(FunctionSpec("f", model=f"{url}#sha256={digest}")).model.endswith(
        f"{digest}/m.onnx"
    )
    sources.settle()
    assert sources.cache.drop(digest)  # nobody keeps it
