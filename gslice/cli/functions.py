"""`gslice load`, `unload`, `diff`, `save`: changing what runs, and keeping or dropping it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from gslice.cli import options
from gslice.cli.output import console, print_json, show_warning, table
from gslice.core.errors import InvalidArgument, LoadFailed, NotFound, Unavailable
from gslice.core.figures import megabytes, milliseconds

Name = Annotated[
    str,
    typer.Argument(
        help="The function's name.", metavar="NAME", autocompletion=options.complete_function
    ),
]


def load(
    name: Name,
    model: Annotated[
        str | None,
        typer.Argument(
            help="A model file, or its URL. Default: what node.yaml declares.", metavar="MODEL"
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", help="YAML with the body under functions.NAME."),
    ] = None,
    share: Annotated[str, typer.Option("--share", help="Such as auto or 40%.")] = "",
    slo: Annotated[str, typer.Option("--slo", help="The p99 to keep, such as 30ms.")] = "",
    device: Annotated[
        str,
        typer.Option("--device", help="Such as cpu.", autocompletion=options.complete_device),
    ] = "",
    state_dir: options.StateDir = None,
    as_json: options.Json = False,
) -> None:
    """Load a function while the others serve on, and show each stage.

    NAME alone loads what node.yaml declares, again if it runs. With MODEL or --file it is added at
    run time: `gslice diff` shows it then, `gslice save` keeps it.
    """
    body, base_dir = _function_yaml(model, file, {"share": share, "slo": slo, "device": device})
    with options.connect(state_dir) as control:
        show_stages(name, control.load(name, body, base_dir), as_json)


def resize(
    name: Name,
    share: Annotated[
        str, typer.Argument(help="Such as 40%, auto or '{min: 20%, max: 60%}'.", metavar="SHARE")
    ],
    wait: Annotated[
        bool, typer.Option("--wait", help="Show each stage, until the new share is in force.")
    ] = False,
    dry_run: options.DryRun = False,
    state_dir: options.StateDir = None,
    as_json: options.Json = False,
) -> None:
    """Change the share of a function while it serves.

    Where the share of a process cannot change, a shadow is loaded and warmed beside it, and takes
    over between two batches. `gslice diff` shows the new share, `gslice save` keeps it.
    """
    with options.connect(state_dir) as control:
        stages = control.resize(name, share, dry_run=dry_run)
        if wait or dry_run:
            last = show_stages(name, stages, as_json, dry_run=dry_run)
            if not dry_run and not as_json:
                console().print(_resized_line(name, last.resized), markup=False)
            return
        first = next(stages)  # the daemon goes on without us
    if as_json:
        from gslice.client.control import as_dict

        print_json(as_dict(first))
    else:
        console().print(f"{name}: {first.detail}; `--wait` shows the stages", markup=False)


def unload(name: Name, state_dir: options.StateDir = None, as_json: options.Json = False) -> None:
    """Answer what was accepted, then remove a function."""
    with options.connect(state_dir) as control:
        show_stages(name, control.unload(name), as_json)


def diff(state_dir: options.StateDir = None, as_json: options.Json = False) -> None:
    """Show how what runs differs from node.yaml."""
    with options.connect(state_dir) as control:
        changes = control.diff().changes
        has_file = bool(control.status().config_path)
    if as_json:
        _print_changes_json(changes)
    elif changes:
        _print_changes(changes)
        advice = "`gslice save --discard-overlay` drops this"
        if has_file:
            advice = "`gslice save` writes this into node.yaml; --discard-overlay drops it"
        console().print(f"\n{advice}")
    else:
        console().print(f"what runs is what {'node.yaml' if has_file else 'the command line'} says")


def save(
    discard_overlay: Annotated[
        bool, typer.Option("--discard-overlay", help="Go back to node.yaml instead.")
    ] = False,
    state_dir: options.StateDir = None,
    as_json: options.Json = False,
) -> None:
    """Write what runs into node.yaml, comments kept."""
    with options.connect(state_dir) as control:
        reply = control.save(discard_overlay=discard_overlay)
    if as_json:
        from gslice.client.control import as_dict

        print_json(as_dict(reply))
        return
    count = len(reply.changes)
    _print_changes(reply.changes)
    for name in reply.overruled:
        show_warning(f"{name} was edited in {reply.path} meanwhile, and runs as that says")
    what = f"{count} change{'s' if count != 1 else ''}"
    if discard_overlay:
        console().print(f"dropped {what}; the node is as {reply.path or 'the command line'} says")
    elif count:
        console().print(f"wrote {what} into {reply.path}")
    else:
        console().print(f"nothing to save; {reply.path} says what runs")


def _function_yaml(
    model: str | None, file: Path | None, settings: dict[str, str]
) -> tuple[str, Path | None]:
    """The body to send, empty to load what is declared, and where its paths start.

    Only the daemon can check it: it knows its devices, and the defaults of its node.yaml.
    """
    given: dict[str, Any] = {key: value for key, value in settings.items() if value}
    if model is None and file is None:
        if given:
            raise InvalidArgument(
                f"--{next(iter(given))} needs a model to go with",
                hint="give MODEL or --file, or change the function in node.yaml",
            )
        return "", None
    if file is None:
        if "slo" in given:
            given["slo"] = {"p99": given["slo"]}
        return json.dumps({"model": model, **given}), Path.cwd()
    if model is not None:
        raise InvalidArgument("MODEL and --file exclude each other", hint="give one of them")
    if given:
        raise InvalidArgument(f"--{next(iter(given))} and --file exclude each other")
    return _read(file), file.absolute().parent


def _read(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise NotFound(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"{file} is not UTF-8 text") from error
    if not text.strip():
        raise InvalidArgument(f"{file} is empty", hint="leave it out to load what is declared")
    return text


def _resized_line(name: str, resized: Any) -> str:
    line = f"{name} has {resized.share_effective_percent:g}%"
    if resized.path == "in place":
        prepared = f", prepared for {resized.prepare_ms:.0f} ms" if resized.prepare_ms else ""
        return f"{line}, changed in place{prepared}"
    if resized.path != "shadow":
        return f"{line} already"
    holes = [swap.hole_us for swap in resized.swaps if swap.hole_us >= 0]
    hole = f"; first request waited {max(holes):.0f} us" if holes else ""
    flip_us = max((swap.flip_us for swap in resized.swaps), default=0.0)
    return (
        f"{line}: shadow warm after {resized.prepare_ms / 1000:.2f} s and "
        f"{megabytes(resized.extra_memory_bytes)}, flip {flip_us:.0f} us{hole}"
    )


def show_stages(
    name: str,
    stages: Iterable[Any],
    as_json: bool,
    *,
    dry_run: bool = False,
    more: str = "",
) -> Any:
    """Shows stages as they pass, and returns the last.

    Args:
        name: What the order is about.
        stages: As the daemon tells them.
        as_json: All at once, when it has ended.
        dry_run: It ends with its plan.
        more: The command that says more of one that failed; empty: its log.

    Raises:
        LoadFailed: it failed.
        Unavailable: nobody says what became of it.
    """
    from gslice.client.control import as_dict

    passed = []
    stage = None
    screen = console()
    for stage in stages:
        passed.append(as_dict(stage))
        if not as_json:
            line = f"{milliseconds(stage.elapsed_ms * 1000):>9}  {stage.name:<8}  {stage.detail}"
            screen.print(line.rstrip(), markup=False)
    if as_json:
        print_json(passed)
    if stage is not None and stage.name == "failed":
        detail = stage.detail.removeprefix(f"function {name}: ")
        command = more or f"gslice logs {name}"
        raise LoadFailed(f"{name}: {detail}", hint=f"see more with `{command}`")
    if stage is None or stage.name != ("plan" if dry_run else "done"):
        raise Unavailable(
            f"{name}: the daemon does not say what became of it", hint="see `gslice events`"
        )
    return stage


def _print_changes(changes: Any) -> None:
    if not changes:
        return
    shown = table("SETTING", "NODE.YAML", "RUNNING")
    for change in changes:
        shown.add_row(change.path, change.file_value or "-", change.running_value or "-")
    console().print(shown)


def _print_changes_json(changes: Any) -> None:
    from gslice.client.control import as_dict

    print_json([as_dict(change) for change in changes])
