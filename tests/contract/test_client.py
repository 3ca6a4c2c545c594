"""gslice.Client and gslice.aio.Client: NumPy in and out, errors of the tree."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest

import gslice
from gslice.client import calls, tensors
from gslice.core.errors import (
    Cancelled,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    NotFound,
    Unavailable,
    Unimplemented,
)
from gslice.core.types import Signature, TensorSpec
from gslice.ipc import messages
from gslice.protos import message
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


@pytest.fixture
def client(frontend):
    with gslice.Client(frontend.address, timeout_s=20) as connection:
        yield connection


# ---- values ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NUMBERS, ids=lambda kind: kind.__name__)
def test_numbers(serve, client, kind):
    serve("echo", signature(tensors.wire_dtype(np.dtype(kind))))
    sent = np.arange(8).reshape(2, 4).astype(kind)
    got = client.infer("echo", {"x": sent})["y"]
    assert got.dtype == sent.dtype
    np.testing.assert_array_equal(got, sent)


def test_other_memory_layouts(serve, client):
    serve("echo")
    base = np.arange(32, dtype=np.float32).reshape(4, 8)
    for sent in (base[:, ::2], base.T[:4, :].copy(order="F"), base[::-1, :4].astype(">f4")):
        np.testing.assert_array_equal(client.infer("echo", {"x": sent})["y"], sent)


def test_bf16_bits(serve, client):
    """uint16 stands for the bits of BF16, as where ml_dtypes is not installed."""
    serve("echo", signature("BF16"))
    sent = np.array([[0.5, 1.0, -2.0, 0.0]], ml_dtypes.bfloat16)
    got = client.infer("echo", {"x": sent.view(np.uint16)})["y"]
    np.testing.assert_array_equal(got, sent)


def test_uint16_stays_uint16(serve, client):
    serve("echo", signature("UINT16"))
    sent = np.array([[0, 1, 2, 65535]], np.uint16)
    assert client.infer("echo", {"x": sent})["y"].dtype == np.uint16


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
def test_texts(serve, client, sent, expected):
    serve("echo", signature("BYTES", (-1, 2)))
    got = client.infer("echo", {"x": sent})["y"]
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
def test_plain_values_are_fitted_to_the_signature(serve, client, dtype, sent, expected):
    serve("echo", signature(dtype, (-1, -1)))
    got = client.infer("echo", {"x": sent})["y"]
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(got, expected)


def test_outputs_wanted(serve, client):
    pair = Signature(
        (TensorSpec("a", "FP32", (-1,)), TensorSpec("b", "INT8", (-1,))),
        (TensorSpec("p", "FP32", (-1,)), TensorSpec("q", "INT8", (-1,))),
        4,
    )
    serve("pair", pair)
    inputs = {"a": np.ones(2, np.float32), "b": np.zeros(2, np.int8)}
    assert list(client.infer("pair", inputs)) == ["p", "q"]
    assert list(client.infer("pair", inputs, ["q"])) == ["q"]


def test_results_are_read_only(serve, client):
    serve("echo")
    got = client.infer("echo", {"x": np.zeros((1, 4), np.float32)})["y"]
    with pytest.raises(ValueError, match="read-only"):
        got[0, 0] = 1


# ---- errors ----------------------------------------------------------------------------------


def test_values_that_cannot_travel(serve, client):
    serve("echo")
    for value, words in (
        (np.zeros((1, 4), np.complex64), "complex64"),
        ([["a", "b", "c", "d"]], "does not fit FP32"),
        ([[1, 2], [3]], "does not fit FP32"),
    ):
        with pytest.raises(InvalidArgument, match=words):
            client.infer("echo", {"x": value})
    serve("words", signature("BYTES", (-1, 1)))
    with pytest.raises(InvalidArgument, match="must be bytes or str, not int"):
        client.infer("words", {"x": np.array([[1]], object)})
    with pytest.raises(InvalidArgument, match=r"no input 'z'.*it has x"):
        client.infer("words", {"z": "a"})


def test_broken_answers():
    for data, dtype, shape in (
        (b"\0" * 7, "FP32", (2,)),
        (b"\5\0\0\0abc", "BYTES", (1,)),
        (b"\5\0", "BYTES", (1,)),
        (b"", "FP8", (0,)),
    ):
        with pytest.raises(Internal, match="broken"):
            tensors.decode(data, dtype, shape)


def test_errors_of_the_tree(serve, frontend, client):
    echo = serve("echo")
    x = np.zeros((1, 4), np.float32)
    with pytest.raises(NotFound, match="nobody"):
        client.infer("nobody", {"x": x})
    with pytest.raises(InvalidArgument, match="FP64"):
        client.infer("echo", {"x": x.astype(np.float64)})
    echo.set_state("UNAVAILABLE", "gone")
    with pytest.raises(Unavailable, match="gone") as error:
        client.infer("echo", {"x": x})
    assert error.value.retriable
    echo.set_state("READY")
    echo.hold()
    with pytest.raises(DeadlineExceeded):
        client.infer("echo", {"x": x}, timeout_s=0.1)
    trace = calls.Call("TraceSetting", message("inference.TraceSettingRequest")(), bool)
    with pytest.raises(Unimplemented):
        client._do(trace, None)


def test_no_server():
    with gslice.Client("127.0.0.1:9", timeout_s=5) as client:
        assert not client.live()
        assert not client.ready()
        with pytest.raises(Unavailable):
            client.index()


def test_a_stale_signature_is_forgotten(serve, client):
    serve("echo", signature("FP32", (-1, 2)))
    client.infer("echo", {"x": [[1, 2]]})
    serve("echo", signature("INT8", (-1, 2)))
    with pytest.raises(InvalidArgument):
        client.infer("echo", {"x": [[1, 2]]})
    assert client.infer("echo", {"x": [[1, 2]]})["y"].dtype == np.int8


def test_a_stale_signature_is_no_hindrance(serve, client):
    serve("echo", signature("INT64", (-1, 2)))
    client.infer("echo", {"x": [[1, 2]]})
    serve("echo", signature("FP32", (-1, 2)))
    assert client.infer("echo", {"x": [[0.5, 2]]})["y"].tolist() == [[0.5, 2]]


@pytest.mark.parametrize(("old", "new"), [("FP32", "INT8"), ("INT64", "BYTES")])
def test_a_stream_forgets_a_stale_signature(serve, client, old, new):
    value = ["a", "b"] if new == "BYTES" else [1, 2]
    serve("echo", signature(old, (-1, 2)))
    client.infer("echo", {"x": [[1, 2]]})
    serve("echo", signature(new, (-1, 2)))
    with contextlib.suppress(InvalidArgument):  # only the server could tell the first one
        list(client.infer_stream("echo", [{"x": [value]}]))
    (outputs,) = client.infer_stream("echo", [{"x": [value]}])
    assert outputs["y"].dtype == (object if new == "BYTES" else np.int8)


# ---- the other calls -----------------------------------------------------------------------------


def test_what_the_server_tells(serve, frontend, client, monkeypatch):
    shape = Signature(signature().inputs, signature().outputs, 8, (2, 8))
    serve("echo", shape)
    serve("whole", signature("UINT8", (3, -1), rows_max=0))
    assert client.metadata("echo") == shape
    assert client.metadata("whole") == signature("UINT8", (3, -1), rows_max=0)
    assert client.config("echo")["max_batch_size"] == 8
    client.infer("echo", {"x": np.zeros((2, 4), np.float32)}, request_id="a")
    (stats,) = client.statistics("echo")
    assert stats["inference_count"] == "2"
    assert [entry.name for entry in client.index()] == ["echo", "whole"]
    assert client.ready("echo")
    monkeypatch.setenv("GSLICE_URL", frontend.address)
    with gslice.Client() as other:
        assert other.url == frontend.address
        assert other.live()


def test_load_and_unload(frontend, client):
    with ThreadPoolExecutor(1) as pool:
        for call, expected in (
            (lambda: client.load("new", '{"share": 0.5}'), ("load", "new", '{"share": 0.5}')),
            (lambda: client.unload("new"), ("unload", "new", "")),
        ):
            done = pool.submit(call)
            asked = frontend.next_call()
            assert asked.message == messages.RepositoryCall(*expected)
            frontend.answer(asked, messages.Ok())
            assert done.result() is None


def rows(count):
    return [{"x": np.full((1, 4), i, np.float32)} for i in range(count)]


def test_stream(serve, client):
    serve("echo", slots=((4096, 64),))
    for i, outputs in enumerate(client.infer_stream("echo", rows(100))):
        np.testing.assert_array_equal(outputs["y"], np.full((1, 4), i))
    assert i == 99


def test_a_stream_that_fails(serve, client):
    serve("echo")
    broken = [*rows(2), {"x": np.zeros((1, 5), np.float32)}, *rows(1)]
    results = client.infer_stream("echo", broken)
    next(results)
    next(results)
    with pytest.raises(InvalidArgument, match='"x"'):
        next(results)

    def unwilling():
        yield rows(1)[0]
        raise RuntimeError("no more")

    results = client.infer_stream("echo", unwilling())
    next(results)
    with pytest.raises(RuntimeError, match="no more"):
        next(results)


def test_a_stream_that_is_left(serve, client):
    echo = serve("echo", slots=((4096, 4),))
    results = client.infer_stream("echo", rows(3))
    next(results)
    echo.hold()
    results.close()
    echo.wait_idle()


# ---- asyncio ---------------------------------------------------------------------------------


def run(frontend, scenario):
    async def main():
        async with gslice.aio.Client(frontend.address, timeout_s=20) as client:
            await scenario(client)

    asyncio.run(main())


def test_aio(serve, frontend):
    shape = Signature(signature().inputs, signature().outputs, 8, (2, 8))
    serve("echo", shape, slots=((4096, 64),))

    async def scenario(client):
        assert await client.live()
        assert await client.ready()
        assert await client.ready("echo")
        assert await client.metadata("echo") == shape
        assert (await client.config("echo"))["name"] == "echo"
        results = await asyncio.gather(*(client.infer("echo", inputs) for inputs in rows(50)))
        for i, outputs in enumerate(results):
            np.testing.assert_array_equal(outputs["y"], np.full((1, 4), i))
        assert (await client.infer("echo", {"x": [[1, 2, 3, 4]]}))["y"].dtype == np.float32
        assert (await client.statistics("echo"))[0]["inference_count"] == "51"
        assert [entry.state for entry in await client.index()] == ["READY"]
        with pytest.raises(NotFound):
            await client.metadata("nobody")

    run(frontend, scenario)


def test_aio_streams(serve, frontend):
    serve("echo", slots=((4096, 64),))

    async def later():
        for inputs in rows(20):
            await asyncio.sleep(0)
            yield inputs

    async def scenario(client):
        for requests in (rows(20), later()):
            i = 0
            async for outputs in client.infer_stream("echo", requests):
                np.testing.assert_array_equal(outputs["y"], np.full((1, 4), i))
                i += 1
            assert i == 20
        with pytest.raises(InvalidArgument):
            async for _ in client.infer_stream("echo", [{"x": np.zeros((1, 3), np.float32)}]):
                pass
        with pytest.raises(NotFound, match="nobody"):
            async for _ in client.infer_stream("nobody", [{"x": [1]}]):
                pass

    run(frontend, scenario)


def test_an_aio_stream_forgets_a_stale_signature(serve, frontend):
    serve("echo", signature("FP32", (-1, 2)))

    async def scenario(client):
        async def dtypes():
            stream = client.infer_stream("echo", [{"x": [[1, 2]]}])
            return [outputs["y"].dtype async for outputs in stream]

        assert await dtypes() == [np.float32]
        await asyncio.to_thread(serve, "echo", signature("INT8", (-1, 2)))
        with pytest.raises(InvalidArgument):
            await dtypes()
        assert await dtypes() == [np.int8]
        await asyncio.to_thread(serve, "echo", signature("BYTES", (-1, 2)))
        assert (await client.infer("echo", {"x": [["a", "b"]]}))["y"].tolist() == [[b"a", b"b"]]

    run(frontend, scenario)


def test_aio_cancel(serve, frontend):
    echo = serve("echo")
    echo.hold()

    async def scenario(client):
        call = asyncio.ensure_future(client.infer("echo", rows(1)[0]))
        await asyncio.to_thread(echo.wait_count, "queued", 1)
        call.cancel()
        with pytest.raises((asyncio.CancelledError, Cancelled)):
            await call
        await asyncio.to_thread(echo.wait_idle)

    run(frontend, scenario)


def test_no_engine_and_no_native_code_is_imported():
    code = (
        "import sys; sys.modules['gslice._native'] = None\n"
        "import gslice; gslice.Client, gslice.aio.Client, gslice.errors.NotFound\n"
        "heavy = {'onnxruntime', 'torch', 'pydantic', 'typer', 'rich', 'gslice.frontend'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_closed_client_says_so():
    client = gslice.Client("127.0.0.1:1")
    client.close()
    client.close()
    with pytest.raises(gslice.errors.FailedPrecondition, match="closed"):
        client.live()

    async def scenario():
        client = gslice.aio.Client("127.0.0.1:1")
        await client.close()
        with pytest.raises(gslice.errors.FailedPrecondition, match="closed"):
            await client.infer("f", {"x": np.zeros(1)})

    asyncio.run(scenario())
