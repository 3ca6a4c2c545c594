"""Triton's unmodified asyncio client: concurrency, streams, cancels."""

from __future__ import annotations

import asyncio

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException


def tensor(array):
    made = triton.InferInput("x", list(array.shape), "FP32")
    made.set_data_from_numpy(array)
    return made


def row(value):
    return np.full((1, 4), value, np.float32)


def run(frontend, scenario):
    async def main():
        async with triton_aio.InferenceServerClient(frontend.address) as client:
            await scenario(client)

    asyncio.run(main())


def test_many_at_once(serve, frontend):
    serve("echo", slots=((4096, 64),))

    async def scenario(client):
        assert await client.is_server_live()
        assert await client.is_model_ready("echo")
        for wave in range(8):
            values = range(wave * 50, wave * 50 + 50)
            results = await asyncio.gather(
                *(client.infer("echo", [tensor(row(i))], request_id=str(i)) for i in values)
            )
            for i, result in zip(values, results, strict=True):
                assert result.get_response().id == str(i)
                np.testing.assert_array_equal(result.as_numpy("y"), row(i))

    run(frontend, scenario)


def test_stream(serve, frontend):
    serve("echo", slots=((4096, 64),))

    async def requests():
        for i in range(100):
            yield {"model_name": "echo", "inputs": [tensor(row(i))], "request_id": str(i)}

    async def scenario(client):
        ids = []
        async for result, error in client.stream_infer(requests()):
            assert error is None
            i = len(ids)
            ids.append(result.get_response().id)
            np.testing.assert_array_equal(result.as_numpy("y"), row(i))
        assert ids == [str(i) for i in range(100)]

    run(frontend, scenario)


def test_errors(serve, frontend):
    serve("echo")

    async def scenario(client):
        with pytest.raises(InferenceServerException, match="NOT_FOUND"):
            await client.infer("nobody", [tensor(row(0))])
        with pytest.raises(InferenceServerException, match="INVALID_ARGUMENT"):
            await client.infer("echo", [tensor(np.zeros((1, 3), np.float32))])

    run(frontend, scenario)


def test_a_cancelled_stream(serve, frontend):
    echo = serve("echo")
    echo.hold()

    async def requests():
        yield {"model_name": "echo", "inputs": [tensor(row(1))]}
        await asyncio.Event().wait()

    async def scenario(client):
        answers = client.stream_infer(requests())
        first = asyncio.ensure_future(answers.__anext__())
        await asyncio.to_thread(echo.wait_count, "queued", 1)
        answers.cancel()
        with pytest.raises((asyncio.CancelledError, grpc.RpcError, InferenceServerException)):
            await first
        await asyncio.to_thread(echo.wait_idle)

    run(frontend, scenario)
