"""`gslice build`: plans of TensorRT before they are needed, for a load may wait for minutes."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gslice.cli import options
from gslice.cli.output import console, print_json, show_error, show_warning, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gslice.core.types import FunctionSpec

_BUILD = (sys.executable, "-P", "-m", "gslice.worker.build")


def build(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Functions of node.yaml. Default: all that TensorRT runs.", metavar="NAME"
        ),
    ] = None,
    file: Annotated[
        Path, typer.Option("--config", "-c", help="The node.yaml.", metavar="FILE")
    ] = options.NODE_FILE,
    device: Annotated[
        str,
        typer.Option(
            "--device", help="Build on this GPU. Default: the function's first.", metavar="cuda:N"
        ),
    ] = "",
    capability: Annotated[
        str,
        typer.Option(
            "--compute-capability",
            help="Build for GPUs of this one; tensorrt_rtx does so without a GPU.",
            metavar="M.N",
        ),
    ] = "",
    as_json: options.Json = False,
) -> None:
    """Build the plans of functions that TensorRT runs, and keep them for the load.

    Needs no daemon. What is there already is not built again.
    """
    from gslice.core.errors import from_code

    specs = _chosen(file, names or [])
    order_of = _parse_capability(capability)
    answers, failed = [], False
    for spec in specs:
        answer = _built(spec, order_of, _environment(spec, device) if not order_of else {})
        answers.append({"function": spec.name, **answer})
        if answer["code"]:
            failed = True
            error = from_code(answer["code"], answer["message"])
            error.hint = answer["hint"]
            show_error(error)
    if as_json:
        print_json(answers)
    else:
        _show([answer for answer in answers if not answer["code"]])
    if failed:
        raise typer.Exit(1)


def _chosen(file: Path, names: Sequence[str]) -> list[FunctionSpec]:
    from gslice.core.config import load_config
    from gslice.core.errors import InvalidArgument, NotFound
    from gslice.core.plans import LIBRARIES, is_plan
    from gslice.core.sources import is_remote
    from gslice.device.inventory import find_gpus

    functions = load_config(file, find_gpus=find_gpus).functions
    for name in names:
        if name not in functions:
            raise NotFound(f"{file} has no function {name}")
        if functions[name].engine not in LIBRARIES or is_plan(functions[name].model):
            raise InvalidArgument(
                f"function {name}: nothing is built of it",
                hint="plans are built of .onnx models with `engine: tensorrt` or `tensorrt_rtx`",
            )
    for spec in functions.values():
        if is_remote(spec.model) and (spec.name in names or spec.engine in LIBRARIES):
            raise InvalidArgument(
                f"function {spec.name}: its model is not on this machine",
                hint=f"`gslice load {spec.name}` fetches it and builds",
            )
    chosen = [
        spec
        for name, spec in functions.items()
        if (name in names or not names) and spec.engine in LIBRARIES and not is_plan(spec.model)
    ]
    if not chosen:
        show_warning(f"{file} has no function of which a plan is built")
    return chosen


def _parse_capability(text: str) -> list[int]:
    from gslice.core.errors import InvalidArgument

    parts = text.split(".") if text else []
    if len(parts) not in (0, 2) or not all(part.isascii() and part.isdigit() for part in parts):
        raise InvalidArgument(f"--compute-capability {text}: write it as 8.9")
    return [int(part) for part in parts]


def _environment(spec: FunctionSpec, device: str) -> dict[str, str]:
    """What shows the process the one GPU that it is to build on."""
    from gslice.core.config.devices import gpu_name
    from gslice.core.errors import InvalidArgument
    from gslice.device.inventory import read_inventory

    name = gpu_name(device or spec.device)
    if not name:
        raise InvalidArgument(f"{device or spec.device} is no GPU; write --device cuda:0")
    return {"CUDA_VISIBLE_DEVICES": read_inventory().gpu(name).uuid}


def _built(
    spec: FunctionSpec, capability: Sequence[int], environment: dict[str, str]
) -> dict[str, Any]:
    from gslice.core.errors import Internal

    order = json.dumps({"spec": dataclasses.asdict(spec), "capability": capability})
    done = subprocess.run(
        _BUILD,
        input=order,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **spec.environment, **environment},
    )
    if done.returncode or not done.stdout:
        message = f"function {spec.name}: the build ended with status {done.returncode}"
        return {"code": Internal.code, "message": message, "hint": "its last lines are above"}
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _show(answers: Sequence[dict[str, Any]]) -> None:
    from gslice.core.figures import megabytes

    shown = table("FUNCTION", "PLAN", "SIZE", "TOOK", "GPU", "LIBRARY", right="SIZE TOOK")
    for answer in answers:
        shown.add_row(
            answer["function"],
            "built" if answer["built"] else "was there",
            megabytes(answer["size_bytes"]),
            f"{answer['took_s']:.1f} s",
            answer["gpu"],
            answer["library"],
        )
    if answers:
        console().print(shown)
