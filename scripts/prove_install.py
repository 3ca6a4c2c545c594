"""Proves that the gslice installed beside this Python does what operators are promised.

python -I scripts/prove_install.py MODEL.onnx

It is started with nothing else in PATH and no checkout in sight: version, man pages, completion,
`init`, `doctor`, then `serve` with one inference by tritonclient, the web page with all its files,
and an end that leaves nothing behind. Needs gslice[cpu], tritonclient[grpc] and psutil.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import urllib.request
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnxruntime
from tritonclient import grpc as triton

import gslice
from gslice.demo.leftovers import Traces

_PROGRAM = Path(sys.executable).parent / "gslice"
_PACKAGE = Path(gslice.__file__).parent
_SHELLS = ("bash", "zsh", "fish")
_WAIT_S = 60.0


class Broken(Exception):
    """A promise that is not kept."""


def expect(kept: bool, promise: str, found: object = "") -> None:
    """Tells of a promise that is kept.

    Raises:
        Broken: It is not; with what was found instead.
    """
    if not kept:
        raise Broken(f"{promise}: {found}")
    print(f"  {promise}", flush=True)


def announced(line: str) -> tuple[str, str] | None:
    """What `gslice serve` says where, as ("gRPC", "127.0.0.1:8001"); of other lines nothing."""
    found = re.match(r"(gRPC|HTTP) +(?:http://)?([\w.]+:\d+)", line)
    return (found[1], found[2]) if found else None


def page_files(html: str) -> set[str]:
    """The files that a page names, none of them from elsewhere."""
    return set(re.findall(r"""(?:src|href)=["']([\w.-]+)["']""", html))


def main(model: Path) -> None:
    """Proves all of it."""
    expect(_PACKAGE.is_relative_to(sys.prefix), f"gslice comes from {_PACKAGE}")
    release = version("gslice")
    expect(_output("--version") == f"gslice {release}\n", f"gslice --version says {release}")
    _prove_pages()
    for shell in _SHELLS:
        expect("_GSLICE_COMPLETE" in _output("completion", shell), f"completion for {shell}")
    with tempfile.TemporaryDirectory(prefix="gs") as folder:
        _output("init", folder, "--model", str(model))
        expect((Path(folder) / "node.yaml").is_file(), "gslice init writes a node.yaml")
        _prove_doctor(folder)
        _prove_serving(Path(folder), model)


def _output(*words: str) -> str:
    return subprocess.run([_PROGRAM, *words], check=True, stdout=subprocess.PIPE, text=True).stdout


def _prove_pages() -> None:
    listed = re.findall(r"^  ([a-z]+) ", _output("--help").partition("Commands:")[2], re.MULTILINE)
    pages = Path(sys.prefix, "share/man/man1")
    lacking = [name for name in listed if not (pages / f"gslice-{name}.1").is_file()]
    expect(bool(listed) and not lacking, f"man pages of {len(listed)} commands", lacking)


def _prove_doctor(folder: str) -> None:
    told = json.loads(_output("doctor", "--json", "-c", f"{folder}/node.yaml"))
    found = {check["name"]: check["detail"] for check in told["checks"]}
    expect(told["ok"], "gslice doctor finds nothing that must be fixed", found)
    expect(found["front-end"] == "native, with TLS", f"front-end: {found['front-end']}")


def _prove_serving(folder: Path, model: Path) -> None:
    traces = Traces(folder)
    ports = {f"GSLICE_NODE__{name}": "127.0.0.1:0" for name in ("GRPC", "HTTP", "METRICS")}
    serving = subprocess.Popen(
        [_PROGRAM, "serve"],
        cwd=folder,
        env={**os.environ, **ports, **traces.environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        where = _wait_ready(serving)
        _prove_inference(where["gRPC"], model)
        _prove_web_page(f"http://{where['HTTP']}/ui/")
        serving.send_signal(signal.SIGTERM)
        serving.communicate(timeout=_WAIT_S)
        expect(serving.returncode == 0, "SIGTERM ends gslice serve with status 0")
        left = traces.left()
        expect(not left, "nothing is left behind", left)
    finally:
        serving.kill()
        serving.wait()
        traces.kill(_WAIT_S)


def _wait_ready(serving: subprocess.Popen[str]) -> dict[str, str]:
    assert serving.stdout is not None
    lines = []
    for line in serving.stdout:
        lines.append(line)
        if line.startswith("ready: "):
            break
    ready = bool(lines) and lines[-1].startswith("ready: 1 of 1")
    expect(ready, "gslice serve is ready", lines)
    return dict(filter(None, map(announced, lines)))


def _prove_inference(address: str, model: Path) -> None:
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    (tensor,) = session.get_inputs()
    x = np.ones([2, *tensor.shape[1:]], np.float32)
    with triton.InferenceServerClient(address) as client:
        given = triton.InferInput(tensor.name, x.shape, "FP32")
        given.set_data_from_numpy(x)
        answer = client.infer(model.stem, [given], client_timeout=_WAIT_S)
    same = all(
        np.allclose(answer.as_numpy(output.name), wanted, rtol=1e-5)
        for output, wanted in zip(
            session.get_outputs(), session.run(None, {tensor.name: x}), strict=True
        )
    )
    expect(same, "tritonclient gets the answer that onnxruntime itself gives")


def _prove_web_page(url: str) -> None:
    named = page_files(_get(url).decode())
    there = {path.name for path in (_PACKAGE / "frontend/ui/static").iterdir()}
    expect(bool(named) and named <= there, f"/ui names {', '.join(sorted(named))}")
    for name in sorted(there):
        _get(url + name)
    expect(True, f"/ui has its {len(there)} files")


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=_WAIT_S) as answer:  # anything but success raises
        return bytes(answer.read())


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except Broken as broken:
        sys.exit(f"not so: {broken}")
