"""`gslice drain` and `gslice undrain`: a device that is to be left alone, and one that is not."""

from __future__ import annotations

from typing import Annotated

import typer

from gslice.cli import options
from gslice.cli.functions import show_stages
from gslice.cli.output import console

_MORE = "gslice events --kind move"

Device = Annotated[
    str,
    typer.Argument(
        help="As in node.yaml, such as cuda:0.",
        metavar="DEVICE",
        autocompletion=options.complete_device,
    ),
]


def drain(
    device: Device, state_dir: options.StateDir = None, as_json: options.Json = False
) -> None:
    """Move a device's functions to others, one after the other, and place none there."""
    with options.connect(state_dir) as control:
        show_stages(device, control.drain(device), as_json, more=_MORE)
    if not as_json:
        told = f"nothing new is placed on {device}, until `gslice undrain {device}`"
        console().print(told, markup=False)


def undrain(
    device: Device, state_dir: options.StateDir = None, as_json: options.Json = False
) -> None:
    """Let functions be placed on a device again."""
    with options.connect(state_dir) as control:
        show_stages(device, control.undrain(device), as_json, more=_MORE)
