"""What the REST front-end makes of HTTP that no KServe client would send, and of its own end."""

from __future__ import annotations

import json
import os
import socket
import ssl
import struct
import urllib.request
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gslice import _native
from gslice.core.access import Access, Key, digest_of
from gslice.core.types import FunctionSpec
from gslice.frontend.rest.endpoint import endpoints_of
from gslice.frontend.rest.endpoints import Endpoints
from gslice.ipc.messages import REST, DrainFrontend, SetAccess
from tests.contract.direct import WAIT_S, FrontendProcess, LocalFunction, signature
from tests.contract.rest import INFER, JSON_LENGTH, call, call_on, connected, with_tensors, x

LIMIT_BYTES = 1 << 20
MEMORY_BYTES = 8 << 20


@pytest.fixture(scope="module")
def frontend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FrontendProcess]:
    """One with small limits."""
    folder = tmp_path_factory.mktemp("frontend")
    limits = ("--request-max-bytes", str(LIMIT_BYTES), "--memory-max-bytes", str(MEMORY_BYTES))
    process = FrontendProcess(folder, REST, *limits)
    process.serve()
    yield process
    process.close()


def post(frontend: FrontendProcess, body: Any, **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return call(frontend.address, "POST", INFER, body, named)


# ---- bodies --------------------------------------------------------------------------------------


def test_nested_and_flat_data_are_the_same(frontend, echo) -> None:
    flat = post(frontend, {"inputs": [x(1, 2, 3, 4, shape=[1, 4])]})
    nested = post(frontend, {"inputs": [x([1, 2, 3, 4], shape=[1, 4])]})
    assert flat.status == nested.status == 200
    assert flat.json == nested.json
    assert flat.json["outputs"][0]["data"] == [1, 2, 3, 4]
    assert flat.headers["Content-Type"].startswith("application/json")
    assert JSON_LENGTH not in flat.headers


def test_no_number_in_json_is_null(frontend, echo) -> None:
    raw = np.array([np.nan, np.inf, -np.inf, 1], np.float32).tobytes()
    tensor = {**x(), "parameters": {"binary_data_size": 16}}
    del tensor["data"]
    body, headers = with_tensors({"inputs": [tensor]}, raw)
    answer = call(frontend.address, "POST", INFER, body, headers)
    assert answer.json["outputs"][0]["data"] == [None, None, None, 1]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not JSON"),
        (b"[]", "must be a JSON object"),
        (b"\xff\xfe{\x00}\x00", "not JSON"),
        (b"[" * 20_000, "not JSON"),
        (b"{}", "inputs is empty"),
        ({"inputs": {}}, "inputs must be a list of objects"),
        ({"inputs": [5]}, "inputs must be a list of objects"),
        ({"inputs": [{}]}, "inputs[0].name must be a string"),
        ({"inputs": [x(1, 2, 3, 4)], "id": 7}, "id must be a string"),
        ({"inputs": [x(1, 2, 3, 4)], "id": "\ud800"}, "id: half a surrogate"),
        ({"inputs": [x(1, 2, 3, 4, shape=[True])]}, "inputs[0].shape must be a list of integers"),
        ({"inputs": [x(1, 2, 3, 4, shape=[1 << 63])]}, "more than 64 bits"),
        ({"inputs": [x(1, 2, 3, "4")]}, "an element of FP32 must be a number, not a string"),
        ({"inputs": [x(1, 2, 3, None)]}, "an element of FP32 must be a number, not null"),
        (b'{"inputs": [NaN]}', "NaN is no number in JSON"),
        ({"inputs": [x(1, 2, 3, 1e39)]}, "a number does not fit into FP32"),
        ({"inputs": [x([1, 2], [3, 4])]}, "nested otherwise than its shape [1, 4]"),
        ({"inputs": [x([1, 2, 3], 4)]}, "nested otherwise"),
        ({"inputs": [x(1, 2, 3)]}, "x"),
        ({"inputs": [x(1, 2, 3, 4, binary_data_size=16)]}, "must have one of data"),
        ({"inputs": [{**x(), "datatype": "FP33"}]}, "there is no datatype 'FP33'"),
        ({"inputs": [x(1, 2, 3, 4)], "outputs": [{}]}, "outputs[0].name must be a string"),
        ({"inputs": [x(1, 2, 3, 4)], "parameters": {"a": None}}, "parameters.a must be"),
        ({"inputs": [x(1, 2, 3, 4)], "parameters": {"timeout": "1"}}, "timeout"),
        (
            {"inputs": [x(1, 2, 3, 4)], "parameters": {"binary_data_output": 1}},
            "parameters.binary_data_output must be true or false",
        ),
    ],
)
def test_a_body_that_is_wrong_is_told(frontend, echo, body: Any, words: str) -> None:
    answer = post(frontend, body)
    assert answer.status == 400
    assert words in answer.error


@pytest.mark.parametrize(
    ("length", "size", "status", "words"),
    [
        ("x", 16, 400, "must be a number of bytes"),
        ("-1", 16, 400, "must be a number of bytes"),
        ("9" * 19, 16, 400, "but the body has"),
        ("0", 16, 501, "a body without JSON is not offered"),
        (None, 15, 400, "1 bytes of the body are no input's"),
        (None, 17, 400, "only 16 bytes are left"),
        (None, -1, 400, "must be a number of bytes, 0 or more"),
        (None, True, 400, "must be a number of bytes, 0 or more"),
    ],
)
def test_lengths_that_are_wrong_are_told(
    frontend, echo, length: str | None, size: Any, status: int, words: str
) -> None:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4]}
    asked = {"inputs": [{**tensor, "parameters": {"binary_data_size": size}}]}
    body, headers = with_tensors(asked, bytes(16))
    headers[JSON_LENGTH] = length or headers[JSON_LENGTH]
    answer = call(frontend.address, "POST", INFER, body, headers)
    assert answer.status == status
    assert words in answer.error


@pytest.mark.parametrize(
    ("packing", "body", "status", "words"),
    [
        ("br", b"", 415, "use gzip or deflate"),
        ("gzip", b"no gzip", 400, "cannot be read as gzip"),
        ("gzip", b"", 400, "cut off"),
        ("deflate", zlib.compress(b"{}")[:-1], 400, "cut off"),
        ("deflate", zlib.compress(b"{}") + b"x", 400, "something follows"),
        ("deflate", zlib.compress(bytes(LIMIT_BYTES + 1), 9), 413, "larger than 1MiB"),
    ],
)
def test_compression_that_is_wrong_is_told(
    frontend, echo, packing: str, body: bytes, status: int, words: str
) -> None:
    answer = post(frontend, body, Content_Encoding=packing)
    assert answer.status == status
    assert words in answer.error


def test_a_body_that_is_too_large_is_refused_before_it_comes(frontend, echo) -> None:
    host, _, port = frontend.address.rpartition(":")
    with socket.create_connection((host, int(port)), WAIT_S) as raw:
        head = (
            f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {LIMIT_BYTES + 1}\r\n\r\n"
        )
        raw.sendall(head.encode())
        assert b" 413 " in raw.recv(4096).splitlines()[0]
    with connected(frontend.address) as connection:
        connection.request("POST", INFER, iter([bytes(LIMIT_BYTES), b"x"]))  # of unknown length
        assert connection.getresponse().status == 413


def test_json_that_would_take_too_much_memory_is_refused(frontend, echo) -> None:
    answer = post(frontend, b'{"inputs": [' + b"[]," * (LIMIT_BYTES // 4) + b"[]]}")
    assert answer.status == 429
    assert "as binary data" in answer.error
    assert answer.headers["Retry-After"] == "1"
    assert post(frontend, {"inputs": [x(1, 2, 3, 4)]}).status == 200  # it was given back


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["inputs", "outputs", "name", "shape", "datatype", "data", "parameters", "x"]
            )
            | st.text(max_size=4),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_comes_is_answered(frontend, echo, data: st.DataObject) -> None:
    """Requests with one part replaced, and what is none at all."""
    asked: Any = {
        "id": "1",
        "inputs": [{**x(1, 2, 3, 4), "parameters": {}}],
        "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
        "parameters": {"timeout": 10**9},
    }
    place = asked
    for key in data.draw(
        st.sampled_from(
            [
                ("inputs",),
                ("inputs", 0, "name"),
                ("inputs", 0, "shape"),
                ("inputs", 0, "datatype"),
                ("inputs", 0, "data"),
                ("inputs", 0, "parameters"),
                ("outputs", 0, "parameters"),
                ("parameters",),
            ]
        )
    ):
        before, last, place = place, key, place[key]
    before[last] = data.draw(JSON_VALUES)
    body = json.dumps(asked).encode()
    if data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(body)))
        body = body[:at] + data.draw(st.binary(max_size=8)) + body[at:]
    headers = {JSON_LENGTH: data.draw(st.text("0123456789", max_size=4))}
    with connected(frontend.address) as connection:
        for named in ({}, headers):
            answer = call_on(connection, "POST", INFER, body, named)
            assert answer.status in (200, 400, 404, 501)
            if answer.status != 200:
                assert answer.error
    echo.wait_idle()


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_what_is_no_http_ends_the_connection(frontend, echo, noise: bytes) -> None:
    host, _, port = frontend.address.rpartition(":")
    with socket.create_connection((host, int(port)), WAIT_S) as raw:
        raw.sendall(noise)
        raw.shutdown(socket.SHUT_WR)
        while raw.recv(4096):
            pass
    assert call(frontend.address, "GET", "/v2/health/live").status == 200


# ---- paths and origins ---------------------------------------------------------------------------


def test_what_is_not_there(frontend) -> None:
    missing = call(frontend.address, "GET", "/v2/nothing")
    assert missing.status == 404
    assert "/v2/docs" in missing.error
    wrong = call(frontend.address, "GET", INFER)
    assert (wrong.status, wrong.headers["Allow"]) == (405, "POST")
    assert call(frontend.address, "HEAD", "/v2/health/ready").status == 200


def test_no_web_page_changes_the_node(frontend) -> None:
    for path in ("repository/models/a/load", "repository/models/a/unload"):
        answer = call(frontend.address, "POST", f"/v2/{path}", b"", {"Origin": "http://evil"})
        assert answer.status == 403
        assert "web pages" in answer.error


ASKED = (("POST", INFER), ("GET", "/v2/models/echo"), ("POST", "/v2/repository/index"))


@pytest.mark.parametrize("name", ["rebound.example", "127.0.0.1.example:80", "[::1].example"])
def test_a_page_that_rebinds_its_name_to_loopback_learns_nothing(frontend, echo, name) -> None:
    keys = Access((Key("ann", digest_of("secret"), ("infer", "view")),), anonymous=("infer",))
    board = _native.QuotaBoard.create()
    headers = {"Host": name, "X-Api-Key": "any page can send one"}
    for method, path in ASKED:
        answer = call(frontend.address, method, path, {"inputs": [x(1, 2, 3, 4)]}, headers)
        assert answer.status == 403
        assert "nothing is answered under the name" in answer.error
    assert call(frontend.address, "GET", "/v2/health/ready", headers=headers).status == 200
    open_to_all = {each.name for each in endpoints_of(Endpoints) if not each.rpc}
    health = {"server_live", "server_ready", "model_ready"}
    assert open_to_all == {*health, "api_description", "api_page"}
    try:  # whose keys are asked for needs no names
        frontend.request(SetAccess(keys), [board.fd])
        known = {"Host": name, "X-Api-Key": "secret"}
        for method, path in ASKED:
            asked = {"inputs": [x(1, 2, 3, 4)]} if path == INFER else None
            assert call(frontend.address, method, path, asked, known).status == 200
        anybody = call(frontend.address, *ASKED[0], {"inputs": [x(1, 2, 3, 4)]}, {"Host": name})
        assert "nothing is answered under the name" in anybody.error
    finally:
        frontend.request(SetAccess(Access()), [board.fd])


@pytest.mark.parametrize("name", ["localhost:9", "[::1]:9", "10.1.2.3", "x.localhost", ""])
def test_names_that_no_page_can_have(frontend, echo, name) -> None:
    headers = {"Host": name or os.uname().nodename}
    asked = {"inputs": [x(1, 2, 3, 4)]}
    assert call(frontend.address, "POST", INFER, asked, headers).status == 200


def test_a_connection_on_which_no_request_comes_ends(tmp_path) -> None:
    process = FrontendProcess(tmp_path, REST, "--connection-age-us", "200000")
    host, _, port = process.serve().rpartition(":")
    try:
        for begun in (b"", b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n"):
            with socket.create_connection((host, int(port)), WAIT_S) as raw:
                raw.sendall(begun)
                assert raw.recv(1) == b""
    finally:
        process.close()


def test_every_endpoint_is_described(frontend) -> None:
    described = call(frontend.address, "GET", "/v2/openapi.json").json
    assert described["openapi"].startswith("3.1")
    names = [
        op["operationId"] for methods in described["paths"].values() for op in methods.values()
    ]
    assert len(names) == len(set(names))
    for path, methods in described["paths"].items():
        filled = path.format(model="none", version="1", region="none")
        for method, operation in methods.items():
            declared = {p["name"] for p in operation.get("parameters", ()) if p["in"] == "path"}
            assert declared == {part[1:-1] for part in path.split("/") if part[:1] == "{"}
            if "systemsharedmemory" in path or "/repository/models/" in path:
                continue  # the daemon, which this test would have to be, answers
            answer = call(
                frontend.address, method.upper(), filled, b"" if method == "post" else None
            )
            assert str(answer.status) in operation["responses"], path
            wrong = "PUT" if method == "get" else "DELETE"
            assert call(frontend.address, wrong, filled).status == 405


def test_the_page_needs_nothing_from_elsewhere(frontend) -> None:
    answer = call(frontend.address, "GET", "/v2/docs")
    page = answer.body.decode()
    assert answer.headers["Content-Type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert "://" not in page
    assert "<script" not in page
    for path in call(frontend.address, "GET", "/v2/openapi.json").json["paths"]:
        assert f"<code>{path}</code>" in page


# ---- clients that leave, and the end -------------------------------------------------------------


def test_a_client_that_leaves_gives_its_request_up(frontend, echo) -> None:
    echo.hold()
    with connected(frontend.address) as connection:
        connection.request("POST", INFER, json.dumps({"inputs": [x(1, 2, 3, 4)]}))
        echo.wait_count("queued", 1)
    echo.wait_count("queued", 0)
    echo.release()
    echo.wait_idle()


def test_a_draining_server_answers_what_it_took(tmp_path) -> None:
    process = FrontendProcess(tmp_path, REST)
    process.serve()
    echo = LocalFunction(process, FunctionSpec("echo", engine="identity"), signature())
    echo.hold()
    with ThreadPoolExecutor(1) as pool, connected(process.address) as kept:
        assert call_on(kept, "GET", "/v2/health/ready").status == 200
        first = pool.submit(post, process, {"inputs": [x(1, 2, 3, 4)]})
        echo.wait_count("queued", 1)
        drained = process.begin(DrainFrontend(timeout_ms=10_000))
        while (answer := call_on(kept, "GET", "/v2/health/ready")).status == 200:
            pass
        assert (answer.status, answer.headers["Connection"]) == (503, "close")
        assert call(process.address, "GET", "/healthz").status == 200
        refused = post(process, {"inputs": [x(1, 2, 3, 4)]})
        assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
        echo.release()
        assert first.result(WAIT_S).json["outputs"][0]["data"] == [1, 2, 3, 4]
        drained()
    echo.wait_idle()
    process.close()
    echo.stop()


def test_tls(tmp_path, authority) -> None:
    server, user = authority.issue("server"), authority.issue("user")
    files = ("--certificate", str(server.certificate), "--key", str(server.key))
    process = FrontendProcess(
        tmp_path, REST, *files, "--client-authority", str(authority.certificate)
    )
    process.serve()
    url = f"https://{process.address}/v2/health/live"
    known = ssl.create_default_context(cafile=authority.certificate)
    known.load_cert_chain(user.certificate, user.key)
    with urllib.request.urlopen(url, timeout=WAIT_S, context=known) as answer:
        assert answer.status == 200
    unknown = ssl.create_default_context(cafile=authority.certificate)
    with pytest.raises(OSError):
        urllib.request.urlopen(url, timeout=WAIT_S, context=unknown).read()
    process.close()


def test_binary_answers_lie_behind_their_json(frontend, echo) -> None:
    asked = {"inputs": [x(1, 2, 3, 4)], "parameters": {"binary_data_output": True}}
    answer = post(frontend, asked)
    length = int(answer.headers[JSON_LENGTH])
    (told,) = json.loads(answer.body[:length])["outputs"]
    assert told["parameters"] == {"binary_data_size": 16}
    assert struct.unpack("<4f", answer.body[length:]) == (1, 2, 3, 4)
    assert answer.headers["Content-Type"] == "application/octet-stream"
