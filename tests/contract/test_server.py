"""Everything but inference: state, metadata, configuration, statistics, repository, health."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

import gslice
from gslice.core.types import FunctionSpec, Signature, TensorSpec
from gslice.frontend.answers import EXTENSIONS
from gslice.ipc import messages
from gslice.protos import message, pool
from gslice.protos.rpc import Stub
from tests.contract.direct import WAIT_S, signature


def fails(status, words=""):
    return pytest.raises(InferenceServerException, match=rf"(?s)StatusCode\.{status}.*{words}")


def tensor(rows=1):
    made = triton.InferInput("x", [rows, 4], "FP32")
    made.set_data_from_numpy(np.zeros((rows, 4), np.float32))
    return made


# ---- state and metadata ------------------------------------------------------------------------


def test_live_and_ready(serve, client):
    serve("echo")
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("echo")
    assert client.is_model_ready("echo", "1")
    with fails("NOT_FOUND", "nobody"):
        client.is_model_ready("nobody")
    with fails("NOT_FOUND", "version"):
        client.is_model_ready("echo", "2")


def test_server_metadata(client):
    metadata = client.get_server_metadata()
    assert (metadata.name, metadata.version) == ("gslice", gslice.__version__)
    assert tuple(metadata.extensions) == EXTENSIONS
    assert "statistics" in EXTENSIONS
    assert not [name for name in EXTENSIONS if "shared_memory" in name]


def test_model_metadata(serve, client):
    serve("echo")
    serve("pixel", signature("UINT8", (3, -1), rows_max=0))
    metadata = client.get_model_metadata("echo")
    assert (metadata.name, list(metadata.versions)) == ("echo", ["1"])
    assert [(t.name, t.datatype, list(t.shape)) for t in metadata.inputs] == [
        ("x", "FP32", [-1, 4])
    ]
    assert [(t.name, t.datatype, list(t.shape)) for t in metadata.outputs] == [
        ("y", "FP32", [-1, 4])
    ]
    assert list(client.get_model_metadata("pixel").inputs[0].shape) == [3, -1]
    with fails("NOT_FOUND"):
        client.get_model_metadata("nobody")


def test_model_config(serve, client):
    serve("echo", Signature(signature().inputs, signature().outputs, 8, (1, 4, 8)))
    serve("words", signature("BYTES", (2, -1), rows_max=0))
    config = client.get_model_config("echo").config
    assert (config.name, config.backend, config.max_batch_size) == ("echo", "identity", 8)
    (given,) = config.input
    assert (given.name, given.data_type, list(given.dims)) == ("x", 11, [4])
    assert list(config.output[0].dims) == [4]
    assert list(config.dynamic_batching.preferred_batch_size) == [1, 4, 8]
    assert not config.HasField("sequence_batching")
    assert not config.HasField("model_transaction_policy")
    config = client.get_model_config("words").config
    assert (config.max_batch_size, list(config.input[0].dims)) == (0, [2, -1])
    assert config.input[0].data_type == 13
    assert config.WhichOneof("scheduling_choice") is None


def test_config_of_several_tensors(serve, client):
    shape = Signature(
        (TensorSpec("a", "FP64", (-1,)), TensorSpec("b", "BOOL", (-1, 2, 2))),
        (TensorSpec("p", "FP64", (-1,)), TensorSpec("q", "BOOL", (-1, 2, 2))),
        4,
    )
    serve("pair", shape)
    config = client.get_model_config("pair", as_json=True)["config"]
    assert [(t["name"], t["data_type"], t.get("dims", [])) for t in config["input"]] == [
        ("a", "TYPE_FP64", []),
        ("b", "TYPE_BOOL", ["2", "2"]),
    ]


def test_statistics_count_what_happened(serve, client):
    echo = serve("echo")

    def read():
        (stats,) = client.get_inference_statistics("echo").model_stats
        return stats

    before = read()
    assert int(before.version) == 1  # clients read it as a number
    for _ in range(5):
        client.infer("echo", [tensor(2)])
    with fails("INVALID_ARGUMENT"):
        client.infer("echo", [tensor(9)])
    after = read()
    assert (after.inference_count, after.execution_count) == (10, 5)
    assert (after.inference_stats.success.count, after.inference_stats.fail.count) == (5, 1)
    for stage in ("queue", "compute_input", "compute_infer", "compute_output"):
        duration = getattr(after.inference_stats, stage)
        assert duration.count == 5, stage
        assert duration.ns >= 0
    assert after.inference_stats.queue.ns > before.inference_stats.queue.ns
    assert after.inference_stats.success.ns >= after.inference_stats.compute_infer.ns > 0
    assert [(b.batch_size, b.compute_infer.count) for b in after.batch_stats] == [(2, 5)]
    assert after.last_inference > 0
    assert echo.segment.stats()["outcome"]["ok"] == 5
    serve("other")
    assert [s.name for s in client.get_inference_statistics().model_stats] == ["echo", "other"]
    with fails("NOT_FOUND"):
        client.get_inference_statistics("nobody")


# ---- functions that do not serve ---------------------------------------------------------------


@pytest.mark.parametrize("state", ["LOADING", "UNLOADING", "UNAVAILABLE"])
def test_a_function_that_is_not_ready(serve, client, state):
    echo = serve("echo")
    echo.set_state(state, "its worker is being replaced")
    assert not client.is_model_ready("echo")
    with fails("UNAVAILABLE", "its worker is being replaced"):
        client.infer("echo", [tensor()])
    assert client.get_model_metadata("echo").name == "echo"
    echo.set_state("READY")
    assert client.is_model_ready("echo")
    client.infer("echo", [tensor()])


def test_requests_in_flight_outlast_a_bad_time(serve, client):
    """A function that comes back finishes what it had taken before, and takes more."""
    echo = serve("echo")
    echo.hold()
    with ThreadPoolExecutor(2) as pool_:
        before = pool_.submit(client.infer, "echo", [tensor(1)])
        echo.wait_count("queued", 1)
        echo.set_state("UNAVAILABLE", "its worker died")
        echo.set_state("READY")
        after = pool_.submit(client.infer, "echo", [tensor(2)])
        echo.wait_count("queued", 2)
        echo.release()
        assert before.result().as_numpy("y").shape == (1, 4)
        assert after.result().as_numpy("y").shape == (2, 4)


def test_a_function_that_never_loaded(frontend, client):
    spec = FunctionSpec("broken", model="/models/broken.onnx")
    frontend.request(messages.SetFunction("broken", "LOADING", "", spec))
    with fails("UNAVAILABLE", "LOADING"):
        client.infer("broken", [tensor()])
    frontend.request(messages.SetFunction("broken", "UNAVAILABLE", "not an ONNX file", spec))
    for call in (
        lambda: client.infer("broken", [tensor()]),
        lambda: client.get_model_metadata("broken"),
        lambda: client.get_model_config("broken"),
        lambda: client.get_inference_statistics("broken"),
    ):
        with fails("UNAVAILABLE", "not an ONNX file"):
            call()
    assert not client.is_model_ready("broken")
    assert client.is_server_ready()  # the rest serves on
    frontend.request(messages.RemoveFunction("broken"))
    with fails("NOT_FOUND"):
        client.is_model_ready("broken")


def test_index(serve, frontend, client):
    serve("echo")
    spec = FunctionSpec("broken", version="3")
    frontend.request(messages.SetFunction("broken", "UNAVAILABLE", "no such file", spec))
    index = client.get_model_repository_index()
    assert [(m.name, m.version, m.state, m.reason) for m in index.models] == [
        ("broken", "3", "UNAVAILABLE", "no such file"),
        ("echo", "1", "READY", ""),
    ]
    ready = client._client_stub.RepositoryIndex(service_pb2.RepositoryIndexRequest(ready=True))
    assert [m.name for m in ready.models] == ["echo"]
    frontend.request(messages.RemoveFunction("broken"))


# ---- repository calls go to the daemon ---------------------------------------------------------


def test_load_and_unload_are_the_daemons(frontend, client):
    config = json.dumps({"share": "40%"})
    with ThreadPoolExecutor(1) as pool_:
        for call, expected in (
            (lambda: client.load_model("new"), messages.RepositoryCall("load", "new")),
            (
                lambda: client.load_model("new", config=config),
                messages.RepositoryCall("load", "new", config),
            ),
            (lambda: client.unload_model("old"), messages.RepositoryCall("unload", "old")),
        ):
            done = pool_.submit(call)
            asked = frontend.next_call()
            assert asked.message == expected
            assert not done.done()
            frontend.answer(asked, messages.Ok())
            done.result()


def test_the_daemons_refusal_reaches_the_client(frontend, client):
    with ThreadPoolExecutor(1) as pool_:
        done = pool_.submit(client.load_model, "new")
        frontend.answer(frontend.next_call(), messages.Failed(9, "new: not an ONNX file"))
        with fails("FAILED_PRECONDITION", "not an ONNX file"):
            done.result()


def test_load_with_files_is_not_offered(client):
    with fails("UNIMPLEMENTED", "file:1/model.onnx"):
        client.load_model("new", config="{}", files={"file:1/model.onnx": b"abc"})


def test_a_load_needs_a_name(client):
    with fails("INVALID_ARGUMENT"):
        client.load_model("")


# ---- what is not offered -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["system", "cuda"])
def test_shared_memory_of_clients(client, kind):
    status = getattr(client, f"get_{kind}_shared_memory_status")
    unregister = getattr(client, f"unregister_{kind}_shared_memory")
    assert not status().regions
    with fails("NOT_FOUND"):
        status("region")
    with fails("UNIMPLEMENTED", "not offered"):
        if kind == "system":
            client.register_system_shared_memory("region", "/key", 64)
        else:
            client.register_cuda_shared_memory("region", b"aGFuZGxl", 0, 64)
    unregister()
    unregister("region")


def test_trace_and_log_settings(client):
    with fails("UNIMPLEMENTED", "trace"):
        client.get_trace_settings()
    with fails("UNIMPLEMENTED", "trace"):
        client.update_trace_settings(settings={"trace_level": ["TIMESTAMPS"]})
    with fails("UNIMPLEMENTED", "log"):
        client.get_log_settings()


def test_a_call_nobody_knows(channel):
    with pytest.raises(grpc.RpcError) as error:
        channel.unary_unary("/inference.GRPCInferenceService/Guess")(b"")
    assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED


# ---- health and reflection ---------------------------------------------------------------------


def test_health(serve, channel):
    echo = serve("echo")
    stub = Stub(channel, "grpc.health.v1.Health")
    ask = message("grpc.health.v1.HealthCheckRequest")
    for name in ("", "inference.GRPCInferenceService", "echo"):
        assert stub.Check(ask(service=name)).status == 1, name
    echo.set_state("UNAVAILABLE", "gone")
    assert stub.Check(ask(service="echo")).status == 2
    with pytest.raises(grpc.RpcError) as error:
        stub.Check(ask(service="nobody"))
    assert error.value.code() == grpc.StatusCode.NOT_FOUND
    listed = stub.List(message("grpc.health.v1.HealthListRequest")()).statuses
    assert {name: entry.status for name, entry in listed.items()} == {
        "": 1,
        "inference.GRPCInferenceService": 1,
        "echo": 2,
    }


def test_health_watch(serve, channel):
    stub = Stub(channel, "grpc.health.v1.Health")
    watch = stub.Watch(message("grpc.health.v1.HealthCheckRequest")(service="late"))
    assert next(watch).status == 3  # SERVICE_UNKNOWN
    late = serve("late")
    states = [next(watch).status]
    if states == [2]:  # it was seen between AddFunction and READY
        states.append(next(watch).status)
    assert states[-1] == 1
    late.set_state("UNAVAILABLE", "gone")
    assert next(watch).status == 2
    watch.cancel()


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection(channel, version):
    stub = Stub(channel, f"grpc.reflection.{version}.ServerReflection")
    ask = message(f"grpc.reflection.{version}.ServerReflectionRequest")
    questions = [
        ask(list_services=""),
        ask(file_containing_symbol="inference.ModelInferRequest"),
        ask(file_by_filename="health.proto"),
        ask(file_containing_symbol="gslice.v1.Control"),
        ask(all_extension_numbers_of_type="inference.ModelInferRequest"),
    ]
    services, kserve, health, control, extensions = stub.ServerReflectionInfo(iter(questions))
    assert {service.name for service in services.list_services_response.service} == {
        "inference.GRPCInferenceService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    for answer, name in ((kserve, "kserve.proto"), (health, "health.proto")):
        (file,) = answer.file_descriptor_response.file_descriptor_proto
        assert file == pool().FindFileByName(name).serialized_pb
    assert control.error_response.error_code == 5  # the daemon's, not served here
    assert extensions.error_response.error_code == 12
    assert control.original_request == questions[3]


def test_a_burst_is_answered_in_full(frontend):
    """Of some thousand calls that nobody has taken up yet, gRPC's own server would cancel many."""
    options = [("grpc.use_local_subchannel_pool", 1)]  # a connection each
    with contextlib.ExitStack() as stack:
        methods = [
            stack.enter_context(
                grpc.insecure_channel(frontend.address, options=options)
            ).unary_unary("/inference.GRPCInferenceService/ServerLive")
            for _ in range(20)
        ]
        calls = [method.future(b"", timeout=WAIT_S) for _ in range(300) for method in methods]
        codes = Counter(call.code() for call in calls)
    assert codes == {grpc.StatusCode.OK: len(calls)}
