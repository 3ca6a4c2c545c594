"""`gslice plan`: what the controller decides, or would decide of other rates and SLOs."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gslice.cli import options
from gslice.cli.output import console, print_json, table
from gslice.core.errors import FailedPrecondition, Unavailable
from gslice.core.figures import milliseconds, percent

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Group
    from rich.table import Table


def plan(
    what_if: Annotated[
        list[str] | None,
        typer.Option(
            "--what-if",
            help="NAME.rate=200, NAME.slo=20ms, or rate=2x for all; may be repeated.",
            metavar="CHANGE",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("-c", "--config", help="Without a daemon: of this node.yaml.", metavar="FILE"),
    ] = None,
    state_dir: options.StateDir = None,
    as_json: options.Json = False,
) -> None:
    """Show the share and batch of every function, and why; changes nothing.

    Without a daemon (`-c node.yaml`) profiles are read from the state directory, and rates are what
    `--what-if` says.
    """
    changes = what_if or []
    if config is not None:
        reply = _offline(config, changes, state_dir)
    else:
        with options.connect(state_dir) as control:
            reply = control.plan(changes)
    if as_json:
        from gslice.client.control import as_dict

        print_json(as_dict(reply))
    else:
        console().print(_shown(reply.functions))


def decision_table(planned: Iterable[tuple[str, float, float, Any]]) -> Table:
    """A line a decision.

    Args:
        planned: Name, SLO in us, share now in percent, and the `gslice.v1.Decision`.
    """
    shown = table(
        *("FUNCTION", "DEVICE", "RATE/S", "SLO", "PREDICTED", "CAPACITY/S", "SHARE NOW", "SHARE"),
        *("BATCH", "SHEDS"),
        right="RATE/S SLO PREDICTED CAPACITY/S SHARE NOW SHARE BATCH",
    )
    for name, slo_us, share_percent, decision in planned:
        shown.add_row(
            name,
            decision.device,
            f"{decision.rate_per_s:.1f}",
            milliseconds(slo_us) if slo_us else "-",
            milliseconds(decision.predicted_p99_us) if decision.predicted_p99_us else "-",
            f"{decision.capacity_per_s:.1f}" if decision.capacity_per_s else "-",
            percent(share_percent) if share_percent else "-",
            percent(decision.share_percent),
            str(decision.batch_rows_max or "-"),
            f"beyond {milliseconds(decision.shed_us)}" if decision.shed_us else "-",
        )
    return shown


def slo_lines(functions: Any) -> list[Any]:
    """How each SLO is kept, and why it is served so; nothing where nothing was decided."""
    from rich.text import Text

    decided = [f for f in functions if f.HasField("decision")]
    if not decided:
        return []
    shown = table(
        *(
            "FUNCTION",
            "SLO",
            "P99",
            "PREDICTED",
            "IN TIME",
            "RATE/S",
            "CAPACITY/S",
            "BATCH",
            "SHEDS",
        ),
        right="SLO P99 PREDICTED IN TIME RATE/S CAPACITY/S BATCH",
    )
    for function in decided:
        decision = function.decision
        shown.add_row(
            function.name,
            milliseconds(function.slo_p99_us) if function.slo_p99_us else "-",
            milliseconds(function.p99_us) if function.p99_us else "-",
            milliseconds(decision.predicted_p99_us) if decision.predicted_p99_us else "-",
            f"{function.attainment:.2%}" if function.attainment else "-",
            f"{decision.rate_per_s:.1f}",
            f"{decision.capacity_per_s:.1f}" if decision.capacity_per_s else "-",
            str(decision.batch_rows_max or "-"),
            f"beyond {milliseconds(decision.shed_us)}" if decision.shed_us else "-",
        )
    reasons = (Text(f"{function.name}: {function.decision.reason}") for function in decided)
    return [Text(), shown, *reasons]


def _offline(config: Path, changes: list[str], state_dir: Path | None) -> Any:
    from gslice.core.config import Override, state_dir_of
    from gslice.daemon.offline import offline_plan

    overrides = []
    if state_dir is not None:
        named = str(state_dir.absolute())
        overrides.append(Override(("node", "state_dir"), named, "--state-dir"))
    where = state_dir or state_dir_of(config)
    with contextlib.suppress(Unavailable), options.connect(where):
        raise FailedPrecondition(f"a daemon runs in {where}", hint="ask it: gslice plan")
    return offline_plan(config, changes, overrides)


def _shown(functions: Any) -> Group:
    from rich.console import Group
    from rich.text import Text

    placed = [(f, decision) for f in functions for decision in f.decisions]
    rows = [(f.name, f.slo_us, f.share_percent, decision) for f, decision in placed]
    nowhere = [f.name for f in functions if not f.decisions]
    return Group(
        decision_table(rows) if rows else Text("no function to decide about"),
        *(Text(f"{f.name}: {decision.reason}") for f, decision in placed),
        *(Text(f"{name}: there is no device that it may run on", style="red") for name in nowhere),
    )
