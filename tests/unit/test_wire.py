"""The wire codec against google.protobuf with tritonclient's messages: both read the same."""

from __future__ import annotations

import os
import re
import select
import time
from dataclasses import dataclass

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb

from gslice import _native
from gslice.core.errors import FailedPrecondition, InvalidArgument, NotFound

INT64 = st.integers(-(2**63), 2**63 - 1)
UINT64 = st.integers(0, 2**64 - 1)
TEXT = st.text(max_size=12)
CONTENTS = {
    "bool_contents": st.booleans(),
    "int_contents": st.integers(-(2**31), 2**31 - 1),
    "int64_contents": INT64,
    "uint_contents": st.integers(0, 2**32 - 1),
    "uint64_contents": UINT64,
    "fp32_contents": st.floats(width=32, allow_nan=False),
    "fp64_contents": st.floats(allow_nan=False),
    "bytes_contents": st.binary(max_size=8),
}
PARAMETER = {
    "bool_param": st.booleans(),
    "int64_param": INT64,
    "string_param": TEXT,
    "double_param": st.floats(allow_nan=False),
    "uint64_param": UINT64,
}


# ---- requests ------------------------------------------------------------------------------------


@st.composite
def parameters(draw):
    out = {}
    for key in draw(st.lists(TEXT, max_size=3, unique=True)):
        name = draw(st.sampled_from(sorted(PARAMETER)))
        out[key] = pb.InferParameter(**{name: draw(PARAMETER[name])})
    return out


@st.composite
def inputs(draw):
    message = pb.ModelInferRequest.InferInputTensor(
        name=draw(TEXT),
        datatype=draw(st.sampled_from(["FP32", "BYTES", "INT8", "nonsense", ""])),
        shape=draw(st.lists(INT64, max_size=8)),
        parameters=draw(parameters()),
    )
    if draw(st.booleans()):
        message.contents.SetInParent()
        for name in draw(st.lists(st.sampled_from(sorted(CONTENTS)), max_size=2, unique=True)):
            getattr(message.contents, name).extend(draw(st.lists(CONTENTS[name], max_size=5)))
    return message


@st.composite
def requests(draw):
    output = pb.ModelInferRequest.InferRequestedOutputTensor
    return pb.ModelInferRequest(
        model_name=draw(TEXT),
        model_version=draw(TEXT),
        id=draw(TEXT),
        parameters=draw(parameters()),
        inputs=draw(st.lists(inputs(), max_size=3)),
        outputs=draw(st.lists(st.builds(output, name=TEXT, parameters=parameters()), max_size=2)),
        raw_input_contents=draw(st.lists(st.binary(max_size=40), max_size=3)),
    )


def parameter_values(entries):
    chosen = {key: value.WhichOneof("parameter_choice") for key, value in entries.items()}
    return {key: getattr(entries[key], name) if name else None for key, name in chosen.items()}


def as_dict(message):
    """What `parse_infer_request` should give for a message that protobuf has read."""
    return {
        "model_name": message.model_name,
        "model_version": message.model_version,
        "id": message.id,
        "parameters": parameter_values(message.parameters),
        "inputs": [
            {
                "name": each.name,
                "datatype": each.datatype,
                "shape": list(each.shape)[:8],
                "rank": len(each.shape),
                "parameters": parameter_values(each.parameters),
                "contents": {name: list(getattr(each.contents, name)) for name in CONTENTS}
                if each.HasField("contents")
                else None,
            }
            for each in message.inputs
        ],
        "outputs": [
            {"name": each.name, "parameters": parameter_values(each.parameters)}
            for each in message.outputs
        ],
        "raw_input_contents": list(message.raw_input_contents),
    }


def bits(value):
    """The same value with floats as text, so that NaN equals NaN and -0.0 differs from 0.0."""
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, dict):
        return {key: bits(each) for key, each in value.items()}
    return [bits(each) for each in value] if isinstance(value, list) else value


@given(requests())
def test_reads_what_protobuf_wrote(message):
    assert bits(_native.parse_infer_request(message.SerializeToString())) == bits(as_dict(message))


# All that a message may hold which protobuf reads and we refuse: groups, which no KServe message
# has, and counts beyond any function's.
REFUSED = re.compile(r"a group|unknown field|more than \d+")


def sets_entries_aside(message):
    """Whether this runtime kept map entries that hold unknown fields out of their map.

    Other runtimes, and gslice, take such an entry and skip what is unknown in it.
    """
    field = message.DESCRIPTOR.fields_by_name["parameters"]
    unknown = {(each.field_number, each.wire_type) for each in UnknownFieldSet(message)}
    nested = [*getattr(message, "inputs", []), *getattr(message, "outputs", [])]
    return (field.number, 2) in unknown or any(map(sets_entries_aside, nested))


def without_parameters(value):
    if isinstance(value, dict):
        return {k: without_parameters(each) for k, each in value.items() if k != "parameters"}
    return [without_parameters(each) for each in value] if isinstance(value, list) else value


def compare(data):
    try:
        theirs = pb.ModelInferRequest.FromString(data)
    except DecodeError:
        with pytest.raises(InvalidArgument, match="malformed ModelInferRequest"):
            _native.parse_infer_request(data)
        return
    try:
        ours = _native.parse_infer_request(data)
    except InvalidArgument as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        assert REFUSED.search(refusal)
    elif sets_entries_aside(theirs):
        assert without_parameters(bits(ours)) == without_parameters(bits(as_dict(theirs)))
    else:
        assert bits(ours) == bits(as_dict(theirs))


@given(st.binary(max_size=64))
def test_random_bytes(data):
    compare(data)


@st.composite
def damaged(draw):
    data = bytearray(draw(requests()).SerializeToString())
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        match draw(st.integers(0, 3)):
            case 0 if at < len(data):
                data[at] = draw(st.integers(0, 255))
            case 1:
                data[at:at] = draw(st.binary(max_size=4))
            case 2:
                del data[at : at + draw(st.integers(1, 4))]
            case _:
                del data[at:]
    return bytes(data)


@given(damaged())
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_damaged_requests(data):
    compare(data)


@given(requests(), requests())
def test_one_message_after_another_merges(first, second):
    compare(first.SerializeToString() + second.SerializeToString())


# ---- answers, through a function that gives back what it got ------------------------------------

DTYPES = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}
CLASSES = [(1 << 14, 8), (1 << 20, 2)]


@dataclass
class Served:
    """A function `echo` behind a front-end: inputs x and s, outputs y and t."""

    segment: _native.Segment
    frontend: _native.Frontend
    instance: _native.Instance
    eventfd: int

    def ask(self, message, *, stream=False):
        ticket = self.frontend.submit(message.SerializeToString(), None)
        assert self.frontend.request_id(ticket) == message.id
        give_up = time.monotonic() + 20
        while ticket not in self.frontend.take_done():
            readable, _, _ = select.select([self.eventfd], [], [], give_up - time.monotonic())
            assert readable, "no answer in 20 s"
            os.eventfd_read(self.eventfd)
        return self.frontend.respond(ticket, stream)

    def is_idle(self):
        counts = self.segment.counts()
        return counts.pop("free") == 10 and not any(counts.values())


@pytest.fixture(params=sorted(DTYPES))
def served(request):
    dtype = request.param
    segment = _native.Segment.create("echo", CLASSES, 1 << 16, 2)
    signature = _native.Signature(
        [("x", dtype, [-1, -1]), ("s", "BYTES", [-1])],
        [("y", dtype, [-1, -1]), ("t", "BYTES", [-1])],
        0,
        [],
    )
    eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    segment.activate_frontend(0)
    index = segment.add_instance()
    instance = _native.Instance(segment, index, signature, 1, None)
    instance.add_frontend(0, eventfd)
    instance.start()
    segment.flip(None, index)
    frontend = _native.Frontend(0)
    frontend.add_function("echo", "3", segment, signature, 0)
    here = Served(segment, frontend, instance, eventfd)
    yield here
    assert here.is_idle(), segment.counts()
    assert frontend.in_flight == 0
    instance.stop()
    os.close(eventfd)


@given(data=st.data())
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_answers_as_protobuf_reads_them(served, data, request):
    dtype = request.node.callspec.params["served"]
    rows, columns = data.draw(st.integers(1, 40)), data.draw(st.integers(0, 300))
    x = np.random.default_rng(rows).integers(0, 2, (rows, columns)).astype(DTYPES[dtype])
    strings = data.draw(st.lists(st.binary(max_size=20), max_size=5))
    packed = b"".join(len(each).to_bytes(4, "little") + each for each in strings)
    asked = data.draw(st.permutations(["y", "t"])) if data.draw(st.booleans()) else []
    infer = pb.ModelInferRequest(model_name="echo", id=data.draw(TEXT))
    infer.inputs.add(name="x", datatype=dtype, shape=x.shape)
    infer.inputs.add(name="s", datatype="BYTES", shape=[len(strings)])
    infer.raw_input_contents.extend([x.tobytes(), packed])
    for name in asked:
        infer.outputs.add(name=name)

    expected = pb.ModelInferResponse(model_name="echo", model_version="3", id=infer.id)
    tensors = {"y": (dtype, x.shape, x.tobytes()), "t": ("BYTES", [len(strings)], packed)}
    for name in asked or ["y", "t"]:
        datatype, shape, raw = tensors[name]
        expected.outputs.add(name=name, datatype=datatype, shape=shape)
        expected.raw_output_contents.append(raw)

    assert pb.ModelInferResponse.FromString(served.ask(infer)) == expected
    streamed = pb.ModelStreamInferResponse.FromString(served.ask(infer, stream=True))
    expected.parameters["triton_final_response"].bool_param = True
    assert streamed == pb.ModelStreamInferResponse(infer_response=expected)


# ---- the rest of the Frontend, as Python sees it ------------------------------------------------


@pytest.mark.parametrize("served", ["FP32"], indirect=True)
class TestFrontend:
    def test_large_payloads_go_without_the_gil(self, served):
        x = np.arange(100_000, dtype=np.float32).reshape(10, -1)
        infer = pb.ModelInferRequest(model_name="echo")
        infer.inputs.add(name="x", datatype="FP32", shape=x.shape)
        infer.inputs.add(name="s", datatype="BYTES", shape=[0])
        infer.raw_input_contents.extend([x.tobytes(), b""])
        answer = pb.ModelInferResponse.FromString(served.ask(infer))
        assert answer.raw_output_contents[0] == x.tobytes()

    def test_errors_are_of_the_tree(self, served):
        with pytest.raises(NotFound, match='"nobody" is not served here'):
            served.frontend.submit(
                pb.ModelInferRequest(model_name="nobody").SerializeToString(), None
            )
        with pytest.raises(InvalidArgument, match='input "x" is missing'):
            served.frontend.submit(pb.ModelInferRequest(model_name="echo").SerializeToString(), 1)
        with pytest.raises(NotFound, match="not in flight"):
            served.frontend.respond(12345)
        assert served.segment.stats()["outcome"]["invalid"] == 1

    def test_a_paused_function_keeps_its_ticket(self, served):
        served.segment.flip(0, None)
        infer = pb.ModelInferRequest(model_name="echo", id="later")
        infer.inputs.add(name="x", datatype="FP32", shape=[1, 1])
        infer.inputs.add(name="s", datatype="BYTES", shape=[0])
        infer.raw_input_contents.extend([bytes(4), b""])
        deadline = time.monotonic_ns() + 10**12
        ticket = served.frontend.submit(infer.SerializeToString(), deadline)
        assert ticket >= 0
        assert served.frontend.deadline_ns(ticket) == deadline
        assert served.frontend.request_id(ticket) == "later"
        with pytest.raises(FailedPrecondition, match="has no answer yet"):
            served.frontend.respond(ticket)
        assert served.frontend.in_flight == 1
        served.frontend.cancel(ticket)
        served.frontend.cancel(ticket)
        served.frontend.remove_function("echo")


def test_index_out_of_range():
    with pytest.raises(InvalidArgument, match="front-end 99 is out of range"):
        _native.Frontend(99)


@pytest.mark.parametrize(
    ("dtype", "dims", "rows_max", "buckets", "words"),
    [
        ("FLOAT", [-1], 0, [], "tensor 'x' has the unknown data type 'FLOAT'"),
        ("FP32", [1] * 9, 0, [], "input 'x' has rank 9; at most 8 is possible"),
        ("FP32", [4], 8, [], "tensor 'x' has shape [4]; a signature that batches rows needs -1"),
        ("FP32", [-1], 8, [4, 2, 8], "buckets must ascend, start above 0 and end at rows_max 8"),
    ],
)
def test_signatures_that_cannot_be_served(dtype, dims, rows_max, buckets, words):
    with pytest.raises(InvalidArgument, match=re.escape(words)):
        _native.Signature([("x", dtype, dims)], [], rows_max, buckets)
