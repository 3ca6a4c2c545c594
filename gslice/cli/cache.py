"""`gslice cache ls | prune`: what was built by TensorRT, and what was fetched, and is kept."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from gslice.cli import options
from gslice.cli.output import console, print_json, table
from gslice.core.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gslice.core.model_cache import CachedModel, ModelCache
    from gslice.core.plans import Kept, Plan

_Kept = TypeVar("_Kept", bound="Kept")

app = typer.Typer(
    help="Show and prune built plans and fetched models.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

File = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        help="The node.yaml whose models are meant. Default: the one here, else the user's.",
        metavar="FILE",
    ),
]


@app.command("ls")
def list_cached(file: File = None, as_json: options.Json = False) -> None:
    """List the plans and models that are kept, the last used first."""
    from gslice.core.figures import megabytes
    from gslice.core.plans import PlanCache

    cache, fetched = PlanCache(), _models(file)
    plans, models = cache.plans(), fetched.models()
    if as_json:
        print_json(
            {
                "directory": str(cache.directory),
                "plans": [dataclasses.asdict(plan) for plan in plans],
                "models_directory": str(fetched.directory),
                "models": [_plain(model) for model in models],
            }
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
    _print_total("plan", plans, f", in {cache.directory}")
    shown = table("SHA256", "FROM", "FILES", "SIZE", "USED", right="FILES SIZE")
    for model in models:
        size, count = megabytes(model.size_bytes), str(len(model.files))
        shown.add_row(model.digest[:12], model.source, count, size, _when(model.used_s))
    if models:
        console().print(shown)
    _print_total("model", models, f", in {fetched.directory}")


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
            "--to-size",
            help="Those used longest ago, until so much is left; of plans and of models.",
            metavar="SIZE",
        ),
    ] = "",
    everything: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    file: File = None,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Take plans and models away; what runs is not touched.

    Plans that are needed again are built again, and models fetched again. A model that a daemon
    uses stays.
    """
    from gslice.core.plans import PlanCache, beyond, unused
    from gslice.core.units import parse_duration, parse_size

    if not (unused_for or to_size or everything):
        raise InvalidArgument("say what may go: --unused-for 720h, --to-size 10GiB, or --all")
    older_than_s = parse_duration(unused_for) / 1e6 if unused_for else None
    size_bytes = parse_size(to_size) if to_size else None

    def unneeded(kept: Sequence[_Kept]) -> list[_Kept]:
        gone = list(kept) if everything else []
        if older_than_s is not None:
            gone += unused(kept, older_than_s, time.time())
        if size_bytes is not None:
            gone += beyond(kept, size_bytes)
        return [each for each in kept if each in gone]

    cache, fetched = PlanCache(), _models(file)
    gone = unneeded(cache.plans()) if dry_run else cache.prune(unneeded)
    models = unneeded(fetched.models())
    if dry_run:
        models = [model for model in models if not fetched.in_use(model.digest)]
    else:
        models = [model for model in models if fetched.drop(model.digest)]
        fetched.sweep()
    _print_gone(gone, models, "would be freed" if dry_run else "freed", as_json)


def _print_gone(
    plans: Sequence[Plan], models: Sequence[CachedModel], what: str, as_json: bool
) -> None:
    if as_json:
        print_json([*(dataclasses.asdict(plan) for plan in plans), *map(_plain, models)])
        return
    for plan in plans:
        console().print(f"{plan.name[:12]}  {plan.model}  {plan.gpu}", markup=False)
    _print_total("plan", plans, f" {what}")
    for model in models:
        console().print(f"{model.digest[:12]}  {model.source}", markup=False)
    if models:
        _print_total("model", models, f" {what}")


def _print_total(noun: str, kept: Sequence[Any], more: str) -> None:
    from gslice.core.figures import megabytes

    total = megabytes(sum(each.size_bytes for each in kept))
    count = f"{len(kept)} {noun}{'s' if len(kept) != 1 else ''}"
    console().print(f"{count}, {total}{more}", markup=False)


def _models(file: Path | None) -> ModelCache:
    """The models of a node.yaml, or of whoever has none."""
    from gslice.core.config import load_config
    from gslice.core.model_cache import ModelCache

    if file is None and options.NODE_FILE.is_file():
        file = options.NODE_FILE
    return ModelCache(load_config(file).node.model_cache.directory)


def _plain(model: CachedModel) -> dict[str, Any]:
    plain = dataclasses.asdict(model)
    del plain["states"], plain["origins"]  # of use to the cache only
    return plain


def _when(at_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at_s))
