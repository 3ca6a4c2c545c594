"""`gslice import triton`: a node.yaml from what another server was configured with."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gslice.cli import options
from gslice.cli.output import console, print_json, table
from gslice.core.errors import AlreadyExists

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gslice.triton.node import Repositories

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

_PATHS = ("model", "python", "warmup")


@app.callback()
def _import() -> None:
    """Turn another server's configuration into a node.yaml."""


@app.command(short_help="Make a node.yaml of Triton's model repositories.")
def triton(
    repositories: Annotated[
        list[str], typer.Argument(help="Model repositories, or their URLs.", metavar="DIR")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where to write it.", metavar="FILE")
    ] = options.NODE_FILE,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Write the node.yaml that serves Triton's model repositories, and tell what is lost."""
    from gslice.core.config import functions_to_yaml, load_config
    from gslice.core.files import replace_file
    from gslice.device.inventory import find_gpus
    from gslice.triton.node import read_repositories

    if output.exists() and not (force or dry_run):
        raise AlreadyExists(f"{output} exists already", hint="--force replaces it")
    node = load_config(None, environ={}, find_gpus=find_gpus)
    with tempfile.TemporaryDirectory() as outlines:
        read = read_repositories(repositories, node, Path(outlines))
    if not dry_run:
        folder = output.absolute().parent
        read.write_samples(folder / "warmup")
        remarks = {name: _remarks(read, name) for name in read.functions}
        bodies = {name: _relative(body, folder) for name, body in read.functions.items()}
        replace_file(output, f"{functions_to_yaml(bodies, remarks)}\n".encode())
    if as_json:
        print_json(_plain(read, "" if dry_run else str(output)))
    else:
        _show(read, "" if dry_run else str(output))


def _relative(body: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    from gslice.core.config import relative_path

    return {
        key: relative_path(value, folder) if key in _PATHS else value for key, value in body.items()
    }


def _remarks(read: Repositories, name: str) -> list[str]:
    return [str(note) for note in read.notes if note.model == name]


def _plain(read: Repositories, written: str) -> dict[str, Any]:
    return {
        "written": written or None,
        "functions": read.functions,
        "not_honoured": [asdict(note) for note in read.notes],
        "refused": [asdict(refusal) for refusal in read.refused],
    }


def _show(read: Repositories, written: str) -> None:
    from rich.text import Text

    screen = console()
    if read.notes:
        shown = table("WHERE", "SETTING", "INSTEAD")
        shown.columns[-1].no_wrap = False  # what is said here is never cut
        for note in read.notes:
            shown.add_row(Text(note.place), Text(note.setting), Text(note.text))
        screen.print(shown)
    for refusal in read.refused:
        screen.print(str(refusal), markup=False)
    count = len(read.functions)
    done = f"wrote {written} with" if written else "would write"
    screen.print(f"{done} {count} function{'s' * (count != 1)}", markup=False)
