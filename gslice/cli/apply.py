"""`gslice apply`: the node follows its node.yaml as that is by now."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gslice.cli import options
from gslice.cli.output import console, print_json
from gslice.core.errors import FailedPrecondition, InvalidArgument, LoadFailed, Unavailable
from gslice.core.figures import milliseconds

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.text import Text

_DIFFERENT = 2
LATER = {
    "upgrade": "not done now: `gslice upgrade` takes it up",
    "start": "not done now: it takes a stop and a start",
}
_SIGNS = {"load": ("+", "green"), "unload": ("-", "red"), **dict.fromkeys(LATER, ("!", "yellow"))}
_CHANGED = ("~", "cyan")
_WIDTH = 60  # of a value


def apply(
    config: Annotated[
        Path | None,
        typer.Option(
            "-c", "--config", help="The daemon's own node.yaml. Default: that.", metavar="FILE"
        ),
    ] = None,
    dry_run: options.DryRun = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    state_dir: options.StateDir = None,
    as_json: options.Json = False,
) -> None:
    """Have the node follow its node.yaml as that is by now, while it serves.

    Shows each difference and how it goes away: functions are loaded, unloaded, changed in place,
    resized, or loaded anew beside what serves. Settings of the node itself and its devices wait for
    `gslice upgrade`, and are named. A file that is wrong changes nothing.

    With --dry-run the exit status is 0 if nothing differs, 2 if something does, and 1 if that
    cannot be found out.
    """
    with options.connect(_state_dir(config, state_dir)) as control:
        if config is not None:
            _check_path(config, control.status().config_path)
        plan = control.plan_apply()
        due = [change for change in plan.changes if change.how not in LATER]
        if dry_run or not due:
            _show_plan(plan, as_json)
            raise typer.Exit(_DIFFERENT if dry_run and plan.changes else 0)
        if not as_json:
            _show_plan(plan, as_json)
        if not yes:
            _ask()
        stages = control.apply(plan.digest)
        if as_json:
            _print_stages(plan, stages)
        else:
            _show_stages(stages)


def plan_lines(plan: Any) -> list[Text]:
    """A difference each, with its settings below it; then what was changed at run time."""
    from rich.text import Text

    lines = []
    for change in plan.changes:
        sign, style = _SIGNS.get(change.how, _CHANGED)
        told = "; ".join(filter(None, (change.detail, LATER.get(change.how, ""))))
        line = Text(f"{sign} {change.subject}: ", style=style)
        lines.append(line.append(change.how, style="bold").append(f"  {told}" if told else ""))
        lines += [Text(f"    {text}") for text in _setting_texts(change)]
    for name in plan.overruled:
        text = f"{name} was changed at run time, and edited in node.yaml since: that wins"
        lines.append(Text(text, style="yellow"))
    if plan.kept:
        text = f"changed at run time, and left so: {', '.join(plan.kept)}; see `gslice diff`"
        lines.append(Text(text))
    return lines


def _setting_texts(change: Any) -> list[str]:
    prefix = f"functions.{change.subject}."
    texts = []
    for setting in change.settings:
        if setting.path == prefix[:-1]:  # all of it is new
            texts += setting.file_value.splitlines()
            continue
        values = (_short(setting.running_value), _short(setting.file_value))
        texts.append(f"{setting.path.removeprefix(prefix)}: {' -> '.join(values)}")
    return texts


def _short(value: str) -> str:
    line = " ".join(value.split()) or "(none)"
    return line if len(line) <= _WIDTH else f"{line[: _WIDTH - 3]}..."


def _state_dir(config: Path | None, state_dir: Path | None) -> Path | None:
    if config is None or state_dir is not None:
        return state_dir
    from gslice.core.config import state_dir_of

    return state_dir_of(config)


def _check_path(config: Path, running: str) -> None:
    """Another file than the daemon's own would be forgotten when it starts again."""
    if running and config.resolve() != Path(running).resolve():
        raise FailedPrecondition(
            f"the daemon follows {running}, not {config}",
            hint="edit that one, or start the daemon with the other",
        )


def _ask() -> None:
    if not sys.stdin.isatty():
        raise InvalidArgument("nobody can be asked whether to apply this", hint="give --yes")
    typer.confirm("apply this?", abort=True)


def _show_plan(plan: Any, as_json: bool) -> None:
    if as_json:
        from gslice.client.control import as_dict

        print_json(as_dict(plan))
        return
    screen = console()
    if not plan.changes:
        screen.print(f"what runs is what {plan.path or 'the model repository'} says")
    for line in plan_lines(plan):
        screen.print(line)


def _show_stages(stages: Iterable[Any]) -> None:
    screen = console()
    last = None
    for last in stages:
        at = milliseconds(last.elapsed_ms * 1000)
        about = f"{last.subject}  " if last.subject else ""
        screen.print(f"{at:>9}  {about}{last.name:<8}  {last.detail}".rstrip(), markup=False)
    _check_done(last)


def _print_stages(plan: Any, stages: Iterable[Any]) -> None:
    from gslice.client.control import as_dict

    passed = list(stages)
    print_json({**as_dict(plan), "stages": [as_dict(stage) for stage in passed]})
    _check_done(passed[-1] if passed else None)


def _check_done(last: Any) -> None:
    if last is not None and last.name == "failed" and not last.subject:
        raise LoadFailed(last.detail, hint="see more with `gslice events`, `gslice logs NAME`")
    if last is None or last.name != "done" or last.subject:
        raise Unavailable("the daemon does not say what became of it", hint="see `gslice events`")
