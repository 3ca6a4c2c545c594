"""gslice.Client and gslice.aio.Client: errors of the tree, streams, what the server tells."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

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
from gslice.core.types import Signature
from gslice.ipc import messages
from gslice.protos import message
from tests.contract.direct import signature

# ---- errors ----------------------------------------------------------------------------------


def test_values_that_cannot_travel(serve, own_client):
    serve("echo")
    for value, words in (
        (np.zeros((1, 4), np.complex64), "complex64"),
        ([["a", "b", "c", "d"]], "does not fit FP32"),
        ([[1, 2], [3]], "does not fit FP32"),
    ):
        with pytest.raises(InvalidArgument, match=words):
            own_client.infer("echo", {"x": value})
    serve("words", signature("BYTES", (-1, 1)))
    with pytest.raises(InvalidArgument, match="must be bytes or str, not int"):
        own_client.infer("words", {"x": np.array([[1]], object)})
    with pytest.raises(InvalidArgument, match=r"no input 'z'.*it has x"):
        own_client.infer("words", {"z": "a"})


def test_broken_answers():
    for data, dtype, shape in (
        (b"\0" * 7, "FP32", (2,)),
        (b"\5\0\0\0abc", "BYTES", (1,)),
        (b"\5\0", "BYTES", (1,)),
        (b"", "FP8", (0,)),
    ):
        with pytest.raises(Internal, match="broken"):
            tensors.decode(data, dtype, shape)


def test_errors_of_the_tree(serve, frontend, own_client):
    echo = serve("echo")
    x = np.zeros((1, 4), np.float32)
    with pytest.raises(NotFound, match="nobody"):
        own_client.infer("nobody", {"x": x})
    with pytest.raises(InvalidArgument, match="FP64"):
        own_client.infer("echo", {"x": x.astype(np.float64)})
    echo.set_state("UNAVAILABLE", "gone")
    with pytest.raises(Unavailable, match="gone") as error:
        own_client.infer("echo", {"x": x})
    assert error.value.retriable
    echo.set_state("READY")
    echo.hold()
    with pytest.raises(DeadlineExceeded):
        own_client.infer("echo", {"x": x}, timeout_s=0.1)
    trace = calls.Call("TraceSetting", message("inference.TraceSettingRequest")(), bool)
    with pytest.raises(Unimplemented):
        own_client._do(trace, None)


def test_no_server():
    with gslice.Client("127.0.0.1:9", timeout_s=5) as client:
        assert not client.live()
        assert not client.ready()
        with pytest.raises(Unavailable):
            client.index()


def test_a_stale_signature_is_forgotten(serve, own_client):
    serve("echo", signature("FP32", (-1, 2)))
    own_client.infer("echo", {"x": [[1, 2]]})
    serve("echo", signature("INT8", (-1, 2)))
    with pytest.raises(InvalidArgument):
        own_client.infer("echo", {"x": [[1, 2]]})
    assert own_client.infer("echo", {"x": [[1, 2]]})["y"].dtype == np.int8


def test_a_stale_signature_is_no_hindrance(serve, own_client):
    serve("echo", signature("INT64", (-1, 2)))
    own_client.infer("echo", {"x": [[1, 2]]})
    serve("echo", signature("FP32", (-1, 2)))
    assert own_client.infer("echo", {"x": [[0.5, 2]]})["y"].tolist() == [[0.5, 2]]


@pytest.mark.parametrize(("old", "new"), [("FP32", "INT8"), ("INT64", "BYTES")])
def test_a_stream_forgets_a_stale_signature(serve, own_client, old, new):
    value = ["a", "b"] if new == "BYTES" else [1, 2]
    serve("echo", signature(old, (-1, 2)))
    own_client.infer("echo", {"x": [[1, 2]]})
    serve("echo", signature(new, (-1, 2)))
    with contextlib.suppress(InvalidArgument):  # only the server could tell the first one
        list(own_client.infer_stream("echo", [{"x": [value]}]))
    (outputs,) = own_client.infer_stream("echo", [{"x": [value]}])
    assert outputs["y"].dtype == (object if new == "BYTES" else np.int8)


# ---- the other calls -----------------------------------------------------------------------------


def test_what_the_server_tells(serve, frontend, own_client, monkeypatch):
    shape = Signature(signature().inputs, signature().outputs, 8, (2, 8))
    serve("echo", shape)
    serve("whole", signature("UINT8", (3, -1), rows_max=0))
    assert own_client.metadata("echo") == shape
    assert own_client.metadata("whole") == signature("UINT8", (3, -1), rows_max=0)
    assert own_client.config("echo")["max_batch_size"] == 8
    own_client.infer("echo", {"x": np.zeros((2, 4), np.float32)}, request_id="a")
    (stats,) = own_client.statistics("echo")
    assert stats["inference_count"] == "2"
    assert [entry.name for entry in own_client.index()] == ["echo", "whole"]
    assert own_client.ready("echo")
    monkeypatch.setenv("GSLICE_URL", frontend.address)
    with gslice.Client() as other:
        assert other.url == frontend.address
        assert other.live()


def test_load_and_unload(frontend, own_client):
    with ThreadPoolExecutor(1) as pool:
        for call, expected in (
            (lambda: own_client.load("new", '{"share": 0.5}'), ("load", "new", '{"share": 0.5}')),
            (lambda: own_client.unload("new"), ("unload", "new", "")),
        ):
            done = pool.submit(call)
            asked = frontend.next_call()
            assert asked.message == messages.RepositoryCall(*expected)
            frontend.answer(asked, messages.Ok())
            assert done.result() is None


def rows(count):
    return [{"x": np.full((1, 4), i, np.float32)} for i in range(count)]


def test_stream(serve, own_client):
    serve("echo", slots=((4096, 64),))
    for i, outputs in enumerate(own_client.infer_stream("echo", rows(100))):
        np.testing.assert_array_equal(outputs["y"], np.full((1, 4), i))
    assert i == 99


def test_a_stream_that_fails(serve, own_client):
    serve("echo")
    broken = [*rows(2), {"x": np.zeros((1, 5), np.float32)}, *rows(1)]
    results = own_client.infer_stream("echo", broken)
    next(results)
    next(results)
    with pytest.raises(InvalidArgument, match='"x"'):
        next(results)

    def unwilling():
        yield rows(1)[0]
        raise RuntimeError("no more")

    results = own_client.infer_stream("echo", unwilling())
    next(results)
    with pytest.raises(RuntimeError, match="no more"):
        next(results)


def test_a_stream_that_is_left(serve, own_client):
    echo = serve("echo", slots=((4096, 4),))
    results = own_client.infer_stream("echo", rows(3))
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
