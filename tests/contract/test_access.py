"""API keys, roles and tenants at every kind of front-end."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from functools import partial

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton

import gslice
import gslice.aio
from gslice import _native, errors
from gslice.core.access import Access, Key, Role, Tenant, digest_of
from gslice.core.types import FunctionSpec
from gslice.frontend.gate import ROLES
from gslice.frontend.settings import KINDS
from gslice.ipc.messages import (
    REST,
    AddRegion,
    ClientRegion,
    Ok,
    RegisterMemory,
    RemoveRegion,
    RepositoryCall,
    SetAccess,
    SetFunction,
    UnregisterMemory,
    Wake,
)
from gslice.protos import message, service
from gslice.protos.rpc import Stub
from tests.contract.direct import FrontendProcess, LocalFunction, signature
from tests.contract.doors import (
    DENIED,
    EXHAUSTED,
    NOT_FOUND,
    OK,
    OUTPUT_AT,
    UNAUTHENTICATED,
    GrpcDoor,
    RestDoor,
    begun,
    door_of,
)

X = {"x": np.ones((1, 4), np.float32)}
HOURLY = 1 / 3600
TENANTS = (
    Tenant("shop", ("echo", "shop-*")),
    Tenant("slow", rate_per_s=HOURLY, burst=2),
    Tenant("narrow", requests_max=2),
)
SetKeys = Callable[..., None]


def access(**changed: str) -> Access:
    """Keys by name, each called like its secret; `changed`: other secrets of some."""
    keys = {
        "inferrer": ("infer", ""),
        "viewer": ("view", ""),
        "admin": ("admin", ""),
        "shop": ("infer view", "shop"),
        "shop-admin": ("admin", "shop"),
        "slow": ("infer", "slow"),
        "narrow": ("infer", "narrow"),
        "narrow-viewer": ("view", "narrow"),
    }
    return Access(
        tuple(
            Key(name, digest_of(changed.get(name, name)), tuple(roles.split()), tenant)
            for name, (roles, tenant) in keys.items()
        ),
        TENANTS,
        anonymous=(),
    )


@pytest.fixture(scope="module", params=(*KINDS, REST))
def frontend(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[FrontendProcess]:
    """A front-end of each kind."""
    if request.param == "native" and not _native.GRPC_SERVER_TLS:
        pytest.skip("this build has no native front-end that knows keys")
    folder = tmp_path_factory.mktemp("frontend")
    process = FrontendProcess(folder, request.param, "--client-memory", "/gslice-test-")
    process.serve()
    yield process
    process.close()


@pytest.fixture
def board() -> _native.QuotaBoard:
    return _native.QuotaBoard.create()


@pytest.fixture
def set_keys(frontend: FrontendProcess, board: _native.QuotaBoard) -> Iterator[SetKeys]:
    """Callers are asked from now on; afterwards everything is open again."""

    def tell(**changed: str) -> None:
        assert frontend.request(SetAccess(access(**changed)), [board.fd]) == Ok()

    tell()
    yield tell
    frontend.request(SetAccess(Access()), [board.fd])


@pytest.fixture
def door(frontend: FrontendProcess) -> Iterator[GrpcDoor | RestDoor]:
    with door_of(frontend) as port:
        yield port


@pytest.fixture
def echo(serve) -> LocalFunction:
    return serve("echo")


# ---- roles -------------------------------------------------------------------------------------


def test_until_the_daemon_says_otherwise_nobody_is_asked(frontend, door, echo):
    assert door.infer("echo").code == OK
    assert door.infer("echo", "of another node").code == OK
    assert frontend.connect().asks is False


def test_every_method_says_who_may_call_it():
    known = {method.name for method in service("inference.GRPCInferenceService").methods}
    known |= {method.name for method in service("grpc.health.v1.Health").methods}
    assert ROLES.keys() <= known
    assert known - ROLES.keys() == {  # an admin's, as is what will be added
        "RepositoryModelLoad",
        "RepositoryModelUnload",
        "SystemSharedMemoryRegister",
        "SystemSharedMemoryUnregister",
        "CudaSharedMemoryRegister",
        "CudaSharedMemoryUnregister",
        "TraceSetting",
        "LogSettings",
    }


FIELDS = {
    "ModelReady": {"name": "echo"},
    "ModelMetadata": {"name": "echo"},
    "ModelConfig": {"name": "echo"},
    "RepositoryModelLoad": {"model_name": "echo"},
    "RepositoryModelUnload": {"model_name": "echo"},
    "SystemSharedMemoryRegister": {"name": "region", "key": "/dev/shm/x"},
}


def test_a_method_is_for_its_roles(frontend, door, echo, set_keys):
    assert frontend.connect().asks is True
    for method in service("inference.GRPCInferenceService").methods:
        if method.client_streaming or method.name == "ModelInfer":
            continue
        if isinstance(door, RestDoor) and not door.knows(method.name):
            continue
        fields = FIELDS.get(method.name, {})
        needed = ROLES.get(method.name, (Role.ADMIN,))
        for key, roles in (("inferrer", {Role.INFER}), ("viewer", {Role.VIEW}), ("", set())):
            told = door.ask(method.name, key, **fields)
            if not needed or roles & set(needed):
                assert told.code not in (DENIED, UNAUTHENTICATED), (method.name, key, told)
            else:
                assert told.code == (DENIED if key else UNAUTHENTICATED), (method.name, key, told)
        unknown = door.ask(method.name, "nobody's", **fields)
        assert (unknown.code == UNAUTHENTICATED) == bool(needed), (method.name, unknown)
    assert frontend.calls == []  # the daemon heard of nothing


def test_requests_need_the_role_infer(door, echo, set_keys):
    assert door.infer("echo", "inferrer").code == OK
    assert door.infer("echo", "admin").code == OK
    denied = door.infer("echo", "viewer")
    assert (denied.code, denied.text) == (DENIED, "key 'viewer' has not the role infer")
    assert (
        "role infer is needed (send it as `authorization: Bearer KEY`)" in door.infer("echo").text
    )
    for key in ("", "nobody's"):
        assert door.infer("echo", key).code == UNAUTHENTICATED
        assert door.infer("unknown", key).code == UNAUTHENTICATED
    assert door.infer("unknown", "inferrer").code == NOT_FOUND


def test_the_daemon_hears_whose_order_it_is(frontend, door, set_keys):
    with begun(lambda: door.ask("RepositoryModelLoad", "admin", model_name="new")) as told:
        call = frontend.next_call()
        assert call.message == RepositoryCall("load", "new", "", "admin")
        frontend.answer(call, Ok())
    assert told[0].code == OK
    denied = door.ask("RepositoryModelUnload", "shop-admin", model_name="other")
    assert denied.code == DENIED
    assert "function 'other' is not one of tenant 'shop'" in denied.text


def test_a_key_that_is_taken_back_opens_nothing_more(frontend, door, echo, set_keys):
    assert door.infer("echo", "inferrer").code == OK
    set_keys(inferrer="another")
    assert door.infer("echo", "inferrer").code == UNAUTHENTICATED
    assert door.infer("echo", "another").code == OK


def test_a_large_request_is_refused_like_a_small_one(frontend, serve, door, set_keys):
    serve("wide", signature(dims=(-1, 65536)), slots=((1 << 20, 4),))
    if isinstance(door, GrpcDoor):
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 65536]}
        fields = {"model_name": "wide", "raw_input_contents": [bytes(4 * 65536)]}
        for key, code in (("", UNAUTHENTICATED), ("viewer", DENIED), ("shop", DENIED)):
            assert door.ask("ModelInfer", key, inputs=[tensor], **fields).code == code
        assert door.ask("ModelInfer", "inferrer", inputs=[tensor], **fields).code == OK
    else:
        assert door.infer("wide").code == UNAUTHENTICATED  # before its body is looked at


# ---- tenants -----------------------------------------------------------------------------------


def test_a_tenant_sees_and_uses_its_own_functions(serve, door, echo, set_keys):
    serve("shop-ocr")
    serve("bank")
    assert door.infer("shop-ocr", "shop").code == OK
    for name in ("bank", "unknown"):  # whether it is there is not told
        assert door.infer(name, "shop").code == DENIED
        assert door.ask("ModelMetadata", "shop", name=name).code == DENIED
    assert door.infer("shop-new", "shop").code == NOT_FOUND
    index = door.ask("RepositoryIndex", "shop").answer
    models = index if isinstance(index, list) else [{"name": each.name} for each in index.models]
    assert [each["name"] for each in models] == ["echo", "shop-ocr"]
    everything = door.ask("RepositoryIndex", "viewer").answer
    assert len(everything if isinstance(everything, list) else everything.models) == 3
    statistics = door.ask("ModelStatistics", "shop").answer
    shown = statistics["model_stats"] if isinstance(statistics, dict) else statistics.model_stats
    assert len(shown) == 2


def test_a_tenant_that_is_over_its_rate_hears_when_to_come_again(door, echo, set_keys):
    assert [door.infer("echo", "slow").code for _ in range(2)] == [OK, OK]
    refused = door.infer("echo", "slow")
    assert refused.code == EXHAUSTED
    assert 'tenant "slow" has used up its rate; try again in' in refused.text
    unit = 1 if isinstance(door, RestDoor) else 1000
    assert 3_000 * unit < int(refused.retry) <= 3_600 * unit
    assert door.infer("echo", "inferrer").code == OK  # others are not held up


def test_a_tenant_has_only_so_many_requests_under_way(door, board, echo, set_keys):
    echo.hold()
    place = [tenant.name for tenant in TENANTS].index("narrow")
    with (
        begun(lambda: door.infer("echo", "narrow")) as first,
        begun(lambda: door.infer("echo", "narrow")) as second,
    ):
        try:
            echo.wait_count("queued", 2)
            assert board.under_way(place) == 2
            refused = door.infer("echo", "narrow")
            assert refused.code == EXHAUSTED
            assert 'tenant "narrow" has 2 requests under way, as many as it may' in refused.text
        finally:
            echo.release()
    assert (first[0].code, second[0].code) == (OK, OK)
    assert door.infer("echo", "narrow").code == OK
    assert board.under_way(place) == 0


def test_a_function_that_rests_is_woken_by_its_tenants_only(frontend, serve, door, set_keys):
    function = serve("bank")
    frontend.request(SetFunction("bank", "COLD", "it rests", function.spec, 1000))
    function.hold()
    for key, code in (("", UNAUTHENTICATED), ("viewer", DENIED), ("shop", DENIED)):
        assert door.infer("bank", key).code == code
    assert frontend.calls == []
    with begun(lambda: door.infer("bank", "narrow")) as told:
        assert frontend.next_call().message == Wake("bank")
        function.release()
        function.set_state("READY")
    assert told[0].code == OK


# ---- clients' memory ---------------------------------------------------------------------------


@pytest.fixture
def regions(frontend: FrontendProcess) -> Iterator[dict[str, int]]:
    """Regions called `mine`, one of tenant `shop` and one of no tenant: their files, by tenant."""
    files = {}
    for tenant in ("shop", ""):
        fd = os.memfd_create("region")
        os.ftruncate(fd, 4096)
        files[tenant] = fd
        region = ClientRegion("mine", f"/gslice-test-{tenant}", 0, 4096, tenant=tenant)
        frontend.request(AddRegion(region), [fd])
    yield files
    for tenant, fd in files.items():
        frontend.request(RemoveRegion("mine", tenant))
        os.close(fd)


def test_requests_name_regions_of_their_own_tenant(frontend, door, echo, regions, set_keys):
    for key, tenant in (("shop", "shop"), ("shop-admin", "shop"), ("inferrer", "")):
        numbers = {each: os.urandom(16) for each in regions}
        for each, fd in regions.items():
            os.pwrite(fd, numbers[each], 0)
            os.pwrite(fd, bytes(16), OUTPUT_AT)
        assert door.infer("echo", key, "mine").code == OK
        for each, fd in regions.items():
            assert os.pread(fd, 16, OUTPUT_AT) == (numbers[each] if each == tenant else bytes(16))
    missing = door.infer("echo", "shop", "none")
    assert (missing.code, '"none"' in missing.text) == (NOT_FOUND, True)
    others = door.infer("echo", "narrow", "mine")
    assert (others.code, others.text) == (NOT_FOUND, missing.text.replace("none", "mine"))
    frontend.request(RemoveRegion("mine", ""))
    assert door.infer("echo", "inferrer", "mine").code == NOT_FOUND
    assert door.infer("echo", "shop", "mine").code == OK


def test_regions_are_listed_to_their_own_tenant(door, regions, set_keys):
    def listed(key: str, **asked: str) -> list[str]:
        told = door.ask("SystemSharedMemoryStatus", key, **asked)
        assert told.code == OK, told
        if isinstance(told.answer, list):
            return [each["key"] for each in told.answer]
        return [each.key for each in told.answer.regions.values()]

    for asked in ({}, {"name": "mine"}):
        assert listed("shop", **asked) == ["/gslice-test-shop"]
        assert listed("viewer", **asked) == listed("admin", **asked) == ["/gslice-test-"]
    assert listed("narrow-viewer") == []
    missing = door.ask("SystemSharedMemoryStatus", "narrow-viewer", name="none")
    others = door.ask("SystemSharedMemoryStatus", "narrow-viewer", name="mine")
    assert (others.code, others.text) == (NOT_FOUND, missing.text.replace("none", "mine"))


def test_the_daemon_hears_whose_region_it_is(frontend, door, set_keys):
    for key, tenant in (("admin", ""), ("shop-admin", "shop")):
        region = ClientRegion("new", "/gslice-test-new", 0, 64, tenant=tenant)
        fields = {"name": "new", "key": region.key, "byte_size": 64}
        with begun(partial(door.ask, "SystemSharedMemoryRegister", key, **fields)) as told:
            call = frontend.next_call()
            assert call.message == RegisterMemory(region)
            frontend.answer(call, Ok())
        assert told[0].code == OK
        for asked in ({}, {"name": "new"}):
            with begun(partial(door.ask, "SystemSharedMemoryUnregister", key, **asked)) as told:
                call = frontend.next_call()
                assert call.message == UnregisterMemory(asked.get("name", ""), tenant)
                frontend.answer(call, Ok())
            assert told[0].code == OK


def test_the_next_daemon_hears_whose_region_it_is(frontend, regions):
    frontend.connect()
    known = [frontend.next_call() for _ in regions]
    assert {each.message.region.id for each in known} == {("shop", "mine"), ("", "mine")}
    for each in known:
        each.close()


# ---- empty headers -----------------------------------------------------------------------------


def test_a_header_without_a_value_shows_no_key(door, echo, set_keys):
    nobody = door.infer("echo")
    for headers in ({"authorization": ""}, {"x-api-key": ""}):
        told = door.infer("echo", headers)
        assert (told.code, told.text) == (UNAUTHENTICATED, nobody.text)
        assert door.ask("ServerMetadata", headers).text == door.ask("ServerMetadata").text
    assert door.infer("echo", {"authorization": "", "x-api-key": "inferrer"}).code == OK
    assert door.infer("echo", {"authorization": "Bearer inferrer", "x-api-key": ""}).code == OK


# ---- gRPC alone --------------------------------------------------------------------------------


@pytest.fixture
def grpc_door(door: GrpcDoor | RestDoor) -> GrpcDoor:
    if isinstance(door, RestDoor):
        pytest.skip("HTTP has no streams")
    return door


def test_each_request_of_a_stream_needs_a_key_that_is_known(frontend, grpc_door, echo, set_keys):
    with gslice.Client(frontend.address, api_key="inferrer") as client:
        assert len(list(client.infer_stream("echo", [X, X]))) == 2

        def requests() -> Iterator[dict[str, np.ndarray]]:
            yield X
            set_keys(inferrer="another")
            yield X

        answers = client.infer_stream("echo", requests())
        with pytest.raises(errors.Unauthenticated, match="not known"):
            for _ in answers:
                pass
    for key, error in (("viewer", errors.PermissionDenied), ("none", errors.Unauthenticated)):
        with gslice.Client(frontend.address, api_key=key) as client, pytest.raises(error):
            list(client.infer_stream("echo", [X]))


def test_a_stream_that_was_open_before_keys_were_asked_for(frontend, grpc_door, board, echo):
    def answers(key: str) -> list[object]:
        begun = threading.Event()

        def requests() -> Iterator[dict[str, np.ndarray]]:
            yield X
            begun.wait()
            frontend.request(SetAccess(access()), [board.fd])
            yield X

        try:
            with gslice.Client(frontend.address, api_key=key) as client:
                stream = client.infer_stream("echo", requests())
                first = next(stream)
                begun.set()
                return [first, *stream]
        finally:
            begun.set()
            frontend.request(SetAccess(Access()), [board.fd])

    assert len(answers("inferrer")) == 2
    with pytest.raises(errors.PermissionDenied, match="key 'viewer' has not the role infer"):
        answers("viewer")
    with pytest.raises(errors.Unauthenticated, match="an API key with the role infer is needed"):
        answers("")


def test_a_compressed_request_needs_a_key_like_any_other(frontend, grpc_door, echo, set_keys):
    tensor = triton.InferInput("x", [1, 4], "FP32")
    tensor.set_data_from_numpy(X["x"])
    with triton.InferenceServerClient(frontend.address) as client:
        client.infer(
            "echo",
            [tensor],
            headers={"authorization": "Bearer inferrer"},
            compression_algorithm="gzip",
        )
        with pytest.raises(triton.InferenceServerException, match="UNAUTHENTICATED"):
            client.infer("echo", [tensor], compression_algorithm="gzip")


def test_health_is_open_and_the_list_of_functions_is_not(frontend, serve, grpc_door, set_keys):
    serve("echo"), serve("bank")
    asked = message("grpc.health.v1.HealthListRequest")()
    check = message("grpc.health.v1.HealthCheckRequest")(service="echo")
    with grpc.insecure_channel(frontend.address) as channel:
        health = Stub(channel, "grpc.health.v1.Health")
        assert health.Check(check).status == 1
        with pytest.raises(grpc.RpcError) as refused:
            health.List(asked)
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
        headers = (("x-api-key", "shop"),)
        shown = Stub(channel, "grpc.health.v1.Health", headers).List(asked).statuses
    assert sorted(name for name in shown if name and "inference" not in name) == ["echo"]


def test_the_clients_show_their_key(frontend, grpc_door, echo, set_keys, monkeypatch):
    with gslice.Client(frontend.address, api_key="inferrer") as client:
        assert client.infer("echo", X)["y"].sum() == 4
        with pytest.raises(errors.PermissionDenied, match="key 'inferrer' has not the role view"):
            client.index()
    monkeypatch.setenv("GSLICE_API_KEY", "viewer")
    with gslice.Client(frontend.address) as client:
        assert [state.name for state in client.index()] == ["echo"]
    with pytest.raises(errors.InvalidArgument) as told:
        gslice.Client(frontend.address, api_key="two words")
    assert "two words" not in str(told.value)


def test_the_asyncio_client_shows_its_key(frontend, grpc_door, echo, set_keys):
    async def main() -> None:
        async with gslice.aio.Client(frontend.address, api_key="inferrer") as client:
            assert (await client.infer("echo", X))["y"].sum() == 4
        async with gslice.aio.Client(frontend.address) as client:
            with pytest.raises(errors.Unauthenticated):
                await client.infer("echo", X)

    asyncio.run(main())


def test_functions_that_come_later_are_asked_for_too(frontend, door, set_keys):
    function = LocalFunction(frontend, FunctionSpec("late", engine="identity"), signature())
    try:
        assert door.infer("late").code == UNAUTHENTICATED
        assert door.infer("late", "inferrer").code == OK
    finally:
        function.close()
