"""Traces and logs of single requests, of every kind of front-end; a stub collector takes OTLP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton

from gslice import _native
from gslice.core.types import FunctionSpec
from gslice.ipc.messages import REST
from gslice.protos import message
from tests.collector import Collector, values
from tests.contract import rest
from tests.contract.direct import WAIT_S, FrontendProcess, LocalFunction, signature

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
STAGES = ["receive", "queue", "copy_in", "compute", "copy_out", "answer"]
INFER = "/inference.GRPCInferenceService/ModelInfer"


@pytest.fixture(scope="module", params=["native", "python", REST])
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "native" and not _native.GRPC_SERVER:
        pytest.skip("this build has no native front-end")
    return str(request.param)


@pytest.fixture(scope="module")
def collector(kind: str) -> Iterator[Collector]:
    """One for each kind: they use the same request ids."""
    with Collector() as running:
        yield running


@pytest.fixture(scope="module")
def traced(
    tmp_path_factory: pytest.TempPathFactory, kind: str, collector: Collector
) -> Iterator[FrontendProcess]:
    """A front-end that traces what its callers want traced, and logs what fails, as JSON."""
    folder = tmp_path_factory.mktemp("traced")
    arguments = ("--otlp", collector.url, "--log-format", "json", "--log-level", "debug")
    process = FrontendProcess(folder, kind, *arguments)
    process.serve()
    yield process
    process.close()


@pytest.fixture
def echo(traced: FrontendProcess) -> Iterator[LocalFunction]:
    function = LocalFunction(traced, FunctionSpec("echo", engine="identity"), signature())
    yield function
    function.close()


def infer(frontend: FrontendProcess, request_id: str, parent: str = "", rows: int = 1) -> None:
    """One request, in which a caller's trace may go on."""
    headers = {"traceparent": parent} if parent else {}
    if frontend.kind == REST:
        x = rest.x(*range(rows * 4), shape=[rows, 4])
        rest.call(frontend.address, "POST", rest.INFER, {"id": request_id, "inputs": [x]}, headers)
        return
    request = message("inference.ModelInferRequest")(model_name="echo", id=request_id)
    request.inputs.add(name="x", datatype="FP32", shape=[rows, 4])
    request.raw_input_contents.append(bytes(16 * rows))
    with grpc.insecure_channel(frontend.address) as channel:
        call = channel.unary_unary(INFER)
        metadata = tuple(headers.items())
        try:
            call(request.SerializeToString(), timeout=WAIT_S, metadata=metadata)
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT  # noqa: PT017


def request_id_of(span: Any) -> str:
    return str(values(span.attributes).get("gslice.request_id", ""))


def of(collector: Collector, request_id: str) -> Any:
    """The span of a request, once it is here with those of its stages."""

    def found(spans: list[Any]) -> list[Any]:
        return [each for each in spans if request_id_of(each) == request_id]

    (span,) = found(collector.wait(lambda spans: bool(found(spans))))
    return span


def test_a_request_continues_its_callers_trace(traced, echo, collector: Collector) -> None:
    infer(traced, "kept", f"00-{TRACE}-{PARENT}-01", rows=3)
    span = of(collector, "kept")
    assert (span.name, span.kind) == ("infer echo", span.SPAN_KIND_SERVER)
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    told = values(span.attributes)
    assert (told["gslice.function"], told["gslice.rows"], told["gslice.code"]) == ("echo", 3, 0)
    below = collector.stages(span)
    assert list(below) == STAGES
    assert {each.trace_id.hex() for each in below.values()} == {TRACE}
    edges = [span.start_time_unix_nano, *(s.end_time_unix_nano for s in below.values())]
    assert [each.start_time_unix_nano for each in below.values()] == edges[:-1]
    assert edges == sorted(edges)
    assert span.end_time_unix_nano == edges[-1]
    assert collector.resources[-1]["service.name"] == "gslice"


def test_callers_that_do_not_want_it_are_not_traced(traced, echo, collector: Collector) -> None:
    infer(traced, "not sampled", f"00-{TRACE}-{PARENT}-00")
    infer(traced, "no parent")  # and the front-end's own part is 0
    infer(traced, "no traceparent", "00-nonsense")
    infer(traced, "last", f"00-{TRACE}-{PARENT}-01")
    of(collector, "last")
    ids = {request_id_of(each) for each in collector.spans}
    assert ids.isdisjoint({"not sampled", "no parent", "no traceparent"})


def test_a_failure_is_traced_and_logged(traced, echo, collector: Collector) -> None:
    infer(traced, "too many", f"00-{TRACE}-{PARENT}-01", rows=100)
    span = of(collector, "too many")
    assert span.status.code == span.status.STATUS_CODE_ERROR
    assert "100" in span.status.message
    assert list(collector.stages(span)) == ["receive"]
    lines = [json.loads(line) for line in traced.log.read_text().splitlines()]
    (line,) = (each for each in lines if each.get("request_id") == "too many")
    assert (line["level"], line["process"], line["function"]) == ("debug", "front-end", "echo")
    assert (line["trace_id"], line["code"]) == (TRACE, 3)
    assert line["pid"] == traced.pid


def test_requests_of_a_stream_are_spans_of_its_trace(
    traced, echo, collector: Collector, kind: str
) -> None:
    if kind == REST:
        pytest.skip("HTTP has no streams")
    x = triton.InferInput("x", [1, 4], "FP32")
    x.set_data_from_numpy(np.zeros((1, 4), np.float32))
    with triton.InferenceServerClient(traced.address) as client:
        parent = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
        client.start_stream(lambda result, error: None, headers=parent)
        for request_id in ("first", "second"):
            client.async_stream_infer("echo", [x], request_id=request_id)
        client.stop_stream()
    for request_id in ("first", "second"):
        span = of(collector, request_id)
        assert span.parent_span_id.hex() == PARENT
        assert list(collector.stages(span)) == STAGES


def test_a_part_of_the_others_is_traced(tmp_path: Path, kind: str, collector: Collector) -> None:
    front = FrontendProcess(tmp_path, kind, "--otlp", collector.url, "--trace-sample", "1")
    front.serve()
    function = LocalFunction(front, FunctionSpec("echo", engine="identity"), signature())
    infer(front, f"own {kind}")
    infer(front, f"not wanted {kind}", f"00-{TRACE}-{PARENT}-00")
    function.close()
    front.close()  # what was not sent yet is sent then
    span = of(collector, f"own {kind}")
    assert span.parent_span_id == b""
    assert span.trace_id.hex() not in (TRACE, "0" * 32)
    ids = {request_id_of(each) for each in collector.spans}
    assert f"not wanted {kind}" not in ids


def test_a_collector_that_is_away_stops_nothing(tmp_path: Path, kind: str) -> None:
    front = FrontendProcess(tmp_path, kind, "--otlp", "http://127.0.0.1:1", "--trace-sample", "1")
    front.serve()
    function = LocalFunction(front, FunctionSpec("echo", engine="identity"), signature())
    infer(front, "served")
    function.close()
    front.close()
