"""`gslice completion`: what has a shell complete commands, functions and devices."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class Shell(StrEnum):
    """Shells that are known."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(
    shell: Annotated[Shell, typer.Argument(help="bash, zsh or fish.", metavar="SHELL")],
) -> None:
    """Print a script that completes commands, options, functions and devices.

    For this user alone, `gslice --install-completion` puts it where the shell looks for it. For
    all, such as `gslice completion bash > /etc/bash_completion.d/gslice`.
    """
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    typer.echo(
        get_completion_script(
            prog_name="gslice", complete_var="_GSLICE_COMPLETE", shell=shell.value
        )
    )
