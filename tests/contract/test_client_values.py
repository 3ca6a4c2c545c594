"""gslice.Client: NumPy values in and out, of every data type."""

from __future__ import annotations

import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

from gslice.client import tensors
from gslice.core.errors import InvalidArgument
from gslice.core.types import Signature, TensorSpec
from tests.contract.direct import signature

NUMBERS = [
    np.bool_,
    np.uint8,
    np.uint16,
    np.uint32,
    np.uint64,
    np.int8,
    np.int16,
    np.int32,
    np.int64,
    np.float16,
    np.float32,
    np.float64,
    ml_dtypes.bfloat16,
]


@pytest.mark.parametrize("kind", NUMBERS, ids=lambda kind: kind.__name__)
def test_numbers(serve, own_client, kind):
    serve("echo", signature(tensors.wire_dtype(np.dtype(kind))))
    sent = np.arange(8).reshape(2, 4).astype(kind)
    got = own_client.infer("echo", {"x": sent})["y"]
    assert got.dtype == sent.dtype
    np.testing.assert_array_equal(got, sent)


def test_other_memory_layouts(serve, own_client):
    serve("echo")
    base = np.arange(32, dtype=np.float32).reshape(4, 8)
    for sent in (base[:, ::2], base.T[:4, :].copy(order="F"), base[::-1, :4].astype(">f4")):
        np.testing.assert_array_equal(own_client.infer("echo", {"x": sent})["y"], sent)


def test_bf16_bits(serve, own_client):
    """uint16 stands for the bits of BF16, as where ml_dtypes is not installed."""
    serve("echo", signature("BF16"))
    sent = np.array([[0.5, 1.0, -2.0, 0.0]], ml_dtypes.bfloat16)
    got = own_client.infer("echo", {"x": sent.view(np.uint16)})["y"]
    np.testing.assert_array_equal(got, sent)


def test_uint16_stays_uint16(serve, own_client):
    serve("echo", signature("UINT16"))
    sent = np.array([[0, 1, 2, 65535]], np.uint16)
    assert own_client.infer("echo", {"x": sent})["y"].dtype == np.uint16


@pytest.mark.parametrize(
    ("dtype", "value", "words"),
    [
        ("INT64", [1.7], "1.7 would become 1"),
        ("INT64", [float("nan")], "NaN"),
        ("UINT8", [300], "out of bounds|300 would become 44"),
        ("INT8", np.array([200], np.uint8), "200 would become -56"),
        ("INT32", np.array([2**40]), "1099511627776 would become 0"),
        ("BOOL", [2], "2 would become True"),
        ("FP16", [1e6], "1000000.0 would become inf"),
        ("FP32", ["1"], "is no number"),
        ("FP32", [None], "is no number"),
        ("INT64", [2**63], "would become|too large"),
    ],
)
def test_values_that_would_change_are_refused(dtype, value, words):
    spec = TensorSpec("x", dtype, (-1,))
    with pytest.raises(InvalidArgument, match=rf"input 'x' does not fit {dtype}: .*({words})"):
        tensors.as_array(value, spec)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("INT64", [2.0, -1]),
        ("UINT64", [2**64 - 1, 1]),
        ("BOOL", [0, 1]),
        ("FP32", [0.1, 2**24 + 1, float("inf"), float("nan")]),
        ("FP16", np.array([0.1, 3], np.float64)),
        ("UINT8", np.arange(256)),
        ("FP32", np.array([0.5], ml_dtypes.bfloat16)),
    ],
)
def test_values_that_stay_are_fitted(dtype, value):
    array = tensors.as_array(value, TensorSpec("x", dtype, (-1,)))
    assert array.dtype == tensors.DTYPES[dtype]
    np.testing.assert_array_equal(array, np.array(value, array.dtype))


def test_bits_of_bf16_stay_bits():
    bits = np.array([0x3F80], np.uint16)
    array = tensors.as_array(bits, TensorSpec("x", "BF16", (-1,)))
    assert (array.dtype, array.tolist()) == (ml_dtypes.bfloat16, [1.0])


def test_without_ml_dtypes(serve, frontend):
    code = (
        "import sys; sys.modules['ml_dtypes'] = None\n"
        "import numpy as np, gslice\n"
        f"with gslice.Client({frontend.address!r}) as client:\n"
        "    bits = np.array([[1, 2, 3, 0x3f80]], np.uint16)\n"
        "    got = client.infer('echo', {'x': bits})['y']\n"
        "    assert got.dtype == np.uint16, got.dtype\n"
        "    np.testing.assert_array_equal(got, bits)\n"
        "    try: client.infer('echo', {'x': [[0.5, 1, 1, 1]]})\n"
        "    except gslice.errors.InvalidArgument as error: assert 'ml_dtypes' in str(error)\n"
        "    else: raise AssertionError('taken for bits')\n"
    )
    serve("echo", signature("BF16"))
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ([["a", b"\xff"]], [b"a", b"\xff"]),
        ([("gr\u00fc\u00df", "")], ["gr\u00fc\u00df".encode(), b""]),
        (np.array([["a", "bc"]]), [b"a", b"bc"]),
        (np.array([[b"a", "b"]], object), [b"a", b"b"]),
    ],
    ids=["list", "tuple", "text array", "object array"],
)
def test_texts(serve, own_client, sent, expected):
    serve("echo", signature("BYTES", (-1, 2)))
    got = own_client.infer("echo", {"x": sent})["y"]
    assert (got.dtype, got.shape) == (object, (1, 2))
    assert list(got[0]) == expected


@pytest.mark.parametrize(
    ("dtype", "sent", "expected"),
    [
        ("FP32", [[1, 2.5]], np.array([[1, 2.5]], np.float32)),
        ("FP32", 3, np.array([[3]], np.float32)),
        ("INT64", np.int32(7), np.array([[7]], np.int64)),
        ("BOOL", [[True, False, True]], np.array([[True, False, True]])),
        ("BYTES", "one text", np.array([[b"one text"]], object)),
        ("BYTES", b"\0\xff", np.array([[b"\0\xff"]], object)),
        ("BF16", [[0.5]], np.array([[0.5]], ml_dtypes.bfloat16)),
    ],
)
def test_plain_values_are_fitted_to_the_signature(serve, own_client, dtype, sent, expected):
    serve("echo", signature(dtype, (-1, -1)))
    got = own_client.infer("echo", {"x": sent})["y"]
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(got, expected)


def test_outputs_wanted(serve, own_client):
    pair = Signature(
        (TensorSpec("a", "FP32", (-1,)), TensorSpec("b", "INT8", (-1,))),
        (TensorSpec("p", "FP32", (-1,)), TensorSpec("q", "INT8", (-1,))),
        4,
    )
    serve("pair", pair)
    inputs = {"a": np.ones(2, np.float32), "b": np.zeros(2, np.int8)}
    assert list(own_client.infer("pair", inputs)) == ["p", "q"]
    assert list(own_client.infer("pair", inputs, ["q"])) == ["q"]


def test_results_are_read_only(serve, own_client):
    serve("echo")
    got = own_client.infer("echo", {"x": np.zeros((1, 4), np.float32)})["y"]
    with pytest.raises(ValueError, match="read-only"):
        got[0, 0] = 1
