"""KServe's system shared memory, as tritonclient's own utilities use it; the test is the daemon."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import InferenceServerException

import gslice
from gslice.core.errors import AlreadyExists, DeadlineExceeded
from gslice.ipc.messages import (
    AddRegion,
    ClientRegion,
    Failed,
    Ok,
    RegisterMemory,
    RemoveRegion,
    UnregisterMemory,
)
from tests.contract.direct import FrontendProcess, signature

KEY = f"/gslice-test-{os.getpid()}"
REGION_BYTES = 1 << 16


def fails(status: str, words: str = "") -> Any:
    return pytest.raises(InferenceServerException, match=rf"(?s)StatusCode\.{status}.*{words}")


@pytest.fixture(scope="module")
def frontend(
    tmp_path_factory: pytest.TempPathFactory, frontend_kind: str
) -> Iterator[FrontendProcess]:
    """A front-end that takes clients' memory."""
    folder = tmp_path_factory.mktemp("frontend")
    process = FrontendProcess(folder, frontend_kind, "--client-memory", "/gslice-test-")
    process.serve()
    yield process
    process.close()


@pytest.fixture
def region(frontend: FrontendProcess) -> Iterator[Any]:
    """Memory of the test, registered as `mine`; afterwards the front-end has let it go."""
    before = descriptors(frontend)
    handle = shm.create_shared_memory_region("mine", KEY, REGION_BYTES)
    register(frontend, "mine")
    yield handle
    frontend.request(RemoveRegion("mine"))
    shm.destroy_shared_memory_region(handle)
    assert descriptors(frontend) == before


def descriptors(frontend: FrontendProcess) -> int:
    """How many of the front-end's are of the test's memory."""
    found = 0
    for link in Path(f"/proc/{frontend.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a connection that ended meanwhile
            found += "gslice-test" in str(link.readlink())
    return found


def register(frontend: FrontendProcess, name: str, offset: int = 0, size: int = REGION_BYTES):
    fd = os.open("/dev/shm" + KEY, os.O_RDWR)
    try:
        frontend.request(AddRegion(ClientRegion(name, KEY, offset, size)), [fd])
    finally:
        os.close(fd)


def infer(client: triton.InferenceServerClient, x: np.ndarray, place: Callable[[Any, Any], None]):
    given = triton.InferInput("x", list(x.shape), triton_dtype(x))
    wanted = triton.InferRequestedOutput("y")
    place(given, wanted)
    return client.infer("echo", [given], outputs=[wanted])


def triton_dtype(x: np.ndarray) -> str:
    return {"float32": "FP32", "object": "BYTES"}[x.dtype.name]


def test_in_and_out_of_shared_memory(serve, client, region) -> None:
    serve()
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    shm.set_shared_memory_region(region, [x], offset=256)

    def place(given: Any, wanted: Any) -> None:
        given.set_shared_memory("mine", x.nbytes, offset=256)
        wanted.set_shared_memory("mine", 1024, offset=4096)

    answer = infer(client, x, place)
    assert list(answer.get_response().raw_output_contents) == [b""]
    output = answer.get_output("y")
    assert list(output.shape) == [3, 4]
    assert output.parameters["shared_memory_byte_size"].int64_param == x.nbytes
    given = shm.get_contents_as_numpy(region, np.float32, [3, 4], offset=4096)
    np.testing.assert_array_equal(given, x)


def test_one_way_only(serve, client, region) -> None:
    serve()
    x = np.ones((2, 4), np.float32)
    shm.set_shared_memory_region(region, [x])
    answer = infer(client, x, lambda given, _: given.set_shared_memory("mine", x.nbytes))
    np.testing.assert_array_equal(answer.as_numpy("y"), x)

    def place(given: Any, wanted: Any) -> None:
        given.set_data_from_numpy(2 * x)
        wanted.set_shared_memory("mine", x.nbytes, offset=512)

    infer(client, x, place)
    given = shm.get_contents_as_numpy(region, np.float32, [2, 4], offset=512)
    np.testing.assert_array_equal(given, 2 * x)


def test_texts(serve, client, region) -> None:
    serve(shape=signature("BYTES", (-1, 1)))
    x = np.array([[b"one"], [b"three"]], object)
    packed = triton.InferInput("x", [2, 1], "BYTES")
    packed.set_data_from_numpy(x)
    raw = packed._get_content()
    shm.set_shared_memory_region(region, [np.frombuffer(raw, np.uint8)])

    def place(given: Any, wanted: Any) -> None:
        given.set_shared_memory("mine", len(raw))
        wanted.set_shared_memory("mine", 100, offset=1024)

    infer(client, x, place)
    given = shm.get_contents_as_numpy(region, np.object_, [2, 1], offset=1024)
    assert given.tolist() == x.tolist()


def test_in_a_stream(serve, client, region) -> None:
    serve()
    x = np.full((1, 4), 7, np.float32)
    shm.set_shared_memory_region(region, [x])
    given = triton.InferInput("x", [1, 4], "FP32")
    given.set_shared_memory("mine", x.nbytes)
    wanted = triton.InferRequestedOutput("y")
    wanted.set_shared_memory("mine", x.nbytes, offset=64)
    answers: list[Any] = []
    client.start_stream(lambda result, error: answers.append((result, error)))
    client.async_stream_infer("echo", [given], outputs=[wanted], request_id="1")
    client.stop_stream()  # returns when all answers have come
    ((result, error),) = answers
    assert error is None
    assert result.get_response().id == "1"
    np.testing.assert_array_equal(
        shm.get_contents_as_numpy(region, np.float32, [1, 4], offset=64), x
    )


def test_a_request_that_finds_no_region_is_counted_once(serve, client) -> None:
    """Compressed, it comes to the native front-end's data path by another way."""
    echo = serve()
    given = triton.InferInput("x", [1, 4], "FP32")
    given.set_shared_memory("other", 16)
    for count, algorithm in enumerate((None, "gzip"), 1):
        with fails("NOT_FOUND", "no region"):
            client.infer("echo", [given], request_id="0" * 1000, compression_algorithm=algorithm)
        assert echo.segment.stats()["outcome"]["invalid"] == count


def test_what_requests_may_not_say(serve, client, region) -> None:
    serve()
    x = np.zeros((1, 4), np.float32)

    def refused(status: str, words: str, place: Callable[[Any, Any], None]) -> None:
        with fails(status, words):
            infer(client, x, place)

    refused("NOT_FOUND", "no region", lambda i, _: i.set_shared_memory("other", 16))
    refused("INVALID_ARGUMENT", "not in", lambda i, _: i.set_shared_memory("mine", 1 << 40))
    refused(
        "INVALID_ARGUMENT", "not in", lambda i, _: i.set_shared_memory("mine", 16, REGION_BYTES)
    )
    refused("INVALID_ARGUMENT", "expected 16", lambda i, _: i.set_shared_memory("mine", 20))

    def small(given: Any, wanted: Any) -> None:
        given.set_data_from_numpy(x)
        wanted.set_shared_memory("mine", 12)

    refused("INVALID_ARGUMENT", "takes 16 bytes", small)


def test_a_client_that_cuts_its_memory_off(serve, client, region) -> None:
    """Only its own request fails: nobody is killed by a page that is not there."""
    serve()
    x = np.ones((2, 4), np.float32)
    os.truncate("/dev/shm" + KEY, 8)
    with fails("INVALID_ARGUMENT", "shorter"):
        infer(client, x, lambda given, _: given.set_shared_memory("mine", x.nbytes))

    def out(given: Any, wanted: Any) -> None:
        given.set_data_from_numpy(x)
        wanted.set_shared_memory("mine", x.nbytes)

    with fails("INVALID_ARGUMENT", "shorter"):
        infer(client, x, out)
    answer = infer(client, x, lambda given, _: given.set_data_from_numpy(x))
    np.testing.assert_array_equal(answer.as_numpy("y"), x)
    os.truncate("/dev/shm" + KEY, REGION_BYTES)


def test_status(frontend, client, region) -> None:
    register(frontend, "part", 128, 256)
    private = ClientRegion("secret", "/proc/1/fd/3", 0, 16, pid=1, started=1)
    fd = os.open("/dev/shm" + KEY, os.O_RDWR)
    frontend.request(AddRegion(private), [fd])
    os.close(fd)
    status = client.get_system_shared_memory_status().regions
    assert set(status) == {"mine", "part"}  # who knows a private name has it already
    part = client.get_system_shared_memory_status("part").regions["part"]
    assert (part.name, part.key, part.offset, part.byte_size) == ("part", KEY, 128, 256)
    assert set(client.get_system_shared_memory_status("secret").regions) == {"secret"}
    for name in ("part", "secret"):
        frontend.request(RemoveRegion(name))
        with fails("NOT_FOUND", name):
            client.get_system_shared_memory_status(name)


def test_the_daemon_is_asked(frontend, client, region) -> None:
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(client.register_system_shared_memory, "new", KEY, 64, 32)
        call = frontend.next_call()
        assert call.message == RegisterMemory(ClientRegion("new", KEY, 32, 64))
        frontend.answer(call, Ok())
        asked.result()
        asked = pool.submit(client.register_system_shared_memory, "new", KEY, 65)
        frontend.answer(frontend.next_call(), Failed(AlreadyExists.code, "it is there"))
        with fails("ALREADY_EXISTS", "it is there"):
            asked.result()
        for name in ("new", ""):
            asked = pool.submit(client.unregister_system_shared_memory, name)
            call = frontend.next_call()
            assert call.message == UnregisterMemory(name)
            frontend.answer(call, Ok())
            asked.result()


def test_a_new_daemon_is_told(frontend, client, region) -> None:
    state = frontend.connect()
    assert state.client_memory == "/gslice-test-"
    known = frontend.next_call()
    assert known.message.region == ClientRegion("mine", KEY, 0, REGION_BYTES)
    fd = known.take_fd()
    assert os.path.sameopenfile(fd, region._mpsm_handle._fd)
    frontend.request(AddRegion(known.message.region), [fd])  # what it knows already
    os.close(fd)
    frontend.disconnect()
    with fails("UNAVAILABLE", "daemon is away"):
        client.register_system_shared_memory("new", KEY, 64)
    frontend.connect()
    frontend.next_call().close()


def test_a_request_that_was_given_up(serve, frontend) -> None:
    """Its memory is never used again: the server may still be about to write its output there."""
    function = serve(shape=signature("FP32", (-1, 20_000)), slots=((1 << 20, 4),))
    client = gslice.Client(frontend.address, timeout_s=20, shared_memory=True)
    x = np.ones((1, 20_000), np.float32)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(client.infer, "echo", {"x": x})
        call = frontend.next_call()
        slab = call.message.region
        fd = os.open(slab.key, os.O_RDWR)
        frontend.request(AddRegion(slab), [fd])
        os.close(fd)
        frontend.answer(call, Ok())
        held = [asked.result()["y"]]
        assert client.shared_memory_in_use
        function.hold()
        with pytest.raises(DeadlineExceeded):
            client.infer("echo", {"x": -x}, timeout_s=0.2)
        function.release()
        held += [client.infer("echo", {"x": i * x})["y"] for i in range(2, 12)]
        for i, y in enumerate(held):
            np.testing.assert_array_equal(y, (i + 1) * x)
        closed = pool.submit(client.close)
        call = frontend.next_call()
        assert call.message == UnregisterMemory(slab.name)
        frontend.request(RemoveRegion(slab.name))
        frontend.answer(call, Ok())
        closed.result()
    np.testing.assert_array_equal(held[5], 6 * x)


def test_the_extension_is_told(client) -> None:
    assert "system_shared_memory" in client.get_server_metadata().extensions
