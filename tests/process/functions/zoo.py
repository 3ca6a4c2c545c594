"""Python functions that tests serve: well-behaved ones, and every kind of bad one."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from pathlib import Path

import numpy as np


class Numbers:
    """x -> y, one number a row."""

    inputs = (("x", "INT64", [-1, 1]),)
    outputs = (("y", "INT64", [-1, 1]),)


class Echo(Numbers):
    """y = x, and a line in a file for each row that ran."""

    def setup(self, ran: str = "") -> None:
        self.ran = ran

    def infer(self, inputs):
        if self.ran:
            with Path(self.ran).open("a") as file:
                file.write("".join(f"{x}\n" for x in inputs["x"].flat))
        return {"y": inputs["x"]}


class Tagged(Numbers):
    """y = x, and which version answered; without a tag it does not load."""

    outputs = (("y", "INT64", [-1, 1]), ("tag", "INT64", [-1, 1]))

    def setup(self, tag: int = 0) -> None:
        if not tag:
            raise ValueError("no tag is given")
        self.tag = tag

    def infer(self, inputs):
        return {"y": inputs["x"], "tag": np.full_like(inputs["x"], self.tag)}


class Signed(Numbers):
    """y = x, and the process that answered."""

    outputs = (("y", "INT64", [-1, 1]), ("tag", "INT64", [-1, 1]))

    def infer(self, inputs):
        return {"y": inputs["x"], "tag": np.full_like(inputs["x"], os.getpid())}


class Says(Echo):
    """y = x, with words of each kind in the log."""

    def setup(self) -> None:
        super().setup()
        print(f"worker {os.getpid()} is set up")
        logging.getLogger("says").warning("worker %d warns", os.getpid())


class Gate(Numbers):
    """y = x; a negative x first waits for a writer to open the gate, which is a FIFO."""

    batch_max = 0
    inputs = (("x", "INT64", [1]),)
    outputs = (("y", "INT64", [1]),)

    def setup(self, gate: str) -> None:
        self.gate = gate

    def infer(self, inputs):
        if inputs["x"][0] < 0:
            with Path(self.gate).open("rb") as gate:
                gate.read()
        return {"y": inputs["x"]}


class GateInSetup(Numbers):
    """y = x, once a writer has opened the gate."""

    def setup(self, gate: str) -> None:
        with Path(gate).open("rb") as file:
            file.read()

    def infer(self, inputs):
        return {"y": inputs["x"]}


class SlowSetup(Numbers):
    """y = x; while the marker is there, setting up waits for a writer to open the gate."""

    def setup(self, gate: str, marker: str) -> None:
        if Path(marker).exists():
            with Path(gate).open("rb") as file:
                file.read()

    def infer(self, inputs):
        return {"y": inputs["x"]}


class Breakable(Numbers):
    """y = x; while the marker is there, it cannot be loaded."""

    def setup(self, marker: str) -> None:
        if Path(marker).exists():
            raise RuntimeError("it is broken")

    def infer(self, inputs):
        return {"y": inputs["x"]}


class Raises(Numbers):
    """Raises for a negative x."""

    batch_max = 1

    def infer(self, inputs):
        if (inputs["x"] < 0).any():
            raise ValueError(f"negative: {inputs['x'].min()}")
        return {"y": inputs["x"]}


class Dies(Numbers):
    """A negative x kills the worker."""

    batch_max = 4

    def infer(self, inputs):
        if (inputs["x"] < 0).any():
            os.kill(os.getpid(), 9)
        return {"y": inputs["x"]}


class Hungry(Numbers):
    """A negative x takes more memory than its control group may, which it enters first."""

    batch_max = 4

    def setup(self, group: str, bytes_too_many: int) -> None:
        (Path(group) / "cgroup.procs").write_text(str(os.getpid()))
        self.bytes_too_many = bytes_too_many

    def infer(self, inputs):
        if (inputs["x"] < 0).any():
            raise AssertionError(f"took {len(b'x' * self.bytes_too_many)} bytes")
        return {"y": inputs["x"]}


class DiesInSetup(Numbers):
    """Loads once, when the marker file is not there yet; then never again."""

    def setup(self, marker: str) -> None:
        path = Path(marker)
        if path.exists():
            print("I will not start again", flush=True)
            os.kill(os.getpid(), 9)
        path.touch()

    def infer(self, inputs):
        return {"y": inputs["x"]}


class Hangs(Numbers):
    """A negative x never comes back; the second time it does."""

    batch_max = 1

    def setup(self, marker: str) -> None:
        self.marker = Path(marker)

    def infer(self, inputs):
        if (inputs["x"] < 0).any() and not self.marker.exists():
            self.marker.touch()
            threading.Event().wait()
        return {"y": inputs["x"]}


class Burns(Numbers):
    """Computes on one core for a fixed amount of work, outside Python's lock."""

    batch_max = 1

    def setup(self, iterations: int = 4000) -> None:
        self.iterations = iterations

    def infer(self, inputs):
        hashlib.pbkdf2_hmac("sha256", b"password", b"salt", self.iterations)
        return {"y": np.ascontiguousarray(inputs["x"])}


class Spans(Numbers):
    """When it began and when it ended, with some time between."""

    batch_max = 1
    outputs = (("began_ns", "INT64", [-1, 1]), ("ended_ns", "INT64", [-1, 1]))

    def setup(self, takes_ms: int = 3) -> None:
        self.takes_s = takes_ms / 1000

    def infer(self, inputs):
        began_ns = time.monotonic_ns()
        time.sleep(self.takes_s)  # as if a device were busy
        ended_ns = time.monotonic_ns()
        x = inputs["x"]
        return {"began_ns": np.full_like(x, began_ns), "ended_ns": np.full_like(x, ended_ns)}
