"""`gslice config check | show | schema`: node.yaml, before anything is started with it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gslice.cli import options
from gslice.cli.output import console, print_json, show_warning

if TYPE_CHECKING:
    from gslice.core.config import Config

app = typer.Typer(help="Check and show node.yaml.", no_args_is_help=True, rich_markup_mode=None)

File = Annotated[Path, typer.Argument(help="The file.", metavar="FILE")]


@app.command()
def check(file: File = options.NODE_FILE) -> None:
    """Check a node.yaml and name everything wrong with it, by line."""
    from gslice import _native

    config = _load(file)
    config.node.frontend_kind(native=_native.GRPC_SERVER, native_tls=_native.GRPC_SERVER_TLS)
    for missing in _missing_files(config):
        show_warning(missing)
    count = len(config.functions)
    console().print(f"{file}: good, {count} function{'s' if count != 1 else ''}", markup=False)


@app.command()
def show(file: File = options.NODE_FILE, as_json: options.Json = False) -> None:
    """Show every setting in force: file, defaults and GSLICE_ variables together."""
    config = _load(file)
    if as_json:
        print_json(_plain(config))
    else:
        _print_yaml(config)


@app.command()
def schema() -> None:
    """Print the JSON Schema of node.yaml, for editors."""
    from gslice.core.config import json_schema

    print_json(json_schema())


def _load(file: Path) -> Config:
    from gslice.core.config import load_config
    from gslice.device.inventory import find_gpus

    return load_config(file, find_gpus=find_gpus)


def _missing_files(config: Config) -> list[str]:
    from gslice.core.sources import is_remote

    return [
        f"functions.{name}.{key}: there is no file {path}"
        for name, spec in config.functions.items()
        for key, path in (("model", spec.model), ("warmup", spec.warmup))
        if path and not is_remote(path) and not Path(path).is_file()
    ]


def _plain(config: Config) -> dict[str, Any]:
    plain = dataclasses.asdict(config)
    del plain["gpus"]  # they are among the devices
    plain["path"] = str(config.path) if config.path else None
    plain["node"]["state_dir"] = str(config.node.state_dir)
    plain["node"]["model_cache"]["directory"] = str(config.node.model_cache.directory)
    return plain


def _print_yaml(config: Config) -> None:
    from gslice.core.config import config_to_yaml

    console().print(config_to_yaml(config), markup=False)
