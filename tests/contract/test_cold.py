"""Functions that are COLD: requests wait in the segment, the daemon is told of each."""

from __future__ import annotations

import grpc
import numpy as np
import pytest

from gslice import Client
from gslice.core.errors import Unavailable
from gslice.ipc import messages
from gslice.protos import message
from gslice.protos.rpc import Stub
from tests.contract.direct import FrontendProcess, LocalFunction

X = {"x": np.ones((1, 4), np.float32)}
LOAD_US = 3_600_000_000


def make_cold(frontend: FrontendProcess, function: LocalFunction, load_us: int = LOAD_US) -> None:
    """Its workers stop pulling, after the front-end was told, as the daemon does it."""
    order = messages.SetFunction(function.name, "COLD", "it rests", function.spec, load_us)
    frontend.request(order)
    function.hold()


def be_loaded(function: LocalFunction) -> None:
    function.release()
    function.set_state("READY")


@pytest.fixture
def stub(frontend: FrontendProcess):
    with grpc.insecure_channel(frontend.address) as channel:
        yield Stub(channel, "inference.GRPCInferenceService")


def a_request(timeout_us: int = 0):
    request = message("inference.ModelInferRequest")(model_name="echo")
    request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    request.raw_input_contents.append(X["x"].tobytes())
    if timeout_us:
        request.parameters["timeout"].int64_param = timeout_us
    return request


def test_requests_wait_and_each_is_told_of(frontend, serve, stub):
    function = serve()
    make_cold(frontend, function)
    calls = [stub.ModelInfer.future(a_request()) for _ in range(3)]
    for _ in calls:
        assert frontend.next_call().message == messages.Wake("echo")
    assert function.count("queued") == 3
    be_loaded(function)
    for call in calls:
        assert np.frombuffer(call.result().raw_output_contents[0], np.float32).sum() == 4
    with Client(frontend.address) as client:
        assert client.infer("echo", X)["y"].sum() == 4
    assert frontend.calls == []  # what is READY is told of no more


def test_a_request_is_queued_before_it_is_told_of(frontend, serve, stub):
    function = serve()
    make_cold(frontend, function)
    call = stub.ModelInfer.future(a_request())
    assert frontend.next_call().message == messages.Wake("echo")
    assert function.count("queued") == 1
    be_loaded(function)
    call.result()


def test_who_has_no_time_is_told_when_to_come_again(frontend, serve, stub):
    function = serve()
    make_cold(frontend, function)
    with pytest.raises(grpc.RpcError) as raised:
        stub.ModelInfer(a_request(timeout_us=60_000_000))
    error = raised.value
    assert error.code() == grpc.StatusCode.UNAVAILABLE
    assert "longer than this request may wait (try again in 3600.00 s" in error.details()
    assert dict(error.trailing_metadata())["grpc-retry-pushback-ms"] == "3600000"
    assert frontend.next_call().message == messages.Wake("echo")  # so that it is there by then
    function.wait_idle()
    with pytest.raises(grpc.RpcError) as raised:
        stub.ModelInfer(a_request(), timeout=60.0)  # the call's own deadline counts alike
    assert 0 < int(dict(raised.value.trailing_metadata())["grpc-retry-pushback-ms"]) <= 3_600_000
    frontend.next_call()
    be_loaded(function)


def test_who_has_the_time_waits(frontend, serve, stub):
    function = serve()
    make_cold(frontend, function, load_us=1000)
    call = stub.ModelInfer.future(a_request(timeout_us=60_000_000))
    frontend.next_call()
    be_loaded(function)
    call.result()


def test_a_stream_waits_too(frontend, serve, stub):
    function = serve()
    make_cold(frontend, function)
    stream = stub.ModelStreamInfer(iter([a_request(), a_request(timeout_us=1000)]))
    for _ in range(2):
        assert frontend.next_call().message == messages.Wake("echo")
    be_loaded(function)
    first, second = stream
    assert len(first.infer_response.raw_output_contents) == 1
    assert "longer than this request may wait" in second.error_message


def test_wrong_requests_are_refused_and_wake_nobody(frontend, serve, stub):
    function = serve()
    make_cold(frontend, function)
    request = a_request()
    request.inputs[0].datatype = "INT8"
    with pytest.raises(grpc.RpcError) as raised:
        stub.ModelInfer(request)
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    request = a_request()
    request.model_version = "7"
    with pytest.raises(grpc.RpcError) as raised:
        stub.ModelInfer(request)
    assert raised.value.code() == grpc.StatusCode.NOT_FOUND
    assert frontend.calls == []
    be_loaded(function)


def test_it_counts_as_ready_and_is_listed_as_cold(frontend, serve, client):
    function = serve()
    make_cold(frontend, function)
    assert client.is_model_ready("echo")
    assert client.get_model_metadata("echo").inputs[0].name == "x"
    (entry,) = client.get_model_repository_index().models
    assert (entry.name, entry.state, entry.reason) == ("echo", "COLD", "it rests")
    be_loaded(function)


def test_without_a_daemon_nobody_waits(frontend, serve, stub):
    function = serve()
    make_cold(frontend, function)
    frontend.disconnect()
    try:
        with Client(frontend.address) as own, pytest.raises(Unavailable, match="daemon is away"):
            own.infer("echo", X, timeout_s=7200.0)
    finally:
        frontend.connect()
    function.wait_idle()
    be_loaded(function)
