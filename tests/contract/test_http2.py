"""What a front-end makes of HTTP/2 and of gRPC's rules for it, whoever speaks them."""

from __future__ import annotations

import gzip
import queue
import zlib
from concurrent.futures import ThreadPoolExecutor

import grpc
import h2.errors
import h2.events
import h2.settings
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from gslice.client import calls
from gslice.protos import message
from tests.contract.conftest import MESSAGE_BYTES
from tests.contract.direct import WAIT_S, signature
from tests.contract.http2 import CALL, Http2, connect, framed

OK, CANCELLED, NOT_FOUND, EXHAUSTED, UNIMPLEMENTED, INTERNAL = 0, 1, 5, 8, 12, 13
X = np.arange(4, dtype=np.float32).tobytes()


def request(raw=X, elements=4, name="echo"):
    made = service_pb2.ModelInferRequest(model_name=name)
    made.inputs.add(name="x", datatype="FP32", shape=[1, elements])
    made.raw_input_contents.append(raw)
    return made.SerializeToString()


def output(answer):
    return service_pb2.ModelInferResponse.FromString(answer.message).raw_output_contents[0]


@pytest.fixture
def echo(serve):
    return serve("echo", slots=((4096, 64),))


@pytest.fixture
def raw(frontend):
    """A connection of HTTP/2; afterwards the front-end serves others as ever."""
    with Http2(frontend.address) as connection:
        yield connection
    with grpc.insecure_channel(frontend.address) as channel:
        live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
        assert live(b"", timeout=WAIT_S)


# ---- a call ------------------------------------------------------------------------------------


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


# ---- compression -------------------------------------------------------------------------------

ENCODERS = {"gzip": gzip.compress, "deflate": zlib.compress}


@pytest.mark.parametrize("encoding", ENCODERS)
def test_a_compressed_message(echo, raw, encoding):
    stream = raw.call(grpc_encoding=encoding, grpc_accept_encoding="identity")
    packed = framed(ENCODERS[encoding](request()), compressed=True)
    raw.data(stream, packed[:20])
    raw.data(stream, packed[20:], end_stream=True)
    answer = raw.answer(stream)
    assert answer.headers.get("grpc-encoding", "identity") == "identity"
    assert output(answer) == X


@pytest.mark.parametrize("encoding", ENCODERS)
def test_an_encoding_that_a_message_makes_no_use_of(echo, raw, encoding):
    assert output(raw.answer(raw.call(request(), grpc_encoding=encoding))) == X


@pytest.mark.parametrize("algorithm", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_a_client_that_compresses(serve, channel, algorithm):
    serve("echo", signature("FP32", (-1, 65536)), slots=((1 << 20, 2),))
    zeros = bytes(4 * 65536)
    answer = channel.unary_unary(CALL)(request(zeros, 65536), compression=algorithm)
    assert service_pb2.ModelInferResponse.FromString(answer).raw_output_contents[0] == zeros


def test_an_encoding_that_nobody_knows(echo, raw):
    stream = raw.call(grpc_encoding="snappy")
    raw.data(stream, framed(b"?" * 20, compressed=True), end_stream=True)
    answer = raw.answer(stream)
    # The protocol says UNIMPLEMENTED, and to tell what there is; gRPC's own server says INTERNAL.
    assert answer.status in (UNIMPLEMENTED, INTERNAL)
    if answer.status == UNIMPLEMENTED:
        accepted = (answer.headers | answer.trailers)["grpc-accept-encoding"]
        assert {"identity", "gzip"} <= {name.strip() for name in accepted.split(",")}


def test_a_compressed_message_that_is_none(echo, raw):
    stream = raw.call(grpc_encoding="gzip")
    raw.data(stream, framed(b"?" * 20, compressed=True), end_stream=True)
    assert raw.answer(stream).status == INTERNAL
    assert output(raw.answer(raw.call(request()))) == X


def test_a_message_that_grows_beyond_the_limit(echo, raw):
    """What counts is what it takes when it is unpacked."""
    stream = raw.call(grpc_encoding="gzip")
    raw.upload(stream, framed(gzip.compress(bytes(MESSAGE_BYTES + 1)), compressed=True))
    assert raw.answer(stream).status == EXHAUSTED


# ---- limits ------------------------------------------------------------------------------------


def test_a_message_over_the_limit_is_refused_by_its_prefix(echo, raw):
    stream = raw.call()
    raw.data(stream, b"\0" + (MESSAGE_BYTES + 1).to_bytes(4, "big") + bytes(100))
    assert raw.answer(stream).status == EXHAUSTED
    assert output(raw.answer(raw.call(request()))) == X


def test_a_message_at_the_limit(serve, frontend):
    elements = MESSAGE_BYTES // 4 - 64
    serve("echo", signature("FP32", (-1, elements)), slots=((2 * MESSAGE_BYTES, 1),))
    sent = request(bytes(4 * elements), elements)
    assert MESSAGE_BYTES - 512 < len(sent) <= MESSAGE_BYTES
    with grpc.insecure_channel(frontend.address, calls.OPTIONS) as channel:
        assert len(channel.unary_unary(CALL)(sent)) > 4 * elements


@pytest.mark.parametrize("count", [10, 100])
def test_huge_headers(echo, raw, frontend_kind, count):
    """Some are refused as they come, some end the connection; gRPC's own server takes either."""
    fields = {f"x-{i}": str(i % 10) * 4000 for i in range(count)}
    answer = raw.answer(raw.call(request(), **fields))
    if frontend_kind == "native":
        assert answer.status == EXHAUSTED or answer.reset is not None or raw.closed
        assert echo.segment.stats()["outcome"]["ok"] == 0


def test_headers_of_a_usual_size_are_read(echo, raw):
    fields = {f"x-{i}": "v" * 500 for i in range(10)}
    assert output(raw.answer(raw.call(request(), **fields))) == X


def test_a_window_of_a_few_bytes(serve, frontend):
    """The answer goes out as the client makes room for it."""
    serve("echo", signature("FP32", (-1, 1000)), slots=((1 << 16, 2),))
    sent = np.arange(1000, dtype=np.float32).tobytes()
    few = {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 100}
    with Http2(frontend.address, settings=few) as raw:
        answer = raw.answer(raw.call(request(sent, 1000)))
        assert output(answer) == sent
        assert len([e for e in raw.events if isinstance(e, h2.events.DataReceived)]) > 10


def test_frames_are_no_larger_than_the_client_takes(serve, frontend):
    serve("echo", signature("FP32", (-1, 60_000)), slots=((1 << 20, 2),))
    sent = np.arange(60_000, dtype=np.float32).tobytes()
    with Http2(frontend.address) as raw:
        stream = raw.call()
        raw.upload(stream, framed(request(sent, 60_000)))
        assert output(raw.answer(stream)) == sent
        data = [event for event in raw.events if isinstance(event, h2.events.DataReceived)]
        assert max(event.flow_controlled_length for event in data) <= 16384


# ---- metadata ----------------------------------------------------------------------------------


def test_metadata_that_nobody_reads(echo, raw):
    fields = {"x-tag": "b", "x-blob-bin": "AAECAw", "user-agent": "me/1", "grpc-future": "?"}
    assert output(raw.answer(raw.call(request(), **fields))) == X


def test_keys_in_upper_case_are_no_http2(echo, raw):
    stream = raw.call(request(), **{"X-Tag": "b"})
    answer = raw.answer(stream)
    assert answer.status != OK
    assert echo.segment.stats()["outcome"]["ok"] == 0


def test_texts_of_statuses_are_any_text(serve, channel):
    """Percent-encoded on the wire: a name that is no ASCII comes back as it went."""
    serve("echo")
    with pytest.raises(grpc.RpcError) as error:
        channel.unary_unary(CALL)(request(name="nöbody % 100"))
    assert error.value.code() == grpc.StatusCode.NOT_FOUND
    assert "'nöbody % 100'" in error.value.details()


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


# ---- what is no call ---------------------------------------------------------------------------


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


# ---- streams -----------------------------------------------------------------------------------

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
