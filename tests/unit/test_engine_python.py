"""Classes of the user, served; and the identity engine."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gslice import _native
from gslice.core.errors import FailedPrecondition, Internal, LoadFailed
from gslice.core.types import FunctionSpec, Signature, TensorSpec
from gslice.device.cpu import CpuDevice
from gslice.worker.engines import make_engine
from tests.served import PlainEngine, Served

SOURCE = '''
import numpy as np

class Scale:
    """y = factor * x; remembers the batches it got."""
    inputs = [("x", "FP32", [-1, 2])]
    outputs = [("y", "FP32", [-1, 2])]
    batch_max = 8

    def setup(self, factor):
        self.factor = np.float32(factor)

    def infer(self, inputs):
        return {"y": inputs["x"] * self.factor, **EXTRA}

class Shout:
    inputs = [("text", "BYTES", [-1])]

    def outputs(self):
        return [("loud", "BYTES", [-1]), ("length", "INT64", [-1])]

    def infer(self, inputs):
        text = inputs["text"]
        return {"loud": [t.decode().upper() for t in text],
                "length": np.array([len(t) for t in text])}

class Mute(Exception):
    def __str__(self):
        raise RuntimeError("nothing to say")

class Wrong:
    """Returns, or raises, whatever the request says."""
    inputs = [("x", "INT64", [1])]
    outputs = [("y", "FP32", [1])]

    def infer(self, inputs):
        good = np.ones(1, np.float32)
        case = int(inputs["x"][0])
        if case == 1:
            raise ValueError("unlucky\\nsecond line")
        if case == 7:
            raise ValueError("half of \\udc80 character")
        if case == 8:
            raise Mute
        return {0: {"y": good}, 2: good, 3: {}, 4: {"y": good, "z": good},
                5: {"y": np.ones(1)}, 6: {"y": np.ones(2, np.float32)}}[case]

class Whole:
    inputs = [("x", "FP32", [-1])]
    outputs = [("y", "FP32", [-1])]
    batch_max = 0
    def infer(self, inputs):
        return {"y": np.flip(inputs["x"])}

class Writes:
    inputs = [("x", "FP32", [-1])]
    outputs = [("y", "FP32", [-1])]
    def infer(self, inputs):
        inputs["x"][0] = 1
        return {"y": inputs["x"]}

class NoInfer:
    inputs = outputs = [("x", "FP32", [-1])]

class NoInputs:
    outputs = [("x", "FP32", [-1])]
    def infer(self, inputs): ...

class BadType:
    inputs = outputs = [("x", "FLOAT", [-1])]
    def infer(self, inputs): ...

class BadSetup:
    def setup(self):
        raise RuntimeError("no weights")
    def infer(self, inputs): ...

EXTRA = {}
not_a_class = 1
'''


@pytest.fixture
def module(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "user_code.py").write_text(SOURCE)
    (tmp_path / "broken_code.py").write_text("import no_such_package\n")
    (tmp_path / "failing_code.py").write_text("1 / 0\n")
    path = list(sys.path)
    yield tmp_path
    sys.path[:] = path
    for name in ("user_code", "broken_code", "failing_code"):
        sys.modules.pop(name, None)


def spec_of(folder: Path, name: str, **options: object) -> FunctionSpec:
    target = name if ":" in name else f"user_code:{name}"
    return FunctionSpec("f", engine="python", python=target, python_path=str(folder), **options)


def test_requests_are_joined_along_the_first_dimension(module: Path) -> None:
    spec = spec_of(module, "Scale", args={"factor": 3}, lanes=1)
    with Served(spec) as served:
        assert served.signature.rows_max == 8
        requests = [{"x": np.full((n, 2), n, np.float32)} for n in (1, 3, 2)]
        for inputs, answer in zip(requests, served.infer_together(requests), strict=True):
            np.testing.assert_array_equal(answer["y"], inputs["x"] * 3)
        assert served.pump.counters()["python_calls"] == 1


def test_batch_max_of_function_and_class_both_count(module: Path) -> None:
    for asked, expected in ((4, 4), (100, 8), (0, 8)):
        engine = make_engine("python")
        signature = engine.load(
            spec_of(module, "Scale", args={"factor": 1}, batch_max=asked), CpuDevice((0,), 100)
        )
        assert signature.rows_max == expected


def test_text_goes_in_as_bytes_and_out_as_bytes_or_text(module: Path) -> None:
    with Served(spec_of(module, "Shout")) as served:
        first, second = served.infer_together(
            [
                {"text": np.array([b"a", "größe".encode()], object)},
                {"text": np.array([b""], object)},
            ]
        )
        assert first["loud"].tolist() == [b"A", "GRÖSSE".encode()]
        assert first["length"].tolist() == [1, 7]
        assert second["loud"].tolist() == [b""]


def test_a_class_that_is_never_batched_gets_the_request_as_it_is(module: Path) -> None:
    with Served(spec_of(module, "Whole")) as served:
        answers = served.infer_together([{"x": np.arange(n, dtype=np.float32)} for n in (3, 2)])
        assert [a["y"].tolist() for a in answers] == [[2, 1, 0], [1, 0]]


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (1, "ValueError: unlucky"),
        (2, "TypeError: infer must return a dict, not ndarray"),
        (3, "ValueError: infer returned no output 'y'"),
        (4, "ValueError: infer returned 'z'; the outputs are y"),
        (5, "output 'y' is FP64, the signature says FP32"),
        (6, r"output 'y' has shape \[2\], the signature says \[1\]"),
        (7, r"ValueError: half of \\udc80 character"),
        (8, r"Mute: \(it cannot be shown as text\)"),
    ],
)
def test_what_is_wrong_fails_the_request_and_no_other(
    module: Path, case: int, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)  # half a character in a report cannot leave a test process
    with Served(spec_of(module, "Wrong")) as served:
        with pytest.raises(Internal, match=f'^function "f": {message}$'):
            served.infer({"x": np.array([case])})
        assert served.infer({"x": np.array([0])})["y"].tolist() == [1]


def test_inputs_are_read_only(module: Path) -> None:
    with (
        Served(spec_of(module, "Writes")) as served,
        pytest.raises(Internal, match="read-only"),
    ):
        served.infer({"x": np.zeros(1, np.float32)})


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("NoInfer", "user_code:NoInfer has no method infer"),
        ("NoInputs", "user_code:NoInputs declares no inputs"),
        ("BadType", "user_code:BadType.inputs: ValueError: 'FLOAT' is no KServe type"),
        ("BadSetup", "user_code:BadSetup: RuntimeError: no weights"),
        ("Scale", "user_code:Scale: TypeError: .*factor"),
        ("not_a_class", "user_code:not_a_class is no class"),
        ("absent", "user_code has no class 'absent'"),
        ("absent:Thing", "no module 'absent' in "),
        ("broken_code:Thing", "no module 'no_such_package'$"),
        ("failing_code:Thing", "importing failing_code: ZeroDivisionError"),
    ],
)
def test_a_class_that_cannot_be_loaded_says_why(module: Path, target: str, reason: str) -> None:
    engine = make_engine("python")
    with pytest.raises(LoadFailed, match=f"function f: {reason}"):
        engine.load(spec_of(module, target), CpuDevice((0,), 100.0))


def test_args_without_setup_are_an_error(module: Path) -> None:
    engine = make_engine("python")
    with pytest.raises(LoadFailed, match="it has args, but the class has no setup method"):
        engine.load(spec_of(module, "Shout", args={"a": 1}), CpuDevice((0,), 100.0))


def test_a_batch_is_valid_only_during_its_call() -> None:
    tensors = (TensorSpec("x", "FP32", (-1,)),)
    kept: list[_native.Batch] = []

    def call(batch: _native.Batch) -> None:
        kept.append(batch)
        batch.set_output(0, batch.input_array(0))

    with Served(FunctionSpec("f"), engine=PlainEngine(Signature(tensors, tensors, 4), call)) as it:
        assert it.infer({"x": np.ones(2, np.float32)})["x"].tolist() == [1, 1]
        with pytest.raises(FailedPrecondition, match="valid only during its call"):
            kept[0].input_array(0)


def test_what_the_user_keeps_of_a_batch_stays_readable() -> None:
    tensors = (TensorSpec("x", "FP32", (-1, -1)), TensorSpec("s", "BYTES", (-1, -1)))
    kept: list[tuple[np.ndarray, memoryview]] = []

    def call(batch: _native.Batch) -> None:
        kept.append((batch.input_array(0), batch.input_bytes(1)))
        batch.set_output(0, batch.input_array(0))
        batch.set_output_bytes(1, batch.input_bytes(1).tobytes(), batch.input_shape(1))

    def inputs(width: int) -> dict[str, np.ndarray]:
        return {"x": np.full((1, width), width, np.float32), "s": np.full((1, width), b"text")}

    served = Served(FunctionSpec("f"), engine=PlainEngine(Signature(tensors, tensors, 4), call))
    widths = (20_000, 40_000, 1)  # each gathered: in a buffer, in a larger one; where it lies
    for width in widths:
        served.infer_together([inputs(width)] * (1 if width == 1 else 2))
    served.close()
    del served
    for width, (array, text) in zip(widths, kept, strict=True):
        assert (array == width).all()
        assert bytes(text).count(b"text") == array.size
        assert text.readonly


# ---- identity --------------------------------------------------------------------------------


def identity(**args: object) -> FunctionSpec:
    return FunctionSpec("f", engine="identity", args=args)


def test_identity_copies_inputs_to_outputs() -> None:
    tensors = [{"name": "x", "dtype": "FP32", "dims": [-1, -1]}]
    with Served(identity(inputs=tensors)) as served:
        assert served.signature == Signature(
            (TensorSpec("x", "FP32", (-1, -1)),), (TensorSpec("x", "FP32", (-1, -1)),), 16
        )
        x = np.random.default_rng(2).standard_normal((3, 5)).astype(np.float32)
        np.testing.assert_array_equal(served.infer({"x": x})["x"], x)
        assert served.pump.lane_tids() == []
        assert served.segment.stats()["copies"] == 3  # one of them its own


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ({}, "needs a list of inputs"),
        ({"inputs": [{"name": "x"}]}, "missing dtype, dims"),
        (
            {
                "inputs": [{"name": "x", "dtype": "FP32", "dims": [2]}],
                "outputs": [{"name": "y", "dtype": "FP64", "dims": [2]}],
            },
            "the types and dims of its inputs",
        ),
    ],
)
def test_identity_without_sensible_tensors_is_refused(args: dict[str, object], reason: str) -> None:
    with pytest.raises(LoadFailed, match=reason):
        make_engine("identity").load(identity(**args), CpuDevice((0,), 100.0))
