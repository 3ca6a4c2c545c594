"""Differences from node.yaml as the control API tells them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gslice.protos import message

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from gslice.core.config import SettingChange
    from gslice.daemon.following import ApplyPlan


def apply_plan(plan: ApplyPlan, path: Path | None) -> Any:
    """A `gslice.v1.ApplyPlan`."""
    planned = message("gslice.v1.PlannedChange")
    return message("gslice.v1.ApplyPlan")(
        path=str(path or ""),
        digest=plan.digest,
        kept=plan.kept,
        overruled=plan.overruled,
        changes=[
            planned(
                subject=change.subject,
                how=change.how,
                detail=change.detail,
                settings=setting_changes(change.settings),
            )
            for change in plan.changes
        ],
    )


def setting_changes(changes: Iterable[SettingChange]) -> list[Any]:
    """A `gslice.v1.Change` each."""
    change = message("gslice.v1.Change")
    return [
        change(path=c.path, file_value=c.file_value, running_value=c.running_value) for c in changes
    ]
