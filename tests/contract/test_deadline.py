"""Deadlines and cancels: a clear status, and the slot comes back."""

from __future__ import annotations

import queue
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from tests.contract.direct import WAIT_S
from tests.contract.http2 import CALL, Http2, framed


@pytest.fixture
def echo(serve):
    """A function whose requests stay in the queue until it is released."""
    function = serve("echo", slots=((4096, 64),))
    function.hold()
    return function


def tensor():
    made = triton.InferInput("x", [1, 4], "FP32")
    made.set_data_from_numpy(np.zeros((1, 4), np.float32))
    return made


def request(timeout_us=0):
    made = service_pb2.ModelInferRequest(model_name="echo")
    made.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    made.raw_input_contents.append(bytes(16))
    if timeout_us:
        made.parameters["timeout"].int64_param = timeout_us
    return made


def test_the_clients_deadline(echo, client):
    with pytest.raises(InferenceServerException, match="DEADLINE_EXCEEDED"):
        client.infer("echo", [tensor()], client_timeout=0.2)
    echo.wait_idle()


def test_the_timeout_parameter_without_a_worker(echo, client):
    """Nobody claims the request, so nobody but the front-end can answer it."""
    started = time.monotonic()
    with pytest.raises(InferenceServerException, match=r"DEADLINE_EXCEEDED.*deadline"):
        client.infer("echo", [tensor()], timeout=200_000)
    assert 0.19 < time.monotonic() - started < WAIT_S
    echo.wait_idle()
    assert echo.segment.stats()["outcome"]["expired"] == 1


def test_the_earlier_deadline_counts(echo, client):
    with pytest.raises(InferenceServerException, match="the deadline passed without an answer"):
        client.infer("echo", [tensor()], timeout=100_000, client_timeout=WAIT_S)
    echo.wait_idle()


def test_a_request_in_time_is_answered(echo, client):
    echo.release()
    result = client.infer("echo", [tensor()], timeout=10_000_000, client_timeout=WAIT_S)
    assert result.as_numpy("y") is not None


@pytest.mark.parametrize("timeout_s", [1e8, 3e9])
def test_a_distant_deadline_is_none(echo, channel, timeout_s):
    echo.release()
    assert channel.unary_unary(CALL)(request().SerializeToString(), timeout=timeout_s)


@pytest.mark.parametrize("timeout_us", [2**62, 2**63 - 1])
def test_a_distant_timeout(echo, channel, timeout_us):
    echo.release()
    assert channel.unary_unary(CALL)(request(timeout_us).SerializeToString())


def test_past_its_deadline_it_never_runs(echo, client):
    with pytest.raises(InferenceServerException, match="DEADLINE_EXCEEDED"):
        client.infer("echo", [tensor()], timeout=1)
    echo.release()
    echo.wait_idle()
    assert echo.segment.stats()["executions"] == 0


def test_a_deadline_in_a_stream(echo, channel):
    """The stream goes on after one of its requests was too late."""
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    requests: queue.Queue = queue.Queue()
    call = stub.ModelStreamInfer(iter(requests.get, None))
    requests.put(request(timeout_us=100_000))
    assert "deadline" in next(call).error_message
    echo.release()
    requests.put(request())
    answer = next(call)
    assert not answer.error_message
    requests.put(None)
    assert list(call) == []


def test_a_cancelled_call(echo, client):
    done: queue.Queue = queue.Queue()
    call = client.async_infer("echo", [tensor()], lambda result, error: done.put((result, error)))
    echo.wait_count("queued", 1)
    call.cancel()
    result, error = done.get(timeout=WAIT_S)
    assert result is None
    assert "ancelled" in str(error)
    echo.wait_idle()
    assert echo.segment.stats()["outcome"]["cancelled"] == 1


def test_a_storm_of_cancels(echo, channel):
    """Calls cancelled in every state that they can be in; those that are not get their answers."""
    call = channel.unary_unary(CALL)
    message = request().SerializeToString()
    with ThreadPoolExecutor(1) as switch:
        for wave in range(20):
            calls = [call.future(message) for _ in range(40)]
            flipped = switch.submit(echo.release if wave % 2 else echo.hold)
            for future in calls[::2]:
                future.cancel()
            flipped.result()
            echo.release()
            for future in calls[1::2]:
                assert future.result(timeout=WAIT_S)
            echo.hold()
    echo.release()
    echo.wait_idle()


def test_abandoned_connections(echo, frontend):
    for _ in range(5):
        channel = grpc.insecure_channel(frontend.address)
        calls = [channel.unary_unary(CALL).future(request().SerializeToString()) for _ in range(8)]
        echo.wait_count("queued", 8)
        channel.close()
        for call in calls:
            assert call.exception(timeout=WAIT_S) is not None
        echo.wait_idle()


def test_a_slow_upload_holds_no_slot(echo, client, frontend):
    """A slot is leased when the whole message is there, not before."""
    body = framed(request().SerializeToString())
    with Http2(frontend.address) as raw:
        stream = raw.call()
        raw.data(stream, body[:-8])
        for _ in range(20):  # round trips in which it could have leased one
            assert client.is_server_live()
            assert echo.count("free") == 64
        raw.data(stream, body[-8:], end_stream=True)
        echo.wait_count("queued", 1)
    echo.wait_idle()
