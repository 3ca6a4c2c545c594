"""A request through shared memory takes several calls, which have one end time together."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import grpc
import numpy as np
import pytest

import gslice
import gslice.aio
from gslice.client.countdown import Countdown
from gslice.core.errors import Cancelled, DeadlineExceeded
from gslice.protos import message

HERE = "127.0.0.1:9"  # nobody is called: the stub is the test's
X = np.arange(20_000, dtype=np.int64).reshape(1, -1)  # large enough not to travel
TIMEOUT_S = 1000.0
METADATA, REGISTER, INFER = "ModelConfig", "SystemSharedMemoryRegister", "ModelInfer"
UNREGISTER = "SystemSharedMemoryUnregister"
CODES = {
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.CANCELLED: Cancelled,
}


class Failure(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode) -> None:
        self._code = code

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return "the test says so"


class Server:
    """Has one function, whose output is its input, and remembers each call's time limit.

    Attributes:
        calls: What was called for requests, and with which limit.
        failures: What the next calls of a method fail with.
        on_register: Called while a client's memory is registered.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, float | None]] = []
        self.failures: dict[str, list[grpc.StatusCode]] = {}
        self.on_register: Callable[[], None] = lambda: None

    def answer(self, method: str, request: Any, timeout_s: float | None) -> Any:
        if method == UNREGISTER:
            return None
        self.calls.append((method, timeout_s))
        if method == REGISTER:
            self.on_register()
        if codes := self.failures.get(method):
            raise Failure(codes.pop(0))
        if method == METADATA:
            signature = message("inference.ModelConfigResponse")()
            for entries in (signature.config.input, signature.config.output):
                entries.add(name="x", data_type="TYPE_INT64", dims=[1, -1])
            return signature
        result = message("inference.ModelInferResponse")()
        if method == INFER and request.raw_input_contents:
            result.outputs.add(name="x", datatype="INT64", shape=X.shape)
            result.raw_output_contents.append(request.raw_input_contents[0])
        return result

    @property
    def steps(self) -> list[str]:
        """What was called, in order."""
        return [method for method, _ in self.calls]


class Method:
    """One of the service's, as a stub has it."""

    def __init__(self, server: Server, name: str) -> None:
        self._server, self._name = server, name

    def __call__(self, request: Any, timeout: float | None = None) -> Any:
        return self._server.answer(self._name, request, timeout)

    def future(self, request: Any, timeout: float | None = None) -> Any:
        done: Future[Any] = Future()
        done.set_result(self(request, timeout))
        return done


class AioMethod(Method):
    async def __call__(self, request: Any, **limit: Any) -> Any:
        return super().__call__(request, **limit)


class Stub:
    def __init__(self, server: Server, kind: type[Method]) -> None:
        self._server, self._kind = server, kind

    def __getattr__(self, name: str) -> Method:
        return self._kind(self._server, name)


Infer = Callable[[float | None], Any]


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture(params=["sync", "aio"])
def infer(request: pytest.FixtureRequest, server: Server, monkeypatch: pytest.MonkeyPatch) -> Infer:
    """One request by a new client, with a time limit or the client's own."""
    monkeypatch.setattr("gslice.client.sync.Stub", lambda *_: Stub(server, Method))
    monkeypatch.setattr("gslice.client.aio.Stub", lambda *_: Stub(server, AioMethod))

    def blocking(timeout_s: float | None) -> Any:
        with gslice.Client(HERE, TIMEOUT_S, shared_memory=True) as client:
            return client.infer("f", {"x": X}, timeout_s=timeout_s)

    async def awaited(timeout_s: float | None) -> Any:
        async with gslice.aio.Client(HERE, TIMEOUT_S, shared_memory=True) as client:
            return await client.infer("f", {"x": X}, timeout_s=timeout_s)

    if request.param == "sync":
        return blocking
    return lambda timeout_s: asyncio.run(awaited(timeout_s))


@pytest.mark.parametrize("timeout_s", [TIMEOUT_S / 2, None])
def test_all_steps_have_one_end(server: Server, infer: Infer, timeout_s: float | None) -> None:
    server.failures[INFER] = [grpc.StatusCode.NOT_FOUND]  # another server: the request travels
    np.testing.assert_array_equal(infer(timeout_s)["x"], X)
    assert server.steps == [METADATA, REGISTER, INFER, INFER]
    limits_s = [
        limit_s for step, limit_s in server.calls if limit_s is not None and step != REGISTER
    ]
    assert len(limits_s) == 3
    assert (timeout_s or TIMEOUT_S) > limits_s[0]
    assert all(later < earlier for earlier, later in pairwise(limits_s))


@pytest.mark.parametrize(("timeout_s", "part_s"), [(None, 1.0), (TIMEOUT_S, 1.0), (1.0, 0.5)])
def test_the_registration_gets_a_part_of_the_time(
    server: Server, infer: Infer, timeout_s: float | None, part_s: float
) -> None:
    infer(timeout_s)
    (limit_s,) = (limit_s for step, limit_s in server.calls if step == REGISTER)
    assert limit_s is not None
    assert 0.5 * part_s < limit_s <= part_s


def test_a_part_of_a_call_without_a_limit() -> None:
    assert Countdown(None).part_s(1.0) == 1.0


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("step", [METADATA, INFER])
def test_a_step_that_took_all_the_time_is_the_last(
    server: Server, infer: Infer, step: str, code: grpc.StatusCode
) -> None:
    server.failures[step] = [code]
    with pytest.raises(CODES[code], match="the test says so"):
        infer(TIMEOUT_S)
    assert server.steps[-1] == step


@pytest.mark.parametrize("code", [*CODES, grpc.StatusCode.UNIMPLEMENTED])
def test_a_refusal_has_the_request_travel(
    server: Server, infer: Infer, code: grpc.StatusCode
) -> None:
    server.failures[REGISTER] = [code]
    np.testing.assert_array_equal(infer(TIMEOUT_S)["x"], X)
    assert server.steps == [METADATA, REGISTER, INFER]


def test_a_request_without_time_to_travel_does_not(server: Server, infer: Infer) -> None:
    server.failures[REGISTER] = [grpc.StatusCode.DEADLINE_EXCEEDED]
    with pytest.raises(DeadlineExceeded, match="share memory"):
        infer(0.0)
    assert server.steps == [METADATA, REGISTER]


def test_who_did_not_answer_is_not_asked_again_at_once(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gslice.client.sync.Stub", lambda *_: Stub(server, Method))
    server.failures[REGISTER] = [grpc.StatusCode.DEADLINE_EXCEEDED]
    with gslice.Client(HERE, shared_memory=True) as client:
        for _ in range(2):
            np.testing.assert_array_equal(client.infer("f", {"x": X})["x"], X)
        assert not client.shared_memory_in_use
    assert server.steps == [METADATA, REGISTER, INFER, INFER]


# ---- one client, several requests at a time ---------------------------------------------------


def test_the_wait_for_another_ones_registration_is_short(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gslice.client.sync.Stub", lambda *_: Stub(server, Method))
    asked, go_on = threading.Event(), threading.Event()

    def on_register() -> None:
        asked.set()
        assert go_on.wait(20)

    server.on_register = on_register
    with (
        gslice.Client(HERE, TIMEOUT_S, shared_memory=True) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        first = pool.submit(client.infer, "f", {"x": X})
        assert asked.wait(20)
        try:
            np.testing.assert_array_equal(client.infer("f", {"x": X}, timeout_s=0.2)["x"], X)
            with pytest.raises(DeadlineExceeded, match="share memory"):
                client.infer("f", {"x": X}, timeout_s=0.0)
        finally:
            go_on.set()
        first.result()
    assert server.steps == [METADATA, REGISTER, INFER, INFER]


def test_so_is_that_of_a_task(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(AioMethod):
        async def __call__(self, request: Any, **limit: Any) -> Any:
            if self._name == REGISTER:
                asked.set()
                await go_on.wait()
            return await super().__call__(request, **limit)

    monkeypatch.setattr("gslice.client.aio.Stub", lambda *_: Stub(server, Slow))
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def scenario() -> None:
        async with gslice.aio.Client(HERE, TIMEOUT_S, shared_memory=True) as client:
            first = asyncio.ensure_future(client.infer("f", {"x": X}))
            await asked.wait()
            async with asyncio.timeout(20):
                answer = await client.infer("f", {"x": X}, timeout_s=0.2)
                with pytest.raises(DeadlineExceeded, match="share memory"):
                    await client.infer("f", {"x": X}, timeout_s=0.0)
            np.testing.assert_array_equal(answer["x"], X)
            go_on.set()
            await first

    asyncio.run(scenario())
    assert server.steps == [METADATA, INFER, REGISTER, INFER]  # `Slow` tells of it late
