"""Bodies and the messages that they stand for."""

from __future__ import annotations

import gzip
import json
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gslice import _native
from gslice.core.errors import GsliceError, InvalidArgument, ResourceExhausted
from gslice.frontend.packing import PACKINGS, packed, unpacked
from gslice.frontend.rest import codec, fields
from gslice.frontend.rest.memory import Memory, parsed_bytes
from gslice.protos import message

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
PARAMETERS = st.dictionaries(
    TEXT.filter(lambda key: key not in ("binary_data_output",)),
    TEXT
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False, allow_infinity=False),
    max_size=3,
)


@st.composite
def requests(draw: st.DrawFn) -> tuple[dict[str, Any], list[bytes], list[bool]]:
    """A request in JSON without its tensors, these as bytes, and which of them go as bytes."""
    count = draw(st.integers(1, 4))
    tensors = [
        np.array(draw(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4)), "<i4")
        for _ in range(count)
    ]
    binary = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    inputs = []
    for index, (tensor, is_binary) in enumerate(zip(tensors, binary, strict=True)):
        entry: dict[str, Any] = {"name": f"x{index}", "datatype": "INT32", "shape": [len(tensor)]}
        if is_binary:
            entry["parameters"] = {"binary_data_size": tensor.nbytes}
        else:
            entry["data"] = tensor.tolist()
        inputs.append(entry)
    asked = {"id": draw(TEXT), "inputs": inputs, "parameters": draw(PARAMETERS)}
    return asked, [tensor.tobytes() for tensor in tensors], binary


@given(requests())
def test_a_request_is_the_message_that_grpc_would_bring(request: Any) -> None:
    asked, raws, binary = request
    text = json.dumps(asked).encode()
    behind = b"".join(raw for raw, is_binary in zip(raws, binary, strict=True) if is_binary)
    found, tensors = codec.split(memoryview(text + behind), str(len(text)))
    asked = fields.parse_object(found, "the request")
    encoded, _ = codec.read_request(asked, tensors, "echo", "3")
    read = message("inference.ModelInferRequest").FromString(encoded)
    assert (read.model_name, read.model_version, read.id) == ("echo", "3", asked["id"])
    assert list(read.raw_input_contents) == raws
    assert [tensor.name for tensor in read.inputs] == [each["name"] for each in asked["inputs"]]
    assert fields.plain_parameters(read.parameters) == asked["parameters"]
    parsed = _native.parse_infer_request(encoded)  # the data path reads the same
    assert [tensor["name"] for tensor in parsed["inputs"]] == [t.name for t in read.inputs]


@given(st.binary(max_size=60), st.one_of(st.none(), st.text("0123456789", max_size=3)))
def test_any_body_is_read_or_refused(body: bytes, length: str | None) -> None:
    try:
        text, tensors = codec.split(memoryview(body), length)
        codec.read_request(fields.parse_object(text, "the request"), tensors, "echo", "")
    except GsliceError as error:
        refused = str(error)
    else:
        refused = ""
    assert "\n" not in refused


def answer(raw: bytes = bytes(8), dtype: str = "INT32", rows: int = 2) -> bytes:
    made = message("inference.ModelInferResponse")(model_name="echo", model_version="1", id="7")
    made.outputs.add(name="y", datatype=dtype, shape=[rows])
    made.raw_output_contents.append(raw)
    return bytes(made.SerializeToString())


def test_an_answer_as_json_and_as_bytes() -> None:
    raw = np.array([3, -4], "<i4").tobytes()
    plain = codec.write_answer(answer(raw), codec.Wish(), lambda size: None)
    assert json.loads(plain.json) == {
        "model_name": "echo",
        "model_version": "1",
        "id": "7",
        "outputs": [{"name": "y", "datatype": "INT32", "shape": [2], "data": [3, -4]}],
    }
    assert plain.tensors == []
    for wish in (codec.Wish(binary=True), codec.Wish(outputs={"y": True})):
        binary = codec.write_answer(answer(raw), wish, lambda size: None)
        (told,) = json.loads(binary.json)["outputs"]
        assert "data" not in told
        assert told["parameters"] == {"binary_data_size": 8}
        assert binary.tensors == [raw]


def test_what_says_something_of_itself_is_not_asked_in_general() -> None:
    wish = codec.Wish(binary=True, outputs={"y": False})
    assert codec.write_answer(answer(), wish, lambda size: None).tensors == []


def test_json_of_an_answer_is_accounted_for() -> None:
    with Memory(1000).account() as account, pytest.raises(ResourceExhausted, match="binary data"):
        codec.write_answer(answer(bytes(400), rows=100), codec.Wish(), account.take)


# ---- memory --------------------------------------------------------------------------------------


def test_memory_comes_back_whatever_happens() -> None:
    memory = Memory(100)
    with memory.account() as one:
        one.take(60)
        with memory.account() as other, pytest.raises(ResourceExhausted, match="try again later"):
            other.take(50)
        with memory.account() as third:
            third.take(40)
            with pytest.raises(ResourceExhausted, match="try again later"):
                third.take(1)
        assert memory.taken_bytes == 60
    assert memory.taken_bytes == 0


@pytest.mark.parametrize(
    "text",
    [
        b"[" + b"[]," * 3000 + b"[]]",
        b"[" + b"{}," * 3000 + b"{}]",
        b"[" + b'{"a":1},' * 3000 + b"{}]",
        b"[" + b"1.5," * 3000 + b"1]",
        b"[" + b"123456789," * 3000 + b"1]",
        b"[" + b'"ab",' * 3000 + b'"ab"]',
        b"[" + b'"\\ud834\\udd1e' + b"a" * 30000 + b'"]',
        '["𝄞'.encode() + b"a" * 30000 + b'"]',
    ],
)
def test_json_takes_no_more_than_was_said(text: bytes) -> None:
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        parsed = json.loads(text)
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert parsed
    assert taken <= parsed_bytes(text)


# ---- compression ---------------------------------------------------------------------------------


@given(st.binary(max_size=5000), st.sampled_from(PACKINGS))
def test_what_is_packed_unpacks(data: bytes, packing: str) -> None:
    whole = packed(data, packing)
    assert b"".join(unpacked(whole, packing)) == data
    assert {"gzip": gzip.decompress, "deflate": zlib.decompress}[packing](whole) == data
    for cut in {0, len(whole) // 2, len(whole) - 1}:
        with pytest.raises(ValueError, match=r"cut off|incomplete|truncated"):
            list(unpacked(whole[:cut], packing))


def test_a_bomb_comes_in_pieces() -> None:
    pieces = unpacked(zlib.compress(bytes(64 << 20), 9), "deflate")
    assert len(next(pieces)) == 1 << 20


def test_fields_of_the_wrong_kind_are_named() -> None:
    with pytest.raises(InvalidArgument, match=r"^inputs\[0\]\.key must be a string$"):
        fields.text_field({"key": 5}, "key", "inputs[0].")
