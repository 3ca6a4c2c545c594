"""How what runs differs from node.yaml as it is by now, and how each difference would go away."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gslice.control.isolation import by_claim
from gslice.control.versions import where_it_is
from gslice.core.config import diff_functions, diff_node
from gslice.core.config.devices import anywhere
from gslice.core.errors import GsliceError
from gslice.supervise.versions import Fetch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gslice.core.config import Config, DeviceConfig, SettingChange
    from gslice.core.types import FunctionSpec
    from gslice.daemon.desired import Desired
    from gslice.daemon.versions import Versions
    from gslice.supervise.function import Function
    from gslice.supervise.supervisor import Supervisor

UPGRADE, START = "upgrade", "start"
LATER = (UPGRADE, START)
"""What is not done while the daemon runs as it is."""

_ONLY_AT_A_START = "node.state_dir"


@dataclass(frozen=True)
class Planned:
    """One difference.

    Attributes:
        subject: A function, `node`, or `devices`.
        how: `load`, `unload`, `in place`, `resize`, `version` or `reload` (loaded beside what
            serves), `restart` (ended first); or of `LATER`.
        detail: For people.
        settings: Those that differ.
        growth_percent: By how much the share grows that it is sure of.
    """

    subject: str
    how: str
    detail: str
    settings: tuple[SettingChange, ...] = ()
    growth_percent: float = 0.0


@dataclass(frozen=True)
class ApplyPlan:
    """All differences.

    Attributes:
        config: What the file says, as far as the node can follow it now.
        changes: In the order in which they are made.
        kept: Functions that were changed at run time, and stay so.
        overruled: Likewise, but the file was edited since, so it wins.
    """

    config: Config
    changes: tuple[Planned, ...]
    kept: tuple[str, ...]
    overruled: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Of what would be done, whatever is told of how."""
        done = [(c.subject, c.how, c.settings) for c in self.changes]
        return hashlib.sha256(repr((done, self.kept, self.overruled)).encode()).hexdigest()[:16]


async def plan_apply(
    file: Config, desired: Desired, supervisor: Supervisor, versions: Versions
) -> ApplyPlan:
    """What it would take for the node to follow a node.yaml.

    Args:
        file: As read now.
        desired: What is wanted so far.
        supervisor: What runs.
        versions: Of the functions.
    """
    running = desired.config
    later = list(_of_node(file, running))
    config, waiting = _possible(file, running)
    later += [Planned(name, UPGRADE, why) for name, why in waiting.items()]
    wanted, overruled = desired.under(config)
    changes = []
    for name in [*wanted, *(supervisor.functions.keys() - wanted.keys())]:
        found = await _difference(name, wanted.get(name), supervisor, versions)
        if found is not None:
            changes.append(found)
    kept = [name for name in desired.changed if name not in overruled]
    ordered = _ordered(changes, wanted)
    return ApplyPlan(config, (*ordered, *later), tuple(kept), tuple(overruled))


def _of_node(file: Config, running: Config) -> Iterable[Planned]:
    settings = diff_node(file, running)
    for subject in ("node", "devices"):
        there = [s for s in settings if s.path.startswith(f"{subject}.")]
        at_start = tuple(s for s in there if s.path == _ONLY_AT_A_START)
        if at_start:
            yield Planned(subject, START, "another state directory is another node", at_start)
        if rest := tuple(s for s in there if s not in at_start):
            yield Planned(subject, UPGRADE, "the daemon takes it up when it starts", rest)


def _possible(file: Config, running: Config) -> tuple[Config, dict[str, str]]:
    """The file's functions on the devices that the node has; and those that must wait, and why.

    Those keep the settings that they have, if they run already.
    """
    functions, waiting = {}, {}
    for name, spec in file.functions.items():
        placed = _on(spec, running.devices)
        if placed is not None:
            functions[name] = placed
            continue
        waiting[name] = f"there is no device {spec.device} before the daemon starts anew"
        if name in running.functions:
            functions[name] = running.functions[name]
    config = dataclasses.replace(
        file, node=running.node, devices=running.devices, gpus=running.gpus, functions=functions
    )
    return config, waiting


def _on(spec: FunctionSpec, devices: Mapping[str, DeviceConfig]) -> FunctionSpec | None:
    if spec.devices:
        return anywhere(spec, devices)
    return spec if spec.device in devices else None


async def _difference(
    name: str, wanted: FunctionSpec | None, supervisor: Supervisor, versions: Versions
) -> Planned | None:
    function = supervisor.functions.get(name)
    if wanted is None:
        return Planned(name, "unload", "when what it has accepted is answered")
    if function is None:
        settings = diff_functions({name: wanted}, {})
        return Planned(name, "load", "", tuple(settings), wanted.share.min_percent)
    target = where_it_is(await _resolved(wanted, versions), function.spec)
    if function.state == "FAILED":
        return Planned(
            name, "load", f"it has failed: {function.reason}", _settings(function, target)
        )
    if function.runs(target):
        return None
    how, detail = await _way(function, target, supervisor)
    growth = target.share.min_percent - function.spec.share.min_percent
    return Planned(name, how, detail, _settings(function, target), growth)


async def _resolved(wanted: FunctionSpec, versions: Versions) -> FunctionSpec:
    """With the version that it would be: another one if the files of its model have changed."""
    try:
        return (await versions.resolve(wanted, lambda _spec: True, Fetch(planned=True))).spec
    except GsliceError:  # it must be fetched, or the version that it is pinned to is not there
        return versions.likely(wanted)


def _settings(function: Function, target: FunctionSpec) -> tuple[SettingChange, ...]:
    name = function.name
    return tuple(diff_functions({name: target}, {name: function.spec}))


async def _way(function: Function, target: FunctionSpec, supervisor: Supervisor) -> tuple[str, str]:
    """How a function gets to other settings, and what there is to say about it."""
    before = function.spec
    if function.takes_in_place(before, target):
        if before.share == target.share:
            return "in place", ""
        return "resize", await _resize_text(function, target, supervisor)
    if before.program is not None or target.program is not None:
        return "restart", "its program is ended, then started"
    if function.kept.find(target) is not None:
        return "version", f"version {target.version} is warm and takes over"
    if function.deployment is None or not function.accepting:
        return "load", ""
    if before.version != target.version:
        return "version", f"version {target.version} is loaded beside what serves, then takes over"
    if function.outdated:
        return "reload", "its device has other cores or another limiter; loaded beside what serves"
    return "reload", "loaded beside what serves, then takes over"


async def _resize_text(function: Function, target: FunctionSpec, supervisor: Supervisor) -> str:
    try:
        return (await supervisor.plan_resize(function.name, target.share)).text
    except GsliceError:  # it may fit when what comes before has been done
        return ""


def _ordered(changes: Iterable[Planned], wanted: Mapping[str, FunctionSpec]) -> list[Planned]:
    """Who leaves first, then shares that shrink, then those that grow; what is new comes last."""
    claim = {spec.name: place for place, spec in enumerate(by_claim(wanted.values()))}

    def place(change: Planned) -> tuple[int, float, int]:
        rank = {"unload": 0, "load": 2}.get(change.how, 1)
        growth = change.growth_percent if rank == 1 else 0.0
        return rank, growth, claim.get(change.subject, 0)

    return sorted(changes, key=place)
