"""`gslice cache ls | prune`: the plans that were built by TensorRT and are kept."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gslice.cli import options
from gslice.cli.output import console, print_json, table
from gslice.core.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gslice.core.plans import Plan

app = typer.Typer(help="Show and prune built plans.", no_args_is_help=True, rich_markup_mode=None)


@app.command("ls")
def list_plans(as_json: options.Json = False) -> None:
    """List the plans that are kept, the one used last first."""
    from gslice.core.figures import megabytes
    from gslice.core.plans import PlanCache

    cache = PlanCache()
    plans = cache.plans()
    if as_json:
        print_json(
            {"directory": str(cache.directory), "plans": [dataclasses.asdict(p) for p in plans]}
        )
        return
    shown = table("PLAN", "MODEL", "GPU", "LIBRARY", "TOOK", "SIZE", "USED", right="TOOK SIZE")
    for plan in plans:
        shown.add_row(
            *(plan.name[:12], Path(plan.model).name, plan.gpu, plan.library),
            *(f"{plan.took_s:.1f} s", megabytes(plan.size_bytes), _when(plan.used_s)),
        )
    if plans:
        console().print(shown)
    total = megabytes(sum(plan.size_bytes for plan in plans))
    count = f"{len(plans)} plan{'s' if len(plans) != 1 else ''}"
    console().print(f"{count}, {total}, in {cache.directory}", markup=False)


@app.command()
def prune(
    unused_for: Annotated[
        str,
        typer.Option(
            "--unused-for", help="Those not used for so long, such as 720h.", metavar="TIME"
        ),
    ] = "",
    to_size: Annotated[
        str,
        typer.Option(
            "--to-size", help="Those used longest ago, until so much is left.", metavar="SIZE"
        ),
    ] = "",
    everything: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Take plans away; what runs is not touched, and what is needed again is built again."""
    from gslice.core.figures import megabytes
    from gslice.core.plans import PlanCache, beyond, unused
    from gslice.core.units import parse_duration, parse_size

    if not (unused_for or to_size or everything):
        raise InvalidArgument("say what may go: --unused-for 720h, --to-size 10GiB, or --all")
    older_than_s = parse_duration(unused_for) / 1e6 if unused_for else None
    size_bytes = parse_size(to_size) if to_size else None

    def unneeded(plans: Sequence[Plan]) -> list[Plan]:
        gone = list(plans) if everything else []
        if older_than_s is not None:
            gone += unused(plans, older_than_s, time.time())
        if size_bytes is not None:
            gone += beyond(plans, size_bytes)
        return list(dict.fromkeys(gone))

    cache = PlanCache()
    gone = unneeded(cache.plans()) if dry_run else cache.prune(unneeded)
    if as_json:
        print_json([dataclasses.asdict(plan) for plan in gone])
        return
    for plan in gone:
        console().print(f"{plan.name[:12]}  {plan.model}  {plan.gpu}", markup=False)
    verb = "would be " if dry_run else ""
    freed = megabytes(sum(plan.size_bytes for plan in gone))
    count = f"{len(gone)} plan{'s' if len(gone) != 1 else ''}"
    console().print(f"{count}, {freed} {verb}freed", markup=False)


def _when(at_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at_s))
