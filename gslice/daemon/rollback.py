"""`gslice rollback`: another version of a function is wanted, and serves."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gslice.control.versions import LATEST, before, restored
from gslice.core.errors import FailedPrecondition
from gslice.core.events import EventKind
from gslice.daemon.versions import model_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from gslice.core.types import FunctionSpec
    from gslice.daemon.daemon import Daemon


@dataclass(frozen=True)
class RollbackPlan:
    """What a rollback would do.

    Attributes:
        wanted: The function as it is wanted from then on.
        text: For people.
        due: False: it is like that already.
    """

    wanted: FunctionSpec
    text: str
    due: bool = True


async def plan_rollback(daemon: Daemon, name: str, asked: str) -> RollbackPlan:
    """What another version of a function would take.

    Args:
        daemon: The node's.
        name: The function's.
        asked: The number of a version, or `latest`; empty: the one that served before.

    Raises:
        NotFound: there is no such function or version.
        FailedPrecondition: none served before, its files have changed, or it is a command.
    """
    function, declared = daemon.supervisor.function(name), daemon.desired.declared(name)
    if declared.program is not None:
        raise FailedPrecondition(
            f"function {name} is a command, whose versions are its own business",
            hint=f"load it with another command: gslice load {name} --file BODY.yaml",
        )
    serving = (function.deployment or function).spec.version
    target = asked or _before(daemon, name, serving)
    policy = dataclasses.replace(declared.versions, serve=target)
    wanted = dataclasses.replace(declared, versions=policy)
    due = wanted != declared or not function.accepting
    if target == LATEST:
        return RollbackPlan(wanted, f"{model_of(declared)}, as declared", due)
    version = daemon.versions.find(name, target)
    if target == serving and function.accepting:
        return RollbackPlan(wanted, f"version {target} serves already", due)
    text = f"version {target} for version {serving}"
    if function.kept.find(restored(wanted, version)) is not None:
        return RollbackPlan(wanted, f"{text}: it is warm and takes over at once")
    await daemon.versions.check_unchanged(version)
    return RollbackPlan(wanted, f"{text}: loads {model_of(version.spec)}")


async def roll_back(daemon: Daemon, plan: RollbackPlan, stage: Callable[[str, str], None]) -> None:
    """Serves another version of a function on somebody's order; it stays wanted so.

    Raises:
        GsliceError: as `Daemon.load`.
    """
    if not plan.due:
        stage("plan", plan.text)
        stage("done", "")
        return
    daemon.node.event(plan.wanted.name, EventKind.VERSION, f"rollback: {plan.text}")
    await daemon.load(plan.wanted, lambda s, d: stage(s, plan.text if s == "plan" else d))


def _before(daemon: Daemon, name: str, serving: str) -> str:
    version = before(daemon.versions.recorded(name), int(serving))
    if version is None:
        raise FailedPrecondition(
            f"function {name}: no version served before version {serving}",
            hint=f"`gslice versions {name}` shows those that there are",
        )
    return str(version.number)
