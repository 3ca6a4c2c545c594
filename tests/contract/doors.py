"""The same calls at every kind of front-end, with a key or without: over gRPC, and over HTTP."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import grpc

from gslice.ipc.messages import REST
from gslice.protos import message
from gslice.protos.rpc import Stub
from tests.contract import rest
from tests.contract.direct import WAIT_S, FrontendProcess

OK, NOT_FOUND, DENIED, EXHAUSTED, UNAVAILABLE, UNAUTHENTICATED = 0, 5, 7, 8, 14, 16
_CODES = {200: 0, 400: 3, 401: 16, 403: 7, 404: 5, 429: 8, 501: 12, 503: 14}

_PATHS = {
    "ServerLive": ("GET", "/v2/health/live"),
    "ServerReady": ("GET", "/v2/health/ready"),
    "ServerMetadata": ("GET", "/v2"),
    "ModelReady": ("GET", "/v2/models/{name}/ready"),
    "ModelMetadata": ("GET", "/v2/models/{name}"),
    "ModelConfig": ("GET", "/v2/models/{name}/config"),
    "ModelStatistics": ("GET", "/v2/models/stats"),
    "RepositoryIndex": ("POST", "/v2/repository/index"),
    "RepositoryModelLoad": ("POST", "/v2/repository/models/{model_name}/load"),
    "RepositoryModelUnload": ("POST", "/v2/repository/models/{model_name}/unload"),
    "SystemSharedMemoryStatus": ("GET", "/v2/systemsharedmemory{region}/status"),
    "SystemSharedMemoryRegister": ("POST", "/v2/systemsharedmemory{region}/register"),
    "SystemSharedMemoryUnregister": ("POST", "/v2/systemsharedmemory{region}/unregister"),
}
OUTPUT_AT = 64
_IN = {"shared_memory_byte_size": 16}
_OUT = {**_IN, "shared_memory_offset": OUTPUT_AT}


Shown = str | Mapping[str, str]
"""A key, or the very headers of a call."""


class Told(NamedTuple):
    """What came back: the code of the status, its text, and when to come again, if that is said."""

    code: int
    text: str = ""
    retry: str = ""
    answer: Any = None


class Door(Protocol):
    """A front-end's port."""

    def ask(self, method: str, key: Shown = "", /, **fields: Any) -> Told:
        """A unary call of the service, by gRPC's name for it."""

    def infer(self, name: str, key: Shown = "", region: str = "") -> Told:
        """A request of four numbers; `region`: of clients' memory that it is in and goes to."""


class GrpcDoor:
    """Either kind that speaks gRPC."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(address)

    def ask(self, method: str, key: Shown = "", /, **fields: Any) -> Told:
        headers = _headers(key, "authorization", "Bearer ")
        stub = Stub(self.channel, "inference.GRPCInferenceService", tuple(headers.items()))
        try:
            asked = message(f"inference.{method}Request")(**fields)
            answer = getattr(stub, method)(asked, timeout=WAIT_S)
        except grpc.RpcError as error:
            trailing = dict(error.trailing_metadata() or ())
            retry = str(trailing.get("grpc-retry-pushback-ms", ""))
            return Told(error.code().value[0], error.details(), retry)
        return Told(OK, answer=answer)

    def infer(self, name: str, key: Shown = "", region: str = "") -> Told:
        tensor: dict[str, Any] = {"name": "x", "datatype": "FP32", "shape": [1, 4]}
        fields: dict[str, Any] = {"model_name": name}
        if region:
            tensor["parameters"] = _parameters(region, _IN)
            fields["outputs"] = [{"name": "y", "parameters": _parameters(region, _OUT)}]
        else:
            fields["raw_input_contents"] = [bytes(16)]
        return self.ask("ModelInfer", key, inputs=[tensor], **fields)

    def close(self) -> None:
        self.channel.close()


class RestDoor:
    """HTTP."""

    def __init__(self, address: str) -> None:
        self._address = address

    def knows(self, method: str) -> bool:
        return method in _PATHS

    def ask(self, method: str, key: Shown = "", /, **fields: Any) -> Told:
        verb, path = _PATHS[method]
        region = f"/region/{fields['name']}" if "name" in fields else ""
        body = {name: fields[name] for name in ("key", "byte_size") if name in fields}
        return self._call(verb, path.format(region=region, **fields), body or None, key)

    def infer(self, name: str, key: Shown = "", region: str = "") -> Told:
        asked: dict[str, Any] = {"inputs": [rest.x(1, 2, 3, 4)]}
        if region:
            tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4]}
            tensor["parameters"] = {"shared_memory_region": region, **_IN}
            output = {"name": "y", "parameters": {"shared_memory_region": region, **_OUT}}
            asked = {"inputs": [tensor], "outputs": [output]}
        return self._call("POST", f"/v2/models/{name}/infer", asked, key)

    def close(self) -> None:
        pass

    def _call(self, verb: str, path: str, body: Any, key: Shown) -> Told:
        reply = rest.call(self._address, verb, path, body, _headers(key, "X-Api-Key"))
        if reply.status == 401:
            assert reply.headers["WWW-Authenticate"] == "Bearer"
        if reply.status != 200:
            retry = reply.headers.get("Retry-After", "")
            return Told(_CODES[reply.status], reply.json.get("error", ""), retry)
        return Told(OK, answer=reply.json)


def _headers(key: Shown, name: str, before: str = "") -> Mapping[str, str]:
    if isinstance(key, str):
        return {name: before + key} if key else {}
    return key


def _parameters(region: str, place: Mapping[str, int]) -> dict[str, Any]:
    parameter = message("inference.InferParameter")
    numbers = {name: parameter(int64_param=value) for name, value in place.items()}
    return {"shared_memory_region": parameter(string_param=region), **numbers}


@contextmanager
def door_of(frontend: FrontendProcess) -> Iterator[GrpcDoor | RestDoor]:
    """The port of a front-end that serves."""
    door = (RestDoor if frontend.kind == REST else GrpcDoor)(frontend.address)
    try:
        yield door
    finally:
        door.close()


@contextmanager
def begun(call: Callable[[], Told]) -> Iterator[list[Told]]:
    """A call in a thread of its own; the list has what it told, after the block."""
    told: list[Told] = []
    thread = threading.Thread(target=lambda: told.append(call()))
    thread.start()
    try:
        yield told
    finally:
        thread.join()
