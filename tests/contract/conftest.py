"""Fixtures: a front-end led by the test (`frontend`, `serve`), of each kind that was built."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import grpc
import pytest
import tritonclient.grpc as triton

import gslice
from gslice import _native
from gslice.core.types import FunctionSpec, Signature
from gslice.frontend.settings import KINDS
from tests.contract.direct import WAIT_S, FrontendProcess, LocalFunction, signature
from tests.contract.http2 import Http2

MESSAGE_BYTES = 32 << 20  # the limit that the tests' front-end is started with

Serve = Callable[..., LocalFunction]


@pytest.fixture(scope="module", params=KINDS)
def frontend_kind(request: pytest.FixtureRequest) -> str:
    """What speaks gRPC: all that holds of one kind of front-end holds of the other."""
    if request.param == "native" and not _native.GRPC_SERVER:
        pytest.skip("this build has no native front-end")
    return str(request.param)


@pytest.fixture(scope="module")
def frontend(
    tmp_path_factory: pytest.TempPathFactory, frontend_kind: str
) -> Iterator[FrontendProcess]:
    """A front-end that serves on a free port."""
    folder = tmp_path_factory.mktemp("frontend")
    process = FrontendProcess(folder, frontend_kind, "--request-max-bytes", str(MESSAGE_BYTES))
    process.serve()
    yield process
    process.close()


@pytest.fixture
def serve(frontend: FrontendProcess) -> Iterator[Serve]:
    """serve(name, signature, slots): a function in front of the front-end until the test ends.

    Afterwards every slot is FREE and the front-end holds no request.
    """
    functions: list[LocalFunction] = []

    def start(
        name: str = "echo", shape: Signature | None = None, **options: object
    ) -> LocalFunction:
        spec = FunctionSpec(name, engine="identity")
        function = LocalFunction(frontend, spec, shape or signature(), **options)
        functions.append(function)
        return function

    yield start
    for function in functions:
        function.close()
    state = frontend.connect()  # as an adopting daemon: the front-end says what it holds
    assert (state.in_flight, state.functions) == (0, [])


@pytest.fixture
def client(frontend: FrontendProcess) -> Iterator[triton.InferenceServerClient]:
    """Triton's blocking client."""
    with triton.InferenceServerClient(frontend.address) as connection:
        yield connection


@pytest.fixture
def own_client(frontend: FrontendProcess) -> Iterator[gslice.Client]:
    """gslice's blocking client."""
    with gslice.Client(frontend.address, timeout_s=20) as connection:
        yield connection


@pytest.fixture
def channel(frontend: FrontendProcess) -> Iterator[grpc.Channel]:
    """A bare channel, for messages that no client would send."""
    with grpc.insecure_channel(frontend.address) as connection:
        yield connection


@pytest.fixture
def echo(serve: Serve) -> LocalFunction:
    """A function with slots enough for many calls at once."""
    return serve("echo", slots=((4096, 64),))


@pytest.fixture
def raw(frontend: FrontendProcess) -> Iterator[Http2]:
    """A connection of HTTP/2; afterwards the front-end serves others as ever."""
    with Http2(frontend.address) as connection:
        yield connection
    with grpc.insecure_channel(frontend.address) as channel:
        live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
        assert live(b"", timeout=WAIT_S)
