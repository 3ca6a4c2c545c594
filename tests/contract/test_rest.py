"""KServe v2 over HTTP, with Triton's unmodified client."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from gslice.core.types import FunctionSpec, Signature, TensorSpec
from gslice.ipc.messages import (
    REST,
    AddRegion,
    ClientRegion,
    Failed,
    Ok,
    RegisterMemory,
    RemoveRegion,
    RepositoryCall,
)
from tests.contract.direct import WAIT_S, FrontendProcess, LocalFunction, signature
from tests.contract.test_infer import NUMBERS, numpy_type


@pytest.fixture(scope="module")
def frontend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FrontendProcess]:
    """The front-end that speaks HTTP."""
    folder = tmp_path_factory.mktemp("frontend")
    process = FrontendProcess(folder, REST, "--client-memory", "/gslice-test-")
    process.serve()
    yield process
    process.close()


@pytest.fixture
def client(frontend: FrontendProcess) -> Iterator[triton.InferenceServerClient]:
    connection = triton.InferenceServerClient(frontend.address, concurrency=8)
    yield connection
    connection.close()


def tensor(name: str, array: np.ndarray, *, binary: bool = True, dtype: str = "") -> Any:
    made = triton.InferInput(name, list(array.shape), dtype or np_to_triton_dtype(array.dtype))
    made.set_data_from_numpy(array, binary_data=binary)
    return made


class Elsewhere:
    """A client in a thread of its own, which is how far apart this library can be used."""

    def __init__(self, frontend: FrontendProcess) -> None:
        self._address = frontend.address
        self._pool = ThreadPoolExecutor(8)

    def ask(self, call: Callable[[triton.InferenceServerClient], Any]) -> Future[Any]:
        """Begins a call; several may run."""
        return self._pool.submit(self._ask, call)

    def close(self) -> None:
        self._pool.shutdown()

    def _ask(self, call: Callable[[triton.InferenceServerClient], Any]) -> Any:
        with triton.InferenceServerClient(self._address) as client:
            return call(client)


@pytest.fixture
def elsewhere(frontend: FrontendProcess) -> Iterator[Elsewhere]:
    threads = Elsewhere(frontend)
    yield threads
    threads.close()


def fails(status: int, *words: str) -> Any:
    text = ".*".join(map(re.escape, words))
    return pytest.raises(InferenceServerException, match=f"(?s)\\[{status}\\].*{text}")


# ---- what comes back is what was sent --------------------------------------------------------


@pytest.mark.parametrize("outputs", ["binary", "json"])
@pytest.mark.parametrize("inputs", ["binary", "json"])
@pytest.mark.parametrize("dtype", NUMBERS)
def test_numbers(serve, client, dtype: str, inputs: str, outputs: str) -> None:
    if dtype == "FP16" and "json" in (inputs, outputs):
        pytest.skip("this client sends and reads FP16 as bytes only")
    serve("echo", signature(dtype, (-1, 4)))
    sent = np.array([[0, 1, 2, 3], [1, 0, 1, 0]]).astype(numpy_type(dtype))
    answer = client.infer(
        "echo",
        [tensor("x", sent, binary=inputs == "binary")],
        outputs=[triton.InferRequestedOutput("y", binary_data=outputs == "binary")],
    )
    got = answer.as_numpy("y")
    assert got.dtype == sent.dtype
    np.testing.assert_array_equal(got, sent)


@pytest.mark.parametrize("dtype", ["FP16", "BF16"])
def test_half_precision(serve, client, dtype: str) -> None:
    kind = np.float16 if dtype == "FP16" else ml_dtypes.bfloat16
    serve("echo", signature(dtype, (-1, 4)))
    sent = np.array([[0.0, -1.5, 65504, 2**-14]], np.float32).astype(kind)
    answer = client.infer("echo", [tensor("x", sent, dtype=dtype)])
    np.testing.assert_array_equal(answer.as_numpy("y").astype(kind), sent)


@pytest.mark.parametrize("binary", [True, False])
def test_texts(serve, client, binary: bool) -> None:
    serve("echo", signature("BYTES", (-1, 2)))
    sent = np.array([["", "ä 'quoted' \n text"], ["𝄞", "b" * 1000]], np.object_)
    answer = client.infer(
        "echo",
        [tensor("x", sent, binary=binary)],
        outputs=[triton.InferRequestedOutput("y", binary_data=binary)],
    )
    got = [text.decode() if binary else text for text in answer.as_numpy("y").ravel()]
    assert got == sent.ravel().tolist()


def test_bytes_that_are_no_text_travel_as_binary_only(serve, client) -> None:
    serve("echo", signature("BYTES", (-1, 1)))
    sent = np.array([[b"\xff\x00"]], np.object_)
    assert client.infer("echo", [tensor("x", sent)]).as_numpy("y").tolist() == sent.tolist()
    with fails(400, "output 'y' is not UTF-8", "ask for binary_data"):
        wanted = triton.InferRequestedOutput("y", binary_data=False)
        client.infer("echo", [tensor("x", sent)], outputs=[wanted])


def test_several_tensors_each_in_its_own_way(serve, client) -> None:
    kinds = {"a": "INT64", "b": "BYTES", "c": "FP32"}
    specs = [TensorSpec(name, dtype, (-1, 2)) for name, dtype in kinds.items()]
    answers = [TensorSpec(f"{name}_", dtype, (-1, 2)) for name, dtype in kinds.items()]
    serve("three", Signature(tuple(specs), tuple(answers), 4))
    sent = {
        "a": np.array([[1, -(2**63)]], np.int64),
        "b": np.array([["p", "qr"]], np.object_),
        "c": np.array([[0.1, -3.4e38]], np.float32),
    }
    for ways in ((True, False, True), (False, True, False)):
        named = zip(sent.items(), ways, strict=True)
        inputs = [tensor(name, array, binary=binary) for (name, array), binary in named]
        asked = [
            triton.InferRequestedOutput(name, binary_data=not binary)
            for name, binary in zip(("c_", "a_", "b_"), ways, strict=True)
        ]
        answer = client.infer("three", inputs, outputs=asked)
        assert [output["name"] for output in answer.get_response()["outputs"]] == ["c_", "a_", "b_"]
        np.testing.assert_array_equal(answer.as_numpy("a_"), sent["a"])
        np.testing.assert_array_equal(answer.as_numpy("c_"), sent["c"])
        texts = [t.decode() if isinstance(t, bytes) else t for t in answer.as_numpy("b_")[0]]
        assert texts == ["p", "qr"]


@pytest.mark.parametrize("packing", ["gzip", "deflate"])
def test_compressed_both_ways(serve, client, packing: str) -> None:
    serve("echo", signature("FP32", (-1, 4096)), slots=((32768, 4),))
    sent = np.arange(4096, dtype=np.float32).reshape(1, 4096)
    for binary in (True, False):
        answer = client.infer(
            "echo",
            [tensor("x", sent, binary=binary)],
            outputs=[triton.InferRequestedOutput("y", binary_data=binary)],
            request_compression_algorithm=packing,
            response_compression_algorithm=packing,
        )
        np.testing.assert_array_equal(answer.as_numpy("y"), sent)


def test_a_large_tensor(serve, client) -> None:
    serve("echo", signature("FP32", (-1, 1 << 20)), slots=((10 << 20, 2),))
    sent = np.random.default_rng(7).random((1, 1 << 20), np.float32)
    np.testing.assert_array_equal(client.infer("echo", [tensor("x", sent)]).as_numpy("y"), sent)


def test_many_at_once(echo, elsewhere) -> None:
    def ask(client: triton.InferenceServerClient, numbers: range) -> list[float]:
        inputs = [[tensor("x", np.full((1, 4), number, np.float32))] for number in numbers]
        return [client.infer("echo", each).as_numpy("y")[0, 0] for each in inputs]

    ranges = [range(start, start + 8) for start in range(0, 64, 8)]
    asking = [elsewhere.ask(lambda client, each=each: ask(client, each)) for each in ranges]
    assert [found.result(WAIT_S) for found in asking] == [list(each) for each in ranges]


def test_the_asyncio_client(frontend, echo) -> None:
    async def ask() -> np.ndarray:
        async with triton_aio.InferenceServerClient(frontend.address) as client:
            assert await client.is_server_ready()
            array = np.ones((1, 4), np.float32)
            return (await client.infer("echo", [tensor("x", array)])).as_numpy("y")

    assert asyncio.run(asyncio.wait_for(ask(), WAIT_S)).tolist() == [[1, 1, 1, 1]]


def test_id_and_version_come_back(echo, client) -> None:
    array = np.ones((1, 4), np.float32)
    answer = client.infer("echo", [tensor("x", array)], request_id="né-1", model_version="1")
    told = answer.get_response()
    assert (told["id"], told["model_name"], told["model_version"]) == ("né-1", "echo", "1")


# ---- errors and deadlines -----------------------------------------------------------------------


def test_the_same_checks_as_of_grpc(echo, client) -> None:
    array = np.ones((1, 4), np.float32)
    with fails(404, "no function is called 'other'"):
        client.infer("other", [tensor("x", array)])
    with fails(404, "has no version '7'"):
        client.infer("echo", [tensor("x", array)], model_version="7")
    with fails(400, "x"):
        client.infer("echo", [tensor("x", np.ones((1, 5), np.float32))])
    with fails(400, "x"):
        client.infer("echo", [tensor("x", np.ones((1, 4), np.int32))])
    with fails(400, 'there is no output "z"'):
        client.infer("echo", [tensor("x", array)], outputs=[triton.InferRequestedOutput("z")])
    with fails(501, "classification is not offered"):
        wanted = triton.InferRequestedOutput("y", class_count=3)
        client.infer("echo", [tensor("x", array)], outputs=[wanted])
    with fails(501, "sequences are not offered"):
        client.infer("echo", [tensor("x", array)], sequence_id=5, sequence_start=True)


def test_the_timeout_parameter_is_the_deadline(echo, client) -> None:
    echo.hold()
    with fails(504):
        client.infer("echo", [tensor("x", np.ones((1, 4), np.float32))], timeout=50_000)
    echo.release()
    echo.wait_idle()


def test_a_full_queue_is_429(serve, client, elsewhere) -> None:
    small = serve("small", slots=((4096, 1),))
    small.hold()
    array = np.ones((1, 4), np.float32)
    first = elsewhere.ask(lambda other: other.infer("small", [tensor("x", array)]))
    small.wait_count("queued", 1)
    with fails(429):
        client.infer("small", [tensor("x", array)])
    small.release()
    assert first.result(WAIT_S).as_numpy("y").tolist() == array.tolist()


# ---- what is known of server and functions ------------------------------------------------------


def test_server(echo, client) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    told = client.get_server_metadata()
    assert told["name"] == "gslice"
    assert {"binary_tensor_data", "statistics", "model_repository"} <= set(told["extensions"])


def test_function(serve, client) -> None:
    serve("echo", signature("FP32", (-1, 4), rows_max=8))
    assert client.is_model_ready("echo")
    assert client.is_model_ready("echo", "1")
    assert not client.is_model_ready("other")
    assert client.get_model_metadata("echo") == {
        "name": "echo",
        "versions": ["1"],
        "platform": "identity",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 4]}],
    }
    config = client.get_model_config("echo", "1")
    assert (config["name"], config["max_batch_size"]) == ("echo", 8)
    x = {"name": "x", "data_type": "TYPE_FP32", "dims": [4], "allow_ragged_batch": False}
    assert config["input"] == [x]
    with fails(404):
        client.get_model_config("other")


def test_what_is_not_ready_says_so(frontend, client) -> None:
    function = LocalFunction(frontend, FunctionSpec("tired"), signature())
    function.set_state("UNAVAILABLE", "it failed")
    assert not client.is_model_ready("tired")
    with fails(503, "it failed"):
        client.infer("tired", [tensor("x", np.ones((1, 4), np.float32))])
    assert client.get_model_repository_index() == [
        {"name": "tired", "version": "1", "state": "UNAVAILABLE", "reason": "it failed"}
    ]
    function.close()


def test_statistics(echo, client) -> None:
    for _ in range(3):
        client.infer("echo", [tensor("x", np.ones((2, 4), np.float32))])
    for told in (client.get_inference_statistics("echo"), client.get_inference_statistics()):
        (found,) = told["model_stats"]
        assert (found["name"], found["version"], found["inference_count"]) == ("echo", "1", 6)
        assert found["inference_stats"]["success"]["count"] == 3


# ---- what the daemon is asked --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ask", "expected"),
    [
        (
            lambda client: client.load_model("new", config=json.dumps({"share": "10%"})),
            RepositoryCall("load", "new", '{"share": "10%"}'),
        ),
        (lambda client: client.load_model("new"), RepositoryCall("load", "new")),
        (lambda client: client.unload_model("new"), RepositoryCall("unload", "new")),
    ],
)
def test_load_and_unload_go_to_the_daemon(frontend, elsewhere, ask, expected) -> None:
    asking = elsewhere.ask(ask)
    asked = frontend.next_call()
    assert asked.message == expected
    frontend.answer(asked, Ok())
    asking.result(WAIT_S)
    refused = elsewhere.ask(ask)
    frontend.answer(frontend.next_call(), Failed(5, "no function is called 'new'"))
    with fails(404, "no function is called 'new'"):
        refused.result(WAIT_S)


def test_only_settings_are_loaded(frontend, client) -> None:
    with fails(501, "is not offered"):
        client.load_model("new", files={"file:1/model.onnx": b"x"}, config="{}")


def test_tensors_in_clients_memory(frontend, echo, client, elsewhere) -> None:
    key = f"/gslice-test-rest-{os.getpid()}"
    handle = shm.create_shared_memory_region("mine", key, 4096)
    try:
        asking = elsewhere.ask(lambda c: c.register_system_shared_memory("mine", key, 4096))
        asked = frontend.next_call()
        assert asked.message == RegisterMemory(ClientRegion("mine", key, 0, 4096))
        fd = os.open("/dev/shm" + key, os.O_RDWR)
        frontend.request(AddRegion(asked.message.region), [fd])
        os.close(fd)
        frontend.answer(asked, Ok())
        asking.result(WAIT_S)
        assert [r["name"] for r in client.get_system_shared_memory_status()] == ["mine"]
        sent = np.array([[1, 2, 3, 4]], np.float32)
        shm.set_shared_memory_region(handle, [sent])
        placed = triton.InferInput("x", [1, 4], "FP32")
        placed.set_shared_memory("mine", 16)
        wanted = triton.InferRequestedOutput("y")
        wanted.set_shared_memory("mine", 16, offset=1024)
        answer = client.infer("echo", [placed], outputs=[wanted])
        told = answer.get_output("y")
        assert told["parameters"]["shared_memory_region"] == "mine"
        assert "data" not in told
        got = shm.get_contents_as_numpy(handle, np.float32, [1, 4], offset=1024)
        assert got.tolist() == sent.tolist()
    finally:
        frontend.request(RemoveRegion("mine"))
        shm.destroy_shared_memory_region(handle)
