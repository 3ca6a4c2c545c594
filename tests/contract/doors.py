"""The same calls at every kind of front-end, with a key or without: over gRPC, and over HTTP."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
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
    "SystemSharedMemoryStatus": ("GET", "/v2/systemsharedmemory/status"),
    "SystemSharedMemoryRegister": ("POST", "/v2/systemsharedmemory/region/{name}/register"),
    "SystemSharedMemoryUnregister": ("POST", "/v2/systemsharedmemory/unregister"),
}


class Told(NamedTuple):
    """What came back: the code of the status, its text, and when to come again, if that is said."""

    code: int
    text: str = ""
    retry: str = ""
    answer: Any = None


class Door(Protocol):
    """A front-end's port."""

    def ask(self, method: str, key: str = "", /, **fields: Any) -> Told:
        """A unary call of the service, by gRPC's name for it."""

    def infer(self, name: str, key: str = "") -> Told:
        """A request of four numbers."""


class GrpcDoor:
    """Either kind that speaks gRPC."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(address)

    def ask(self, method: str, key: str = "", /, **fields: Any) -> Told:
        headers = (("authorization", f"Bearer {key}"),) if key else ()
        stub = Stub(self.channel, "inference.GRPCInferenceService", headers)
        try:
            asked = message(f"inference.{method}Request")(**fields)
            answer = getattr(stub, method)(asked, timeout=WAIT_S)
        except grpc.RpcError as error:
            trailing = dict(error.trailing_metadata() or ())
            retry = str(trailing.get("grpc-retry-pushback-ms", ""))
            return Told(error.code().value[0], error.details(), retry)
        return Told(OK, answer=answer)

    def infer(self, name: str, key: str = "") -> Told:
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4]}
        fields = {"model_name": name, "raw_input_contents": [bytes(16)]}
        return self.ask("ModelInfer", key, inputs=[tensor], **fields)

    def close(self) -> None:
        self.channel.close()


class RestDoor:
    """HTTP."""

    def __init__(self, address: str) -> None:
        self._address = address

    def knows(self, method: str) -> bool:
        return method in _PATHS

    def ask(self, method: str, key: str = "", /, **fields: Any) -> Told:
        verb, path = _PATHS[method]
        body = {"key": fields["key"]} if "key" in fields else None
        return self._call(verb, path.format(**fields), body, key)

    def infer(self, name: str, key: str = "") -> Told:
        asked = {"inputs": [rest.x(1, 2, 3, 4)]}
        return self._call("POST", f"/v2/models/{name}/infer", asked, key)

    def close(self) -> None:
        pass

    def _call(self, verb: str, path: str, body: Any, key: str) -> Told:
        headers = {"X-Api-Key": key} if key else {}
        reply = rest.call(self._address, verb, path, body, headers)
        if reply.status == 401:
            assert reply.headers["WWW-Authenticate"] == "Bearer"
        if reply.status != 200:
            retry = reply.headers.get("Retry-After", "")
            return Told(_CODES[reply.status], reply.json.get("error", ""), retry)
        return Told(OK, answer=reply.json)


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
