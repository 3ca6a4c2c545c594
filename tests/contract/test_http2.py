"""What a front-end makes of HTTP/2 and of gRPC's rules for it, whoever speaks them."""

from __future__ import annotations

import queue
from concurrent.futures import ThreadPoolExecutor

import grpc
import h2.errors
import h2.events
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from gslice.protos import message
from tests.contract.direct import WAIT_S
from tests.contract.http2 import CALL, Http2, X, connect, framed, output, request

OK, UNIMPLEMENTED = 0, 12


# ---- a call --------------------------------------------------------------------------------------


def test_an_answer(echo, raw):
    answer = raw.answer(raw.call(request()))
    assert answer.headers[":status"] == "200"
    assert answer.headers["content-type"].startswith("application/grpc")
    assert (answer.status, answer.reset) == (OK, None)
    assert output(answer) == X


def test_the_order_of_the_answers_is_their_own(serve, raw):
    first, second = serve("first"), serve("second")
    first.hold()
    slow, fast = raw.call(request(name="first")), raw.call(request(name="second"))
    assert output(raw.answer(fast)) == X
    assert not raw.answers[slow].ended
    first.release()
    assert output(raw.answer(slow)) == X
    assert second.count("free") == 8


def test_a_message_in_pieces(echo, raw):
    body = framed(request())
    stream = raw.call()
    for place in range(len(body)):
        raw.data(stream, body[place : place + 1])
    raw.data(stream, b"", end_stream=True)
    assert output(raw.answer(stream)) == X


def test_calls_whose_pieces_alternate(echo, raw):
    body = framed(request())
    streams = [raw.call() for _ in range(8)]
    half = len(body) // 2
    for stream in streams:
        raw.data(stream, body[:half])
    for stream in reversed(streams):
        raw.data(stream, body[half:], end_stream=True)
    assert [output(raw.answer(stream)) for stream in streams] == [X] * 8


def test_many_calls_at_once_on_one_connection(echo, channel):
    call = channel.unary_unary(CALL)
    sent = [np.full(4, i, np.float32).tobytes() for i in range(600)]
    waves = [sent[i : i + 50] for i in range(0, len(sent), 50)]
    for wave in waves:  # there are 64 slots
        futures = [call.future(request(raw), timeout=WAIT_S) for raw in wave]
        for raw, future in zip(wave, futures, strict=True):
            got = service_pb2.ModelInferResponse.FromString(future.result())
            assert got.raw_output_contents[0] == raw
    assert echo.segment.stats()["outcome"]["ok"] == len(sent)


def test_more_calls_than_there_are_slots(echo, channel):
    """Each gets its answer or RESOURCE_EXHAUSTED, on a connection that stays."""
    echo.hold()
    call = channel.unary_unary(CALL)
    ended: queue.Queue = queue.Queue()
    futures = [call.future(request(), timeout=WAIT_S) for _ in range(300)]
    for future in futures:
        future.add_done_callback(ended.put)
    refused = [ended.get(timeout=WAIT_S).code() for _ in range(300 - 64)]
    assert set(refused) == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    echo.release()
    assert {ended.get(timeout=WAIT_S).code() for _ in range(64)} == {grpc.StatusCode.OK}


def test_many_connections(echo, frontend):
    connections = [Http2(frontend.address) for _ in range(100)]
    streams = [connection.call(request()) for connection in connections[:50]]
    for connection, stream in zip(connections, streams, strict=False):
        assert output(connection.answer(stream)) == X
    for connection in connections:
        connection.socket.close()


# ---- deadlines and cancels -----------------------------------------------------------------------


@pytest.mark.parametrize("timeout", ["50m", "50000u", "50000000n"])
def test_a_deadline(echo, raw, timeout):
    echo.hold()
    assert raw.answer(raw.call(request(), grpc_timeout=timeout)).status == 4
    echo.wait_idle()


@pytest.mark.parametrize("timeout", ["1H", "60M", "99999999H", "99999999S"])
def test_a_distant_deadline(echo, raw, timeout):
    assert output(raw.answer(raw.call(request(), grpc_timeout=timeout))) == X


def test_a_deadline_passes_while_the_message_comes(echo, raw):
    stream = raw.call(grpc_timeout="50m")
    raw.data(stream, framed(request())[:-1])
    answer = raw.answer(stream)
    assert answer.status in (4, None)
    assert answer.reset is not None or answer.status == 4
    assert echo.count("free") == 64


def test_a_reset_frees_the_slot(echo, raw):
    echo.hold()
    streams = [raw.call(request()) for _ in range(5)]
    echo.wait_count("queued", 5)
    for stream in streams[1:]:
        raw.state.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
    raw.flush()
    echo.wait_count("queued", 1)
    echo.release()
    assert output(raw.answer(streams[0])) == X


def test_a_reset_in_the_middle_of_a_message(echo, raw):
    for _ in range(20):
        stream = raw.call()
        raw.data(stream, framed(request())[:-1])
        raw.state.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
        raw.flush()
    assert output(raw.answer(raw.call(request()))) == X


def test_connections_that_end_in_the_middle_of_a_message(echo, frontend):
    for cut in (0, 3, 5, 20):
        with Http2(frontend.address) as gone:
            gone.data(gone.call(), framed(request())[:cut])
    with Http2(frontend.address) as raw:
        assert output(raw.answer(raw.call(request()))) == X


# ---- what is no call -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/inference.GRPCInferenceService/Guess",
        "/nobody.Service/ModelInfer",
        "/ModelInfer",
        "/inference.GRPCInferenceService/ModelInfer/",
        "//",
    ],
)
def test_a_method_that_nobody_knows(raw, path):
    assert raw.answer(raw.call(b"", path)).status == UNIMPLEMENTED


@pytest.mark.parametrize(
    "body",
    [b"", framed(request())[:-1], b"\0\0\0", framed(request()) * 2, framed(request()) + b"\0"],
    ids=["none", "cut", "half a prefix", "two", "more"],
)
def test_other_than_one_message(echo, raw, body, frontend_kind):
    stream = raw.call()
    raw.data(stream, body, end_stream=True)
    # gRPC's own server takes the first of several messages, and never answers to none.
    if frontend_kind == "native":
        answer = raw.answer(stream)
        assert answer.status not in (None, OK)
    assert output(raw.answer(raw.call(request()))) == X


def test_what_is_no_http2(frontend):
    for text in (
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        bytes(100),
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
    ):
        with connect(frontend.address) as sock:
            sock.sendall(text)
            while sock.recv(4096):
                pass


def test_a_ping(raw):
    raw.state.ping(b"12345678")
    raw.flush()
    assert raw.wait(h2.events.PingAckReceived).ping_data == b"12345678"


def test_keepalive_pings_on_a_connection_that_is_used(echo, frontend):
    """As a client with keep-alive sends them while a call waits."""
    echo.hold()
    options = [("grpc.keepalive_time_ms", 10_000), ("grpc.keepalive_permit_without_calls", 1)]
    with (
        grpc.insecure_channel(frontend.address, options) as channel,
        Http2(frontend.address) as raw,
    ):
        waiting = channel.unary_unary(CALL).future(request())
        stream = raw.call(request())
        for i in range(2):  # a third without data between is too much for gRPC's own servers
            raw.state.ping(bytes([i] * 8))
            raw.flush()
        echo.wait_count("queued", 2)
        echo.release()
        assert waiting.result(WAIT_S)
        assert output(raw.answer(stream)) == X


# ---- streams -------------------------------------------------------------------------------------

STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"


def test_a_stream_answers_as_messages_come(echo, raw):
    stream = raw.call(path=STREAM)
    for i in range(1, 4):
        raw.data(stream, framed(request()))
        raw.receive_until(lambda i=i: count_messages(raw.answers[stream].body) == i)
    raw.data(stream, b"", end_stream=True)
    assert raw.answer(stream).status == OK


def test_messages_of_a_stream_in_one_frame(echo, raw):
    stream = raw.call(path=STREAM)
    raw.data(stream, framed(request()) * 5, end_stream=True)
    answer = raw.answer(stream)
    assert (answer.status, count_messages(answer.body)) == (OK, 5)


def test_a_stream_without_messages(echo, raw):
    stream = raw.call(path=STREAM)
    raw.data(stream, b"", end_stream=True)
    answer = raw.answer(stream)
    assert (answer.status, answer.body) == (OK, b"")


def count_messages(body):
    count = 0
    while len(body) >= 5 and len(body) >= 5 + int.from_bytes(body[1:5], "big"):
        body = body[5 + int.from_bytes(body[1:5], "big") :]
        count += 1
    return count


def test_calls_of_every_sort_share_a_connection(echo, frontend, channel):
    """A stream, a watch and unary calls side by side."""
    watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"")
    next(watch)
    ask = message("grpc.reflection.v1.ServerReflectionRequest")(list_services="")
    path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
    with ThreadPoolExecutor(4) as pool:
        unary = [pool.submit(channel.unary_unary(CALL), request()) for _ in range(100)]
        reflected = channel.stream_stream(path)(iter([ask.SerializeToString()]))
        assert b"inference.GRPCInferenceService" in next(reflected)
        streamed = channel.stream_stream(STREAM)(iter([request()] * 20))
        assert len(list(streamed)) == 20
        assert all(call.result(WAIT_S) for call in unary)
    watch.cancel()
