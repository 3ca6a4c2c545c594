"""The encrypted port: who gets in, who is known, and what no TLS is too old for."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tritonclient.grpc as triton

import gslice
from gslice import Tls, _native
from gslice.core.errors import InvalidArgument, Unavailable
from gslice.core.types import FunctionSpec
from gslice.ipc import messages
from tests.certificates import Authority
from tests.contract.direct import (
    COMMAND,
    WAIT_S,
    FrontendProcess,
    LocalFunction,
    signature,
    wait_until,
)
from tests.contract.http2 import Http2, connect

X = {"x": np.ones((1, 4), np.float32)}


@pytest.fixture(scope="module")
def server(authority):
    return authority.issue("server")


@pytest.fixture(scope="module")
def user(authority):
    return authority.issue("user")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """Of an authority that nobody here trusts."""
    return Authority(tmp_path_factory.mktemp("tls") / "other").issue("stranger")


@pytest.fixture(scope="module")
def open_to_all(tmp_path_factory, frontend_kind, server):
    yield from serving(tmp_path_factory.mktemp("tls"), frontend_kind, server)


@pytest.fixture(scope="module")
def open_to_known(tmp_path_factory, frontend_kind, server, authority):
    """It asks for certificates of clients."""
    more = ("--client-authority", str(authority.certificate))
    yield from serving(tmp_path_factory.mktemp("mtls"), frontend_kind, server, *more)


def serving(folder, frontend_kind, identity, *arguments):
    if frontend_kind == "native" and not _native.GRPC_SERVER_TLS:
        pytest.skip("this build's native front-end has no TLS")
    files = ("--certificate", str(identity.certificate), "--key", str(identity.key))
    process = FrontendProcess(folder, frontend_kind, *files, *arguments)
    process.serve()
    echo = LocalFunction(process, FunctionSpec("echo", engine="identity"), signature())
    yield process
    echo.close()
    process.close()


def context(authority, **versions):
    made = ssl.create_default_context(cafile=authority.certificate)
    made.set_alpn_protocols(["h2"])
    for name, value in versions.items():
        setattr(made, name, value)
    return made


def refused(process, tls):
    with gslice.Client(process.address, timeout_s=5, tls=tls) as client:
        assert not client.live()
        with pytest.raises(Unavailable):
            client.index()


# ---- servers that clients know -------------------------------------------------------------------


def test_a_client_that_knows_the_authority(open_to_all, authority):
    tls = Tls(authority=authority.certificate)
    with gslice.Client(open_to_all.address, timeout_s=WAIT_S, tls=tls) as client:
        assert client.ready("echo")
        np.testing.assert_array_equal(client.infer("echo", X)["y"], X["x"])
        answers = list(client.infer_stream("echo", [X] * 8))  # it has as many slots
        assert len(answers) == 8


def test_the_asyncio_client(open_to_all, authority):
    async def scenario():
        tls = Tls(authority=authority.certificate)
        async with gslice.aio.Client(open_to_all.address, timeout_s=WAIT_S, tls=tls) as client:
            results = await asyncio.gather(*(client.infer("echo", X) for _ in range(8)))
        assert all(np.array_equal(outputs["y"], X["x"]) for outputs in results)

    asyncio.run(scenario())


def test_tritons_client(open_to_all, authority):
    with triton.InferenceServerClient(
        open_to_all.address, ssl=True, root_certificates=str(authority.certificate)
    ) as client:
        assert client.is_model_ready("echo")


def test_a_large_message(open_to_all, authority):
    """Larger than any record, and than what a socket takes at once."""
    elements = 1 << 20
    spec = FunctionSpec("large", engine="identity")
    shape = signature("FP32", (-1, elements))
    large = LocalFunction(open_to_all, spec, shape, slots=((10 << 20, 4),))
    sent = [np.full((1, elements), i, np.float32) for i in range(8)]
    tls = Tls(authority=authority.certificate)
    with (
        gslice.Client(open_to_all.address, timeout_s=WAIT_S, tls=tls) as client,
        ThreadPoolExecutor(4) as pool,
    ):
        answers = pool.map(lambda x: client.infer("large", {"x": x})["y"], sent)
        for expected, got in zip(sent, answers, strict=True):
            np.testing.assert_array_equal(got, expected)
    large.close()


@pytest.mark.parametrize("trusts", ["public", "stranger"])
def test_a_server_that_the_client_does_not_know(open_to_all, stranger, trusts):
    tls = True if trusts == "public" else Tls(authority=stranger.certificate)
    refused(open_to_all, tls)


def test_a_client_that_does_not_encrypt(open_to_all):
    refused(open_to_all, False)


def test_a_port_that_is_not_encrypted(frontend, authority):
    tls = Tls(authority=authority.certificate)
    refused(frontend, tls)


# ---- clients that servers know -------------------------------------------------------------------


def test_a_client_with_a_certificate(open_to_known, authority, user):
    tls = Tls(authority.certificate, user.certificate, user.key)
    with gslice.Client(open_to_known.address, timeout_s=WAIT_S, tls=tls) as client:
        np.testing.assert_array_equal(client.infer("echo", X)["y"], X["x"])


def test_a_client_without(open_to_known, authority):
    tls = Tls(authority=authority.certificate)
    refused(open_to_known, tls)


def test_a_client_with_one_of_another_authority(open_to_known, authority, stranger):
    tls = Tls(authority.certificate, stranger.certificate, stranger.key)
    refused(open_to_known, tls)


def test_files_of_a_client_that_are_no_good(authority, user, stranger, tmp_path):
    for tls, told in (
        (Tls(tmp_path / "none.pem"), "none.pem: No such file"),
        (Tls(user.key), "no certificate in PEM"),
        (Tls("", user.certificate), "go together"),
        (Tls("", user.certificate, stranger.key), "is not the key of"),
    ):
        with pytest.raises(InvalidArgument, match=told):
            gslice.Client("127.0.0.1:1", tls=tls)


# ---- TLS itself ----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_versions_of_today(open_to_all, authority, version):
    chosen = ssl.TLSVersion[version]
    tls = context(authority, minimum_version=chosen, maximum_version=chosen)
    with Http2(open_to_all.address, tls) as raw:
        assert raw.socket.version() == version.replace("_", ".")
        assert raw.socket.selected_alpn_protocol() == "h2"
        answer = raw.answer(raw.call(b"", "/inference.GRPCInferenceService/ServerLive"))
        assert answer.status == 0


def test_a_client_that_speaks_something_else(open_to_all, authority):
    """TLS, and then no HTTP/2: the connection ends, at the handshake or after it."""
    tls = ssl.create_default_context(cafile=authority.certificate)
    tls.set_alpn_protocols(["http/1.1"])
    answer = b""
    with contextlib.ExitStack() as ends:
        ends.enter_context(contextlib.suppress(ssl.SSLError, ConnectionError))
        plain = ends.enter_context(connect(open_to_all.address))
        secure = ends.enter_context(tls.wrap_socket(plain, server_hostname="127.0.0.1"))
        secure.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        while received := secure.recv(4096):
            answer += received
    assert not answer.startswith(b"HTTP/1.1 2")


def test_handshakes_that_stop_half_way(open_to_all, authority):
    """Others are served meanwhile."""
    stalled = [connect(open_to_all.address) for _ in range(20)]
    for sock in stalled[::2]:
        sock.sendall(b"\x16\x03\x01\x02\x00\x01")  # a record that does not go on
    begun = time.monotonic()
    tls = Tls(authority=authority.certificate)
    with gslice.Client(open_to_all.address, timeout_s=WAIT_S, tls=tls) as client:
        assert client.live()
    assert time.monotonic() - begun < WAIT_S / 2
    for sock in stalled:
        sock.close()


def test_a_client_that_goes_without_a_word(open_to_all, authority):
    raw = Http2(open_to_all.address, context(authority))
    raw.call()
    raw.socket.shutdown(socket.SHUT_RDWR)  # no close_notify
    raw.socket.close()
    tls = Tls(authority=authority.certificate)
    with gslice.Client(open_to_all.address, timeout_s=WAIT_S, tls=tls) as client:
        assert client.live()


# ---- life ----------------------------------------------------------------------------------------


def test_it_says_that_its_port_is_encrypted(open_to_all, open_to_known, frontend):
    said = [process.connect().tls for process in (open_to_all, open_to_known, frontend)]
    assert all(said[:2])
    assert said[0] != said[1]
    assert said[2] == ""


def test_files_that_are_gone(tmp_path, frontend_kind, server):
    files = ("--certificate", str(server.certificate), "--key", str(tmp_path / "none.key"))
    done = subprocess.run(
        [*COMMAND, "--kind", frontend_kind, *files],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=WAIT_S,
    )
    (line,) = done.stderr.splitlines()
    assert (done.returncode, "none.key: No such file" in line) == (1, True)


def test_calls_in_flight_are_answered_when_it_drains(tmp_path, frontend_kind, server, authority):
    for process in serving(tmp_path, frontend_kind, server):
        other = LocalFunction(process, FunctionSpec("held", engine="identity"), signature())
        other.hold()
        tls = Tls(authority=authority.certificate)
        with gslice.Client(process.address, tls=tls) as client, ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(client.infer, "held", X)
            other.wait_count("queued", 1)
            drained = process.begin(messages.DrainFrontend(int(WAIT_S * 1000)))
            wait_until(lambda: not client.ready(), "it has begun to drain")
            with pytest.raises(Unavailable, match="draining"):
                client.infer("echo", X)
            other.release()
            np.testing.assert_array_equal(waiting.result()["y"], X["x"])
        assert drained() == messages.Ok()
        other.close()
