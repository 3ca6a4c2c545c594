"""The front-end's life: start, orphanage and adoption, drain, end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import psutil
import pytest

from gslice import Client, _native
from gslice.client import calls
from gslice.core.errors import (
    FailedPrecondition,
    InvalidArgument,
    SegmentError,
    Unavailable,
)
from gslice.core.types import FunctionSpec
from gslice.frontend.settings import KINDS
from gslice.ipc import messages
from gslice.protos import message
from gslice.protos.rpc import Stub
from tests.contract.direct import WAIT_S, FrontendProcess, LocalFunction, signature, wait_until
from tests.contract.http2 import Http2

X = {"x": np.ones((1, 4), np.float32)}


@pytest.fixture
def own(tmp_path, frontend_kind):
    """A front-end of the test's own, which it may end."""
    process = FrontendProcess(tmp_path, frontend_kind)
    yield process
    process.close()


def start_echo(process, name="echo"):
    return LocalFunction(process, FunctionSpec(name, engine="identity"), signature())


def peers(process):
    """Ports of the clients that are connected to a front-end."""
    port = int(process.address.rpartition(":")[2])
    return {
        connection.raddr.port
        for connection in psutil.Process(process.pid).net_connections("tcp")
        if connection.status == psutil.CONN_ESTABLISHED and connection.laddr.port == port
    }


def test_hello_and_serve(own):
    told = messages.FrontendState(index=0, state="starting", kind=own.kind, asks=False)
    assert own.hello == told
    address = own.serve()
    assert own.serve(address) == address  # the same order again changes nothing
    with pytest.raises(FailedPrecondition, match=address):
        own.serve("127.0.0.1:1")
    state = own.connect()
    assert (state.state, state.address) == ("serving", address)
    with Client(address) as client:
        assert client.live()
        assert client.ready()


def test_an_address_that_is_taken(own):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(Unavailable, match=address):
            own.serve(address)
    assert own.serve()


def test_two_front_ends_share_an_address(own, tmp_path):
    (tmp_path / "second").mkdir()
    address = own.serve()
    second = FrontendProcess(tmp_path / "second", own.kind)
    assert second.serve(address) == address
    second.close()


def test_not_ready_while_the_first_functions_load(own):
    spec = FunctionSpec("first")
    own.request(messages.SetFunction("first", "LOADING", "", spec))
    with Client(own.serve()) as client:
        assert client.live()
        assert not client.ready()
        own.request(messages.SetFunction("first", "UNAVAILABLE", "not an ONNX file", spec))
        assert client.ready()
        own.request(messages.SetFunction("second", "LOADING", "", FunctionSpec("second")))
        assert client.ready()  # a later load takes nothing away


def test_orders_it_cannot_follow(own, tmp_path):
    (tmp_path / "no-segment").write_bytes(bytes(1 << 20))
    order = messages.AddFunction(FunctionSpec("echo"), signature())
    with (tmp_path / "no-segment").open("r+b") as file, pytest.raises(SegmentError.__base__):
        own.request(order, [file.fileno()])
    with pytest.raises(InvalidArgument, match="must carry 1 descriptor"):
        own.request(order)
    with pytest.raises(InvalidArgument, match="takes no Drain"):
        own.request(messages.Drain(1))
    with Client(own.serve()) as client:
        assert client.live()
        assert client.index() == []


def test_serves_on_without_a_daemon_and_is_adopted(own):
    with Client(own.serve()) as client:
        echo = start_echo(own)
        echo.hold()
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(client.infer, "echo", X)
            echo.wait_count("queued", 1)
            own.disconnect()
            with pytest.raises(Unavailable, match="daemon is away"):
                client.load("other")
            state = own.connect()
            assert (state.state, state.functions, state.in_flight) == ("serving", ["echo"], 1)
            echo.show()  # the adopting daemon says again what there is
            own.disconnect()
            echo.release()
            np.testing.assert_array_equal(waiting.result()["y"], X["x"])
            np.testing.assert_array_equal(client.infer("echo", X)["y"], X["x"])
        assert own.connect().in_flight == 0
        echo.close()


def test_a_load_whose_daemon_dies(own):
    with Client(own.serve()) as client, ThreadPoolExecutor(1) as pool:
        load = pool.submit(client.load, "new")
        own.next_call()
        own.disconnect()
        with pytest.raises(Unavailable):
            load.result(WAIT_S)
        own.connect()


def test_the_newest_daemon_is_obeyed(own):
    before = own._channel
    own._channel = None
    assert own.connect().state == "starting"
    assert own.serve()
    assert before.fileno() >= 0
    with pytest.raises(Unavailable):
        before.recv()
    before.close()


def test_an_orphan_ends_after_its_grace(tmp_path, frontend_kind):
    process = FrontendProcess(tmp_path, frontend_kind, "--orphan-grace-us", "300000")
    process.serve()
    process.disconnect()
    assert process.wait_exit() == 0
    process.close()


def test_drain_answers_what_is_in_flight(own):
    echo = start_echo(own)
    with Client(own.serve()) as client, ThreadPoolExecutor(1) as pool:
        health = Stub(client._channel, "grpc.health.v1.Health")
        watch = health.Watch(message("grpc.health.v1.HealthCheckRequest")())
        assert next(watch).status == 1
        echo.hold()
        waiting = pool.submit(client.infer, "echo", X)
        echo.wait_count("queued", 1)
        drained = own.begin(messages.DrainFrontend(int(WAIT_S * 1000)))
        assert next(watch).status == 2  # NOT_SERVING, before the connection ends
        with pytest.raises(grpc.RpcError, match="draining"):
            next(watch)
        with Client(own.address) as late, pytest.raises(Unavailable, match="draining"):
            late.infer("echo", X)
        echo.release()
        np.testing.assert_array_equal(waiting.result()["y"], X["x"])
        assert drained() == messages.Ok()
    assert own.connect().state == "draining"
    echo.close()


def test_connections_end_when_their_calls_have(own):
    """By GOAWAY, so that a client knows that nothing of it was lost."""
    echo = start_echo(own)
    echo.hold()
    request = calls.infer("echo", X, None, "", None).request.SerializeToString()
    with Http2(own.serve()) as raw, Client(own.address) as client:
        stream = raw.call(request)
        echo.wait_count("queued", 1)
        drained = own.begin(messages.DrainFrontend(int(WAIT_S * 1000)))
        wait_until(lambda: not client.ready(), "it has begun to drain")
        late = raw.answer(raw.call(request))
        assert late.status == Unavailable.code
        echo.release()
        assert raw.answer(stream).status == 0
        raw.wait_closed()
        assert raw.goaways
        assert set(raw.goaways) == {0}
        assert drained() == messages.Ok()
    echo.close()


def test_drain_ends_idle_streams(own):
    echo = start_echo(own)
    with Client(own.serve()) as client, ThreadPoolExecutor(1) as pool:
        more: list[bool] = []

        def requests():
            yield X
            wait_until(lambda: bool(more), "the stream has ended")

        stream = client.infer_stream("echo", requests())
        np.testing.assert_array_equal(next(stream)["y"], X["x"])
        drained = pool.submit(own.request, messages.DrainFrontend(int(WAIT_S * 1000)))
        with pytest.raises(Unavailable, match="draining"):
            next(stream)
        more.append(True)
        assert drained.result() == messages.Ok()
    echo.close()


def test_a_drain_that_takes_too_long_gives_up_on_the_calls(own):
    echo = start_echo(own)
    with Client(own.serve()) as client, ThreadPoolExecutor(1) as pool:
        echo.hold()
        waiting = pool.submit(client.infer, "echo", X)
        echo.wait_count("queued", 1)
        assert own.request(messages.DrainFrontend(200)) == messages.Ok()
        with pytest.raises(Unavailable):
            waiting.result()
    echo.wait_idle()
    echo.close()


@pytest.mark.parametrize("other", KINDS)
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "[::1]", "[::]"])
def test_new_connections_are_directed_to_one_front_end(own, tmp_path, other, host):
    """Whatever speaks in either."""
    if other == "native" and not _native.GRPC_SERVER:
        pytest.skip("this build has no native front-end")
    with pytest.raises(FailedPrecondition, match="starting"):
        own.request(messages.DirectConnections(0))
    (tmp_path / "second").mkdir()
    second = FrontendProcess(tmp_path / "second", other)
    address = own.serve(f"{host}:0")
    second.serve(address)
    second.request(messages.SetFunction("mark", "UNAVAILABLE", "", FunctionSpec("mark")))

    def reached() -> set[bool]:
        """Which of the two: whether the mark is known there."""
        found = set()
        for _ in range(20):
            options = [("grpc.use_local_subchannel_pool", 1)]
            with grpc.insecure_channel(address, options) as channel:
                stub = Stub(channel, "inference.GRPCInferenceService")
                index = stub.RepositoryIndex(message("inference.RepositoryIndexRequest")())
                found.add(bool(index.models))
        return found

    second.request(messages.DirectConnections(1))
    assert reached() == {True}
    own.request(messages.DirectConnections(0))
    assert reached() == {False}
    own.request(messages.DirectConnections(-1))
    assert reached() == {True, False}
    second.close()


def test_it_retires_when_its_clients_have_gone(own):
    echo = start_echo(own)
    client = Client(own.serve())
    retired = own.begin(messages.RetireFrontend(int(WAIT_S * 1000)))
    np.testing.assert_array_equal(client.infer("echo", X)["y"], X["x"])  # it serves as ever
    assert client.ready()
    client.close()
    assert retired() == messages.Ok()
    assert own.connect().state == "retiring"
    echo.close()


def test_it_retires_in_time_though_a_client_stays(own):
    echo = start_echo(own)
    with Client(own.serve()) as client:
        client.infer("echo", X)
        assert own.request(messages.RetireFrontend(200)) == messages.Ok()
        np.testing.assert_array_equal(client.infer("echo", X)["y"], X["x"])
    echo.close()


def test_clients_connect_anew_when_their_connection_comes_of_age(tmp_path, frontend_kind):
    process = FrontendProcess(tmp_path, frontend_kind, "--connection-age-us", "150000")
    echo = start_echo(process)
    with Client(process.serve()) as client:
        ports = set()
        while len(ports) < 4:  # no call fails meanwhile
            np.testing.assert_array_equal(client.infer("echo", X)["y"], X["x"])
            ports |= peers(process)
    echo.close()
    process.close()


@pytest.mark.parametrize("how", ["SIGTERM", "Exit"])
def test_the_end_drains_first(own, how):
    echo = start_echo(own)
    echo.hold()
    with Client(own.serve()) as client, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.infer, "echo", X)
        echo.wait_count("queued", 1)
        if how == "SIGTERM":
            os.kill(own.pid, signal.SIGTERM)
        else:
            own.request(messages.Exit())
        wait_until(lambda: not client.ready(), "it has begun to drain")
        with Client(own.address) as late, pytest.raises(Unavailable, match="draining"):
            late.infer("echo", X)
        echo.release()
        np.testing.assert_array_equal(waiting.result()["y"], X["x"])
    assert own.wait_exit() == 0
    echo.wait_idle()
    echo.stop()


def test_started_by_hand():
    done = subprocess.run(
        [sys.executable, "-m", "gslice.frontend", "--index", "0"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=WAIT_S,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "started by the gslice daemon" in line
