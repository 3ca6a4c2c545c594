"""`gslice record`: requests that clients send, kept as samples."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gslice.cli import options
from gslice.cli.functions import Name
from gslice.cli.output import console, print_json, show_warning
from gslice.core.errors import InvalidArgument, NotFound
from gslice.core.files import replace_file

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np


def record(
    name: Name,
    out: Annotated[Path, typer.Option("--out", help="An .npz, which is made.")],
    requests: Annotated[int, typer.Option("--requests", min=1, help="How many.")] = 32,
    duration: Annotated[str, typer.Option("--duration", help="For how long at most.")] = "60s",
    size_max: Annotated[
        str, typer.Option("--max-size", help="Of what one worker copies.")
    ] = "64MiB",
    force: Annotated[bool, typer.Option("--force", help="Replace the file.")] = False,
    state_dir: options.StateDir = None,
    as_json: options.Json = False,
) -> None:
    """Copy the inputs of the next requests that clients send, as samples for `warmup`.

    Only what was answered well is kept. They are your clients' data: the file is for its owner
    alone, and the order is in the audit log. Ctrl-C keeps nothing.
    """
    from gslice.core.units import parse_duration, parse_size

    _check(out, force)
    amounts = requests, parse_size(size_max), parse_duration(duration)
    with options.connect(state_dir) as control:
        samples, full = _followed(name, requests, control.record(name, *amounts), quiet=as_json)
    _write(out, samples)
    if full:
        show_warning(f"what one worker may copy, {size_max}, was full; --max-size allows more")
    elif len(samples) < requests:
        show_warning(f"no more requests came in {duration}")
    if as_json:
        print_json({"path": str(out), "requests": len(samples)})
    else:
        text = f"{len(samples)} requests of {name} in {out}; use them: warmup: {out}"
        console().print(text, markup=False)


def _check(out: Path, force: bool) -> None:
    if out.suffix != ".npz":
        raise InvalidArgument(f"{out}: samples are kept in an .npz")
    if not out.parent.is_dir():
        raise NotFound(f"{out.parent} is not a directory")
    if out.exists() and not force:
        raise InvalidArgument(f"{out} is there already", hint="name another, or add --force")


def _followed(
    name: str, requests: int, steps: Iterable[Any], *, quiet: bool
) -> tuple[list[dict[str, np.ndarray]], bool]:
    """The requests, after a bar on a terminal has shown how many there are."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from gslice.cli.recording import without_objects
    from gslice.client.tensors import decode

    screen = console(sys.stderr, crop=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    hidden = quiet or not screen.is_terminal
    samples: list[dict[str, np.ndarray]] = []
    full = False
    with Progress(*columns, console=screen, transient=True, disable=hidden) as progress:
        bar = progress.add_task(f"requests of {name}", total=requests)
        for step in steps:
            progress.update(bar, completed=step.requests)
            full = full or step.full
            if step.inputs:
                arrays = {
                    each.name: decode(each.data, each.dtype, tuple(each.shape))
                    for each in step.inputs
                }
                samples.append(
                    {n: without_objects(f"input {n!r}", array) for n, array in arrays.items()}
                )
    return samples, full


def _write(out: Path, samples: list[dict[str, np.ndarray]]) -> None:
    """As `recording.add_sample` would, for the owner alone."""
    import numpy as np

    named = {f"{number}/{n}": each for number, one in enumerate(samples) for n, each in one.items()}
    stream = io.BytesIO()
    np.savez(stream, **named)  # type: ignore[arg-type]
    replace_file(out, stream.getvalue(), mode=0o600)
