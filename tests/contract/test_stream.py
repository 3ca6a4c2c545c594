"""ModelStreamInfer: order, errors in the stream, many in flight, cancels."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2, service_pb2_grpc

from gslice.frontend.stream import IN_FLIGHT_MAX
from tests.contract.direct import WAIT_S, signature, wait_until


def tensor(array):
    made = triton.InferInput("x", list(array.shape), "FP32")
    made.set_data_from_numpy(array)
    return made


def row(value):
    return np.full((1, 4), value, np.float32)


@contextmanager
def stream(client, **options) -> Iterator[queue.Queue]:
    answers: queue.Queue = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)), **options)
    try:
        yield answers
    finally:
        client.stop_stream(cancel_requests=True)


def take(answers):
    return answers.get(timeout=WAIT_S)


def test_answers_come_in_the_order_of_the_requests(serve, client):
    serve("echo", slots=((4096, 64),))
    with stream(client) as answers:
        for i in range(200):
            client.async_stream_infer("echo", [tensor(row(i))], request_id=str(i))
            if i >= 50:  # some tens in flight all the time
                check(take(answers), i - 50)
        for i in range(150, 200):
            check(take(answers), i)


def check(answer, i):
    result, error = answer
    assert error is None, error
    assert result.get_response().id == str(i)
    np.testing.assert_array_equal(result.as_numpy("y"), row(i))


def test_functions_share_a_stream(serve, client):
    serve("one")
    serve("two", signature("FP32", (-1, 4)))
    with stream(client) as answers:
        for name in ("one", "two", "one"):
            client.async_stream_infer(name, [tensor(row(1))])
        names = [take(answers)[0].get_response().model_name for _ in range(3)]
    assert names == ["one", "two", "one"]


def test_each_answer_is_final(serve, client):
    serve("echo")
    with stream(client) as answers:
        client.async_stream_infer("echo", [tensor(row(1))], enable_empty_final_response=True)
        result, error = take(answers)
    assert error is None
    assert result.get_response().parameters["triton_final_response"].bool_param


def test_an_error_is_an_answer(serve, client):
    """A request that fails gets its message in its turn; those around it are served."""
    serve("echo")
    with stream(client) as answers:
        client.async_stream_infer("echo", [tensor(row(1))])
        client.async_stream_infer("nobody", [tensor(row(2))])
        client.async_stream_infer("echo", [tensor(np.zeros((1, 5), np.float32))])
        client.async_stream_infer("echo", [tensor(row(4))])
        got = [take(answers) for _ in range(4)]
    np.testing.assert_array_equal(got[0][0].as_numpy("y"), row(1))
    assert "no function is called 'nobody'" in str(got[1][1])
    assert '"x"' in str(got[2][1])
    np.testing.assert_array_equal(got[3][0].as_numpy("y"), row(4))


def test_an_error_names_its_request(serve, channel):
    serve("echo")
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    request = service_pb2.ModelInferRequest(model_name="nobody", id="lost")
    (answer,) = stub.ModelStreamInfer(iter([request]))
    assert answer.infer_response.id == "lost"
    assert answer.infer_response.parameters["gslice_code"].int64_param == 5


def test_a_full_queue_is_an_answer(serve, client):
    echo = serve("echo", slots=((4096, 2),))
    echo.hold()
    with stream(client) as answers:
        for i in range(3):
            client.async_stream_infer("echo", [tensor(row(i))])
        wait_until(
            lambda: echo.segment.stats()["outcome"]["rejected"] == 1, "the third is rejected"
        )
        echo.release()
        got = [take(answers) for _ in range(3)]
    assert [error is None for _, error in got] == [True, True, False]
    assert "full" in str(got[2][1]), got[2][1]


def test_requests_in_flight_are_bounded(serve, client):
    echo = serve("echo", slots=((4096, IN_FLIGHT_MAX + 8),))
    echo.hold()
    with stream(client) as answers:
        for i in range(IN_FLIGHT_MAX + 8):
            client.async_stream_infer("echo", [tensor(row(i))], request_id=str(i))
        echo.wait_count("queued", IN_FLIGHT_MAX)
        for _ in range(20):  # round trips in which it could have read more
            assert client.is_server_live()
            assert echo.count("queued") == IN_FLIGHT_MAX
        echo.release()
        for i in range(IN_FLIGHT_MAX + 8):
            check(take(answers), i)


def test_a_cancelled_stream_gives_its_slots_back(serve, client):
    echo = serve("echo", slots=((4096, 8),))
    echo.hold()
    with stream(client):
        for i in range(5):
            client.async_stream_infer("echo", [tensor(row(i))])
        echo.wait_count("queued", 5)
    echo.wait_idle()
    assert echo.segment.stats()["outcome"]["cancelled"] == 5


def test_a_client_that_vanishes_gives_its_slots_back(serve, frontend):
    echo = serve("echo", slots=((4096, 8),))
    echo.hold()
    requests: queue.Queue = queue.Queue()
    channel = grpc.insecure_channel(frontend.address)
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    call = stub.ModelStreamInfer(iter(requests.get, None))
    request = service_pb2.ModelInferRequest(model_name="echo")
    request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    request.raw_input_contents.append(bytes(16))
    for _ in range(3):
        requests.put(request)
    echo.wait_count("queued", 3)
    channel.close()
    with pytest.raises(grpc.RpcError):
        next(call)
    requests.put(None)
    echo.wait_idle()


def test_a_half_closed_stream_is_answered_to_the_end(serve, channel):
    echo = serve("echo")
    echo.hold()
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    request = service_pb2.ModelInferRequest(model_name="echo")
    request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    request.raw_input_contents.append(bytes(16))
    call = stub.ModelStreamInfer(iter([request] * 3))
    echo.wait_count("queued", 3)
    echo.release()
    assert [answer.error_message for answer in call] == ["", "", ""]
    assert call.code() == grpc.StatusCode.OK


def test_a_deadline_ends_the_stream(serve, client):
    echo = serve("echo")
    echo.hold()
    with stream(client, stream_timeout=0.3) as answers:
        client.async_stream_infer("echo", [tensor(row(1))])
        result, error = take(answers)
    assert result is None
    assert "deadline" in str(error).lower(), error
    echo.wait_idle()
