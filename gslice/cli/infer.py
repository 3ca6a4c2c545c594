"""`gslice infer`: one request, from files or text, and its answer for people or programs."""

from __future__ import annotations

import base64
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gslice.cli import options
from gslice.cli.output import console, print_json, table
from gslice.core.errors import InvalidArgument
from gslice.core.figures import milliseconds

if TYPE_CHECKING:
    import numpy as np

_SCALES = "auto, unit (0..1), symmetric (-1..1), imagenet or none"
_SCORES_MIN = 8  # a vector of floats this long is shown by its highest entries
_VALUES_SHOWN = 6


def infer(
    name: options.FunctionName,
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="Files (image, .npy, .npz, .json), JSON, or text; NAME=VALUE names the input.",
            metavar="INPUT",
        ),
    ],
    scale: Annotated[str, typer.Option("--scale", help=f"Pixels of images: {_SCALES}.")] = "auto",
    top: Annotated[int, typer.Option("--top", help="Entries shown of scores.", min=1)] = 5,
    labels: Annotated[
        Path | None, typer.Option("--labels", help="File with a name a line for the scores.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the outputs to this .npz file.")
    ] = None,
    timeout: Annotated[str, typer.Option("--timeout", help="Deadline, such as 500ms.")] = "30s",
    grpc: options.Address = "",
    tls: options.UseTls = False,
    tls_ca: options.TlsAuthority = None,
    tls_cert: options.TlsCertificate = None,
    tls_key: options.TlsKey = None,
    api_key: options.ApiKey = None,
    state_dir: options.StateDir = None,
    as_json: options.Json = False,
) -> None:
    """Run a function once.

    An image is resized to the input's height and width, and laid out as the input is. Text goes to
    BYTES inputs. Several values go to the inputs in their order.
    """
    from gslice.cli.images import SCALES
    from gslice.cli.inputs import file_text, parse_inputs
    from gslice.client import Client
    from gslice.core.units import parse_duration

    if scale not in SCALES:
        raise InvalidArgument(f"--scale {scale}: no such scale", hint=f"use {_SCALES}")
    names = file_text(labels).splitlines() if labels is not None else []
    timeout_s = parse_duration(timeout) / 1e6
    secure = options.client_tls(tls, tls_ca, tls_cert, tls_key)
    address = options.serving_address(grpc, state_dir, secure)
    with Client(address, timeout_s=timeout_s, tls=secure, api_key=api_key) as client:
        arrays = parse_inputs(inputs, client.metadata(name), scale)
        sent = time.perf_counter()
        outputs = client.infer(name, arrays)
        latency_us = (time.perf_counter() - sent) * 1e6
    if out is not None:
        _save(out, outputs)
    if as_json:
        print_json(_report(name, latency_us, outputs))
    else:
        _show(name, latency_us, outputs, top, names)
        if out is not None:
            console().print(f"wrote {out}", markup=False)


def _show(
    name: str, latency_us: float, outputs: dict[str, np.ndarray], top: int, names: list[str]
) -> None:
    shown = table("OUTPUT", "TYPE", "SHAPE", "VALUES")
    for output, array in outputs.items():
        shape = "x".join(map(str, array.shape)) or "scalar"
        for row, line in enumerate(_lines(array, top, names)):
            head = (output, _type_name(array), shape) if row == 0 else ("", "", "")
            shown.add_row(*head, line)
    screen = console()
    screen.print(shown, markup=False)
    screen.print(f"{name} answered in {milliseconds(latency_us)}", markup=False)


def _lines(array: np.ndarray, top: int, names: list[str]) -> list[str]:
    """An output for people: its highest scores, or its first values."""
    is_scores = array.dtype.kind == "f" and array.ndim in (1, 2)
    if is_scores and array.shape[-1] >= _SCORES_MIN and array.size == array.shape[-1]:
        scores = array.reshape(-1)
        best = scores.argsort()[::-1][:top]
        return [f"{names[i] if i < len(names) else i}: {scores[i]:.4g}" for i in best]
    values = [_value_text(value) for value in array.reshape(-1)[:_VALUES_SHOWN]]
    more = f" ... {array.size} in all" if array.size > _VALUES_SHOWN else ""
    return [" ".join(values) + more]


def _value_text(value: Any) -> str:
    if isinstance(value, bytes):
        return repr(value.decode("utf-8", errors="replace"))
    return f"{value:.4g}" if isinstance(value, float) or value.dtype.kind == "f" else str(value)


def _type_name(array: np.ndarray) -> str:
    from gslice.client.tensors import wire_dtype

    return wire_dtype(array.dtype)


def _report(name: str, latency_us: float, outputs: dict[str, np.ndarray]) -> dict[str, Any]:
    return {
        "function": name,
        "latency_us": round(latency_us, 1),
        "outputs": {
            output: {
                "dtype": _type_name(array),
                "shape": list(array.shape),
                "values": _json_values(array.tolist()),
            }
            for output, array in outputs.items()
        },
    }


def _json_values(value: Any) -> Any:
    """Values as JSON has them: bytes as text, or base64 where they are none, NaN by its name."""
    if isinstance(value, list):
        return [_json_values(entry) for entry in value]
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"b64": base64.b64encode(value).decode()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _save(out: Path, outputs: dict[str, np.ndarray]) -> None:
    import numpy as np

    def plain(name: str, array: np.ndarray) -> np.ndarray:
        if array.dtype.kind != "O":
            return array
        if any(element.endswith(b"\0") for element in array.flat):
            raise InvalidArgument(
                f"output {name!r} has elements that end in a zero byte, which .npz would cut off",
                hint="--json shows them whole",
            )
        # Objects would be pickled, and nobody should have to unpickle an answer.
        return array.astype(np.bytes_)

    arrays: dict[str, Any] = {name: plain(name, array) for name, array in outputs.items()}
    with out.open("wb") as stream:  # savez would add a suffix of its own to a path
        np.savez(stream, **arrays)
