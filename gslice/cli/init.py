"""`gslice init`: a node.yaml to start from, with the models named or those that lie beside it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from gslice.cli import options
from gslice.cli.output import console
from gslice.core.errors import AlreadyExists, NotFound

_DEPTH_MAX = 3  # a model repository is name/version/model.onnx

_HEAD = """\
# What this node serves. `gslice config check` checks this file, `gslice serve` serves it.
# Durations and sizes carry units: 30ms, 2s, 64MiB. Paths start from this file's directory.
# Every setting can be overridden from the environment: GSLICE_NODE__GRPC=127.0.0.1:9001.
version: 1

node:
  grpc: 127.0.0.1:8001     # KServe v2
  http: 127.0.0.1:8000     # KServe v2, too: /v2/docs
  metrics: 127.0.0.1:8002  # Prometheus
  state_dir: ./state       # sockets, logs, what was learned

# devices:               # default: the CPU with all its cores, and after it every GPU
#   cuda:0: {}           # ONNX models go to the kind of device that is named first
#   cpu:0-1:             # cores 0 and 1
#     limiter: auto      # auto | cgroup | threads | none
#     limits: {share: 80%, memory: 8GiB}

# defaults:              # of every function
#   slo: {p99: 50ms}
#   batch: {max: 16, delay: auto}

functions:
"""

_EXAMPLE = """\
  # detector:
  #   model: ./detector.onnx
  #   slo: {p99: 30ms}   # the promise: 99 of 100 answers within 30 ms
  #   share: auto        # auto | 40% | {min: 20%, max: 60%} of the device
  # tagger:
  #   python: tagger.py:Tagger   # a class with setup(**args) and infer(inputs) -> outputs
  #   args: {threshold: 0.4}
"""


def init(
    directory: Annotated[
        Path,
        typer.Argument(help="Where to write it.", metavar="DIR", file_okay=False),
    ] = Path(),
    models: Annotated[
        list[Path] | None,
        typer.Option(
            "--model",
            "-m",
            help="A model to serve; may be repeated. Default: every .onnx file found there.",
            metavar="FILE",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Write a commented node.yaml for the models named or found here."""
    if not directory.is_dir():
        raise NotFound(f"there is no directory {directory}")
    for model in models or []:
        if not model.is_file():
            raise NotFound(f"there is no file {model}")
    path = directory / options.NODE_FILE
    if path.exists() and not force:
        raise AlreadyExists(f"{path} exists already", hint="--force replaces it")
    named = _named(models or find_models(directory))
    path.write_text(node_yaml(named, directory), encoding="utf-8")
    screen = console()
    screen.print(f"wrote {path} with {_counted(len(named))}", markup=False)
    if not named:
        screen.print("next: add a function to it, then gslice serve")
        return
    served, asked = "", ""
    if directory != Path():
        served, asked = f" -c {path}", f" --state-dir {directory / 'state'}"
    screen.print(f"next: gslice serve{served}", markup=False)
    screen.print(f"then, beside it: gslice infer {next(iter(named))}{asked}", markup=False)


def find_models(directory: Path) -> list[Path]:
    """The .onnx files in a directory and a few levels below, sorted; hidden ones left out."""
    found = []
    for folder, folders, files in os.walk(directory):
        depth = len(Path(folder).relative_to(directory).parts)
        folders[:] = [] if depth >= _DEPTH_MAX else [f for f in folders if f[0] != "."]
        found += [Path(folder) / file for file in files if file.endswith(".onnx")]
    return sorted(found)


def node_yaml(models: dict[str, Path], directory: Path) -> str:
    """The text of a node.yaml in a directory for these models, by their names."""
    if not models:
        return _HEAD + _EXAMPLE
    from gslice.core.config import relative_path

    lines = []
    for name, model in models.items():
        lines.append(f"  {name}:")
        lines.append(f"    model: {_quoted(relative_path(str(model.absolute()), directory))}")
        lines.append("    share: auto          # auto | 40% | {min: 20%, max: 60%} of the device")
        lines.append("    # slo: {p99: 30ms}   # the promise: 99 of 100 answers within 30 ms")
    return _HEAD + "\n".join(lines) + "\n"


def _named(models: list[Path]) -> dict[str, Path]:
    """Models by unique names: the file's, or the folder's of a model repository."""
    from gslice.core.config import name_of_model

    named: dict[str, Path] = {}
    for model in models:
        in_repository = model.stem == "model" and model.parent.name.isdecimal()
        base = name_of_model(model.parent.parent if in_repository else model)
        name, number = base, 2
        while name in named:
            name, number = f"{base}-{number}", number + 1
        named[name] = model
    return named


def _quoted(text: str) -> str:
    from gslice.core.config import value_to_yaml

    return value_to_yaml(text)


def _counted(count: int) -> str:
    return f"{count} function{'' if count == 1 else 's'}" if count else "no function yet"
