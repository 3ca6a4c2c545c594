"""ModelInfer with Triton's unmodified blocking client, and with raw messages."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import grpc
import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from gslice.core.types import Signature, TensorSpec
from tests.contract.conftest import MESSAGE_BYTES
from tests.contract.direct import signature

NUMBERS = ["BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"]
NUMBERS += ["FP16", "FP32", "FP64"]
TYPES = {"BOOL": "bool", "FP16": "float16", "FP32": "float32", "FP64": "float64"}

CONTENTS = {
    "BOOL": ("bool_contents", [True, False, True, True]),
    "UINT8": ("uint_contents", [0, 1, 254, 255]),
    "UINT16": ("uint_contents", [0, 1, 65534, 65535]),
    "UINT32": ("uint_contents", [0, 1, 2, 2**32 - 1]),
    "UINT64": ("uint64_contents", [0, 1, 2, 2**64 - 1]),
    "INT8": ("int_contents", [-128, -1, 0, 127]),
    "INT16": ("int_contents", [-(2**15), -1, 0, 2**15 - 1]),
    "INT32": ("int_contents", [-(2**31), -1, 0, 2**31 - 1]),
    "INT64": ("int64_contents", [-(2**63), -1, 0, 2**63 - 1]),
    "FP32": ("fp32_contents", [-1.5, 0.0, 3.4e38, float("inf")]),
    "FP64": ("fp64_contents", [-1.5, 0.0, 1.7e308, float("-inf")]),
}


def numpy_type(dtype):
    return np.dtype(TYPES.get(dtype, dtype.lower()))


def tensor(name, array, dtype=None):
    made = triton.InferInput(name, list(array.shape), dtype or np_to_triton_dtype(array.dtype))
    made.set_data_from_numpy(array)
    return made


def raises(status, *words):
    return pytest.raises(
        InferenceServerException,
        match=f"(?s)StatusCode.{status}.*{'.*'.join(map(re.escape, words))}",
    )


# ---- what comes back is what was sent --------------------------------------------------------


@pytest.mark.parametrize("dtype", NUMBERS)
def test_numbers(serve, client, dtype):
    serve("echo", signature(dtype))
    sent = np.random.default_rng(1).integers(0, 256, 12, np.uint8)
    sent = sent.astype(numpy_type(dtype)).reshape(3, 4)
    result = client.infer("echo", [tensor("x", sent)], request_id="r-1")
    got = result.as_numpy("y")
    assert got.dtype == sent.dtype
    np.testing.assert_array_equal(got, sent)
    answer = result.get_response()
    assert (answer.model_name, answer.model_version, answer.id) == ("echo", "1", "r-1")
    assert answer.outputs[0].datatype == dtype


def test_bf16(serve, client):
    serve("echo", signature("BF16"))
    sent = np.array([[0.5, -2.0, 3.0, 1e30]], ml_dtypes.bfloat16)
    got = client.infer("echo", [tensor("x", sent, "BF16")]).as_numpy("y")
    assert got.dtype == sent.dtype
    np.testing.assert_array_equal(got, sent)


def test_bytes_elements(serve, client):
    serve("echo", signature("BYTES", (-1, 3)))
    sent = np.array(
        [[b"", b"a", bytes(range(256))], ["gr\u00fc\u00df".encode(), b"\0", b"x" * 999]], object
    )
    got = client.infer("echo", [tensor("x", sent)]).as_numpy("y")
    np.testing.assert_array_equal(got, sent)


def test_a_tensor_without_elements(serve, client):
    serve("echo", signature("FP32", (-1, -1)))
    sent = np.zeros((2, 0), np.float32)
    assert client.infer("echo", [tensor("x", sent)]).as_numpy("y").shape == (2, 0)


def test_a_scalar(serve, client):
    serve("echo", signature("INT64", (), rows_max=0))
    request = service_pb2.ModelInferRequest(model_name="echo")
    request.inputs.add(name="x", datatype="INT64")
    request.raw_input_contents.append(np.int64(-7).tobytes())
    answer = client._client_stub.ModelInfer(request)
    assert list(answer.outputs[0].shape) == []
    assert answer.raw_output_contents[0] == np.int64(-7).tobytes()


@pytest.mark.parametrize("dtype", sorted(CONTENTS))
def test_typed_contents(serve, channel, dtype):
    serve("echo", signature(dtype))
    field, values = CONTENTS[dtype]
    request = service_pb2.ModelInferRequest(model_name="echo")
    given = request.inputs.add(name="x", datatype=dtype, shape=[1, 4])
    getattr(given.contents, field).extend(values)
    answer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)
    got = np.frombuffer(answer.raw_output_contents[0], numpy_type(dtype))
    np.testing.assert_array_equal(got, np.array(values, numpy_type(dtype)))


def test_typed_bytes_contents(serve, channel):
    serve("echo", signature("BYTES", (-1, 2)))
    request = service_pb2.ModelInferRequest(model_name="echo")
    given = request.inputs.add(name="x", datatype="BYTES", shape=[1, 2])
    given.contents.bytes_contents.extend([b"one", b""])
    answer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)
    assert answer.raw_output_contents[0] == b"\x03\0\0\0one\0\0\0\0"


def two_by_two():
    return Signature(
        (TensorSpec("a", "FP32", (-1, 2)), TensorSpec("b", "INT32", (-1,))),
        (TensorSpec("p", "FP32", (-1, 2)), TensorSpec("q", "INT32", (-1,))),
        8,
    )


@pytest.mark.parametrize("wanted", [None, ["p", "q"], ["q", "p"], ["q"]])
def test_requested_outputs(serve, client, wanted):
    serve("pair", two_by_two())
    a, b = np.array([[1, 2], [3, 4]], np.float32), np.array([5, 6], np.int32)
    outputs = [triton.InferRequestedOutput(name) for name in wanted] if wanted else None
    # Inputs in another order than the signature's.
    result = client.infer("pair", [tensor("b", b), tensor("a", a)], outputs=outputs)
    assert [output.name for output in result.get_response().outputs] == (wanted or ["p", "q"])
    for name, expected in (("p", a), ("q", b)):
        if wanted is None or name in wanted:
            np.testing.assert_array_equal(result.as_numpy(name), expected)
        else:
            assert result.as_numpy(name) is None


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests(serve, client, algorithm):
    serve("echo", slots=((1 << 20, 2),), shape=signature("FP32", (-1, 65536)))
    sent = np.zeros((1, 65536), np.float32)
    got = client.infer("echo", [tensor("x", sent)], compression_algorithm=algorithm)
    np.testing.assert_array_equal(got.as_numpy("y"), sent)


def test_a_large_message(serve, client):
    elements = 3 << 20  # 12 MiB in, 12 MiB out
    serve("echo", signature("FP32", (-1, elements)), slots=((26 << 20, 2),))
    sent = np.random.default_rng(2).standard_normal((1, elements), np.float32)
    np.testing.assert_array_equal(client.infer("echo", [tensor("x", sent)]).as_numpy("y"), sent)


def test_many_at_once(serve, client):
    echo = serve("echo", slots=((4096, 64),))
    sent = [np.full((1 + i % 3, 4), i, np.float32) for i in range(600)]
    with ThreadPoolExecutor(16) as pool:
        results = pool.map(lambda x: client.infer("echo", [tensor("x", x)]).as_numpy("y"), sent)
        for expected, got in zip(sent, results, strict=True):
            np.testing.assert_array_equal(got, expected)
    assert echo.segment.stats()["outcome"]["ok"] == 600


# ---- bad input: a clear status, nothing lost ---------------------------------------------------


def test_unknown_function(serve, client):
    serve("echo")
    with raises("NOT_FOUND", "no function is called 'nobody'"):
        client.infer("nobody", [tensor("x", np.zeros((1, 4), np.float32))])


def test_unknown_version(serve, client):
    serve("echo")
    x = tensor("x", np.zeros((1, 4), np.float32))
    assert client.infer("echo", [x], model_version="1").as_numpy("y") is not None
    with raises("NOT_FOUND", "echo", "7"):
        client.infer("echo", [x], model_version="7")


@pytest.mark.parametrize(
    ("name", "array", "told"),
    [
        ("z", np.zeros((1, 4), np.float32), 'there is no input "z"; the inputs are "x"'),
        ("x", np.zeros((1, 4), np.int32), 'input "x" is "INT32", expected FP32'),
        ("x", np.zeros((1, 5), np.float32), 'input "x" has shape [1, 5], expected [-1, 4]'),
        ("x", np.zeros(4, np.float32), 'input "x" has shape [4], expected [-1, 4]: rank 1, not 2'),
        ("x", np.zeros((9, 4), np.float32), 'input "x" has shape [9, 4], expected [-1, 4] with 1'),
        ("x", np.zeros((0, 4), np.float32), 'input "x" has shape [0, 4], expected [-1, 4] with 1'),
    ],
    ids=["name", "dtype", "shape", "rank", "rows", "no rows"],
)
def test_wrong_tensor(serve, client, name, array, told):
    serve("echo")
    with raises("INVALID_ARGUMENT", f'function "echo": {told}'):
        client.infer("echo", [tensor(name, array)])


def test_unknown_output(serve, client):
    serve("echo")
    x = tensor("x", np.zeros((1, 4), np.float32))
    with raises("INVALID_ARGUMENT", 'there is no output "nothing"; the outputs are "y"'):
        client.infer("echo", [x], outputs=[triton.InferRequestedOutput("nothing")])


def test_an_input_is_missing(serve, client):
    serve("pair", two_by_two())
    with raises("INVALID_ARGUMENT", 'input "b" is missing; the inputs are "a", "b"'):
        client.infer("pair", [tensor("a", np.zeros((1, 2), np.float32))])


def build(edit):
    request = service_pb2.ModelInferRequest(model_name="echo")
    request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    request.raw_input_contents.append(bytes(16))
    edit(request)
    return request


def edit_dims(*dims):
    def edit(request):
        request.inputs[0].shape[:] = dims

    return edit


def twice(request):
    request.inputs.add().CopyFrom(request.inputs[0])
    request.raw_input_contents.append(bytes(16))


# What is done to a good request, and what its answer tells.
MALFORMED = {
    "too few bytes": (
        lambda r: r.raw_input_contents.__setitem__(0, bytes(15)),
        'input "x" has 15 bytes, expected 16',
    ),
    "too many bytes": (
        lambda r: r.raw_input_contents.__setitem__(0, bytes(17)),
        'input "x" has 17 bytes, expected 16',
    ),
    "no bytes at all": (
        lambda r: r.raw_input_contents.pop(),
        'input "x" has 0 elements in its contents, expected 4',
    ),
    "a tensor too many": (
        lambda r: r.raw_input_contents.append(bytes(16)),
        "2 raw_input_contents for its 1 inputs",
    ),
    "raw and typed": (
        lambda r: r.inputs[0].contents.fp32_contents.extend([1, 2, 3, 4]),
        'input "x" has contents and the request has raw_input_contents; send one',
    ),
    "negative dims": (edit_dims(1, -4), "expected [-1, 4]: dimension 1 is negative"),
    "overflowing dims": (edit_dims(2**32, 2**32), "has shape [4294967296, 4294967296], expected"),
    "huge rows": (edit_dims(2**62, 4), "has shape [4611686018427387904, 4], expected [-1, 4] with"),
    "the same input twice": (twice, 'input "x" came twice'),
    "a type nobody knows": (
        lambda r: setattr(r.inputs[0], "datatype", "FP8"),
        'input "x" is "FP8", expected FP32',
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed(serve, channel, name):
    serve("echo")
    edit, told = MALFORMED[name]
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    with pytest.raises(grpc.RpcError) as error:
        stub.ModelInfer(build(edit))
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT, error.value
    assert told in error.value.details()
    assert stub.ModelInfer(build(lambda request: None)).raw_output_contents[0] == bytes(16)


def test_broken_bytes(serve, channel):
    """Truncated and random messages: INVALID_ARGUMENT, or the status of what they happen to say."""
    serve("echo")
    whole = build(lambda request: None).SerializeToString()
    random = np.random.default_rng(3)
    broken = [whole[:cut] for cut in range(1, len(whole))]
    broken += [random.bytes(int(size)) for size in random.integers(1, 200, 200)]
    call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    codes = set()
    for message in broken:
        with pytest.raises(grpc.RpcError) as error:
            call(message)
        codes.add(error.value.code())
    assert codes <= {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}
    assert call(whole)


def test_larger_than_the_limit(serve, frontend):
    serve("echo", signature("FP32", (-1, 9 << 20)), slots=((4096, 1),))
    request = build(edit_dims(1, 9 << 20))
    request.raw_input_contents[0] = bytes(36 << 20)  # the front-end takes 32 MiB
    with grpc.insecure_channel(frontend.address) as channel, pytest.raises(grpc.RpcError) as error:
        service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)
    assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert str(MESSAGE_BYTES) in error.value.details()


def test_larger_than_any_slot(serve, client):
    serve("echo", signature("FP32", (-1, -1)), slots=((4096, 2),))
    with raises("RESOURCE_EXHAUSTED", "echo"):
        client.infer("echo", [tensor("x", np.zeros((1, 4096), np.float32))])


def test_a_full_queue(serve, client):
    echo = serve("echo", slots=((4096, 2),))
    echo.hold()
    x = np.zeros((1, 4), np.float32)
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(client.infer, "echo", [tensor("x", x)]) for _ in range(2)]
        echo.wait_count("queued", 2)
        with raises("RESOURCE_EXHAUSTED", "echo"):
            client.infer("echo", [tensor("x", x)])
        echo.release()
        for call in waiting:
            np.testing.assert_array_equal(call.result().as_numpy("y"), x)
