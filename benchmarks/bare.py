"""onnxruntime by itself, in a process of its own: the other side of several comparisons.

`python -m benchmarks.bare MODEL` loads the model with one thread and runs it once on ones of the
given shape. It imports what such a script needs and nothing else: its memory is compared with a
worker's. Then, for every line on standard input with a number of seconds, it runs the model for
so long and prints the runs a second. It ends when standard input closes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime

from benchmarks.child import Child, child


class Bare:
    """A running `python -m benchmarks.bare`.

    Attributes:
        pid: Its process.
        load_s: How long it took to load the model.
    """

    def __init__(self, process: Child) -> None:
        self._process = process
        self.pid = process.pid
        self.load_s = float(process.read())

    def run(self, seconds: float) -> float:
        """Runs the model for some seconds; gives runs a second."""
        self._process.write(str(seconds))
        return float(self._process.read())


@contextlib.contextmanager
def bare_onnxruntime(model: Path, inputs: dict[str, list[int]], core: int) -> Iterator[Bare]:
    """Runs onnxruntime on one core.

    Args:
        model: The ONNX file.
        inputs: Shapes by input name.
        core: Where it runs.
    """
    program = [sys.executable, "-m", "benchmarks.bare"]
    command = [*program, str(model), "--inputs", json.dumps(inputs)]
    with child("bare onnxruntime", command, core, ORT_DISABLE_TELEMETRY="1") as process:
        yield Bare(process)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--inputs", type=json.loads, required=True)
    arguments = parser.parse_args()

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    start = time.perf_counter()
    session = onnxruntime.InferenceSession(str(arguments.model), options)
    load_s = time.perf_counter() - start
    types = {"tensor(float)": np.float32, "tensor(int32)": np.int32}
    feed = {
        tensor.name: np.ones(arguments.inputs[tensor.name], types[tensor.type])
        for tensor in session.get_inputs()
    }
    session.run(None, feed)
    print(load_s, flush=True)

    for line in sys.stdin:
        runs, start = 0, time.perf_counter()
        end = start + float(line)
        while time.perf_counter() < end:
            session.run(None, feed)
            runs += 1
        print(runs / (time.perf_counter() - start), flush=True)


if __name__ == "__main__":
    main()
