"""`gslice doctor`: what this machine lets gslice do, and what it does not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gslice.cli import options
from gslice.cli.output import console, print_json, print_prose, table

if TYPE_CHECKING:
    from gslice.cli.checks import Check

FAULT_DOMAIN = (
    "On the CPU device a function's crash touches no other function; on a GPU shared through MPS"
    " one function's fatal fault reaches every function of that GPU: gslice starts them all again,"
    " and what was queued or running runs then."
)

_STYLES = {"ok": "green", "note": "cyan", "warn": "yellow", "fail": "bold red"}


def doctor(
    config: Annotated[
        Path | None,
        typer.Option(
            "-c",
            "--config",
            help="Whether its functions can be served here. Default: node.yaml, if there is one.",
            metavar="FILE",
        ),
    ] = None,
    as_json: options.Json = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Leave out the self-test, which takes a few seconds.")
    ] = False,
) -> None:
    """Check this machine, and measure that a share is kept.

    Ends with status 1 if something must be fixed.
    """
    from gslice.cli.checks import machine_checks
    from gslice.cli.gpu_checks import gpu_checks

    here = options.NODE_FILE if options.NODE_FILE.is_file() else None
    checks = [*machine_checks(config or here), *gpu_checks(quick)]
    if not quick:
        from gslice.cli.selftest import share_check

        checks.append(share_check())
    failed = any(check.status == "fail" for check in checks)
    if as_json:
        print_json(
            {
                "ok": not failed,
                "fault_domain": FAULT_DOMAIN,
                "checks": [
                    {
                        "name": check.name,
                        "status": check.status,
                        "detail": check.detail,
                        "hint": check.hint,
                    }
                    for check in checks
                ],
            }
        )
    else:
        _show(checks)
    if failed:
        raise typer.Exit(1)


def _show(checks: list[Check]) -> None:
    from rich.text import Text

    shown = table("", "CHECK", "FOUND")
    for check in checks:
        shown.add_row(Text(check.status, _STYLES[check.status]), check.name, Text(check.detail))
        if check.hint:
            shown.add_row("", "", Text(check.hint, "italic"))
    screen = console()
    screen.print(shown)
    print_prose(screen, f"\n{FAULT_DOMAIN}")
