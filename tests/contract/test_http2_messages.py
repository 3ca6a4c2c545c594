"""What calls may carry over HTTP/2: compressed and large messages, small windows, any headers."""

from __future__ import annotations

import gzip
import zlib

import grpc
import h2.events
import h2.settings
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from gslice.client import calls
from tests.contract.conftest import MESSAGE_BYTES
from tests.contract.direct import signature
from tests.contract.http2 import CALL, Http2, X, framed, output, request

OK, EXHAUSTED, UNIMPLEMENTED, INTERNAL = 0, 8, 12, 13


# ---- compression ---------------------------------------------------------------------------------

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


# ---- limits --------------------------------------------------------------------------------------


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


# ---- metadata ------------------------------------------------------------------------------------


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
