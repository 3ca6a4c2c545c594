"""The endpoints. What gRPC has too is answered by the same servicer."""

from __future__ import annotations

import json
from functools import cached_property
from typing import TYPE_CHECKING, Any

from gslice.core.errors import Unimplemented
from gslice.frontend.rest import codec, fields, openapi, schemas
from gslice.frontend.rest.bodies import read_body, send
from gslice.frontend.rest.endpoint import descriptor, endpoint, endpoints_of
from gslice.frontend.rest.failures import Call
from gslice.frontend.rest.memory import parsed_bytes
from gslice.frontend.rest.plain import schema_of, to_json
from gslice.protos import message

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

    from gslice.frontend.inference import InferenceServicer
    from gslice.frontend.rest.memory import Account, Memory

_MODEL = "/v2/models/{model}"
_VERSION = _MODEL + "/versions/{version}"
_REGION = "/v2/systemsharedmemory/region/{region}"


class Endpoints:
    """All of them, each under the name that the API's description has.

    Args:
        service: Answers what gRPC has, too.
        memory: Bodies take it.
        request_max_bytes: Most of one body.
        closes: Whether connections are to end with their next answer.
    """

    def __init__(
        self,
        service: InferenceServicer,
        memory: Memory,
        request_max_bytes: int,
        closes: Callable[[], bool],
    ) -> None:
        self._service = service
        self._memory = memory
        self._request_max_bytes = request_max_bytes
        self._closes = closes

    # ---- the server ----

    @endpoint("GET", "/v2/health/live", "/healthz", tells=schemas.HEALTHY)
    async def server_live(self, request: web.Request) -> web.StreamResponse:
        """This process answers."""
        return await self._tell(request, await self._ask(request, "ServerLive"))

    @endpoint(
        "GET",
        "/v2/health/ready",
        tells=schema_of(descriptor("ServerReadyResponse")),
        fails=(503,),
    )
    async def server_ready(self, request: web.Request) -> web.StreamResponse:
        """Requests are welcome: functions have been loaded, and the server does not drain."""
        told = await self._ask(request, "ServerReady")
        return await self._tell(request, told, status=200 if told["ready"] else 503)

    @endpoint(
        "GET",
        "/v2",
        tells=schema_of(descriptor("ServerMetadataResponse")),
        rpc="ServerMetadata",
    )
    async def server_metadata(self, request: web.Request) -> web.StreamResponse:
        """Name, version, and the extensions that are offered."""
        return await self._tell(request, await self._ask(request, "ServerMetadata"))

    @endpoint("GET", "/v2/openapi.json", tells=schemas.DOCUMENT)
    async def api_description(self, request: web.Request) -> web.StreamResponse:
        """This API, as an OpenAPI 3.1 document."""
        return await self._tell(request, self._description)

    @endpoint("GET", "/v2/docs", tells=schemas.PAGE, kind="text/html")
    async def api_page(self, request: web.Request) -> web.StreamResponse:
        """This API, as a page to read."""
        return await send(
            request,
            [openapi.page(self._description).encode()],
            kind="text/html",
            headers={"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"},
            closes=self._closes(),
        )

    # ---- functions ----

    @endpoint("GET", f"{_MODEL}/ready", f"{_VERSION}/ready", tells=schemas.READY, fails=(404, 503))
    async def model_ready(self, request: web.Request) -> web.StreamResponse:
        """One function takes requests."""
        told = await self._ask(request, "ModelReady", **_model(request))
        body = {"name": request.match_info["model"], **told}
        return await self._tell(request, body, status=200 if told["ready"] else 503)

    @endpoint(
        "GET",
        _MODEL,
        _VERSION,
        tells=schema_of(descriptor("ModelMetadataResponse")),
        fails=(404, 501, 503),
        rpc="ModelMetadata",
    )
    async def model_metadata(self, request: web.Request) -> web.StreamResponse:
        """A function's inputs and outputs. A leading -1 of a shape is the batch."""
        return await self._tell(
            request, await self._ask(request, "ModelMetadata", **_model(request))
        )

    @endpoint(
        "GET",
        f"{_MODEL}/config",
        f"{_VERSION}/config",
        tells=schema_of(descriptor("ModelConfig")),
        fails=(404, 501, 503),
        rpc="ModelConfig",
    )
    async def model_config(self, request: web.Request) -> web.StreamResponse:
        """A function's configuration, as far as it is true."""
        told = await self._ask(request, "ModelConfig", **_model(request))
        return await self._tell(request, told["config"])

    @endpoint(
        "GET",
        "/v2/models/stats",
        f"{_MODEL}/stats",
        f"{_VERSION}/stats",
        tells=schema_of(descriptor("ModelStatisticsResponse")),
        fails=(404, 501, 503),
        rpc="ModelStatistics",
    )
    async def model_statistics(self, request: web.Request) -> web.StreamResponse:
        """Counters of one function, or of all."""
        asked = _model(request) if "model" in request.match_info else {}
        return await self._tell(request, await self._ask(request, "ModelStatistics", **asked))

    @endpoint(
        "POST",
        f"{_MODEL}/infer",
        f"{_VERSION}/infer",
        asks=schemas.INFER_REQUEST,
        tells=schemas.INFER_ANSWER,
        binary=True,
        fails=(404, 408, 429, 500, 501, 503, 504),
        rpc="ModelInfer",
    )
    async def model_infer(self, request: web.Request) -> web.StreamResponse:
        """Runs a function.

        Tensors are JSON, or bytes behind it (KServe's binary tensor extension): then the header
        Inference-Header-Content-Length says how many bytes of the body are JSON, and
        binary_data_size of each such tensor how many are its own, in the order of the tensors.
        The parameter timeout ends the wait. A client that leaves gives its request up.
        """
        call = Call(request.headers)
        with self._memory.account() as account:
            asked, wish = await self._read_request(request, account)
            answer = await self._service.ModelInfer(asked, call)
            account.take(2 * len(answer))
            body = codec.write_answer(answer, wish, account.take)
            headers, kind = {}, "application/json"
            if body.tensors:
                headers[codec.JSON_LENGTH] = str(len(body.json))
                kind = "application/octet-stream"
            return await send(
                request,
                [body.json, *body.tensors],
                kind=kind,
                headers=headers,
                account=account,
                closes=self._closes(),
            )

    # ---- the repository ----

    @endpoint(
        "POST",
        "/v2/repository/index",
        asks=schemas.INDEX_REQUEST,
        tells={
            "type": "array",
            "items": schema_of(descriptor("RepositoryIndexResponse.ModelIndex")),
        },
        rpc="RepositoryIndex",
    )
    async def repository_index(self, request: web.Request) -> web.StreamResponse:
        """All functions, their states, and why one is not READY."""
        asked = await self._read_object(request)
        told = await self._ask(
            request, "RepositoryIndex", ready=fields.flag_field(asked, "ready") or False
        )
        return await self._tell(request, told["models"])

    @endpoint(
        "POST",
        "/v2/repository/models/{model}/load",
        asks=schemas.LOAD_REQUEST,
        tells=schemas.NOTHING,
        changes=True,
        fails=(404, 409, 429, 501, 503),
        rpc="RepositoryModelLoad",
    )
    async def repository_load(self, request: web.Request) -> web.StreamResponse:
        """Adds or reloads a function; answers when it serves."""
        parameters = fields.object_field(await self._read_object(request), "parameters")
        unknown = [key for key in parameters if key != "config"]
        if unknown:
            raise Unimplemented(f"load parameter {unknown[0]!r} is not offered, only 'config'")
        asked = message("inference.RepositoryModelLoadRequest")(
            model_name=request.match_info["model"]
        )
        if "config" in parameters:
            config = fields.text_field(parameters, "config", "parameters.")
            asked.parameters["config"].string_param = config
        return await self._tell(request, await self._pass_on(request, "RepositoryModelLoad", asked))

    @endpoint(
        "POST",
        "/v2/repository/models/{model}/unload",
        asks=schemas.UNLOAD_REQUEST,
        tells=schemas.NOTHING,
        changes=True,
        fails=(404, 503),
        rpc="RepositoryModelUnload",
    )
    async def repository_unload(self, request: web.Request) -> web.StreamResponse:
        """Drains and removes a function."""
        fields.object_field(await self._read_object(request), "parameters")
        name = request.match_info["model"]
        return await self._tell(
            request, await self._ask(request, "RepositoryModelUnload", model_name=name)
        )

    # ---- clients' memory ----

    @endpoint(
        "GET",
        "/v2/systemsharedmemory/status",
        f"{_REGION}/status",
        tells={
            "type": "array",
            "items": schema_of(descriptor("SystemSharedMemoryStatusResponse.RegionStatus")),
        },
        fails=(404,),
        rpc="SystemSharedMemoryStatus",
    )
    async def shared_memory_status(self, request: web.Request) -> web.StreamResponse:
        """One region of clients' memory, or all that are in /dev/shm."""
        told = await self._ask(request, "SystemSharedMemoryStatus", name=_region(request))
        return await self._tell(request, list(told["regions"].values()))

    @endpoint(
        "POST",
        f"{_REGION}/register",
        asks=schemas.REGISTER_REQUEST,
        tells=schemas.NOTHING,
        changes=True,
        fails=(403, 404, 429, 501, 503),
        rpc="SystemSharedMemoryRegister",
    )
    async def shared_memory_register(self, request: web.Request) -> web.StreamResponse:
        """Lets requests name a part of a file; answers when all front-ends do."""
        asked = await self._read_object(request)
        told = await self._ask(
            request,
            "SystemSharedMemoryRegister",
            name=_region(request),
            key=fields.text_field(asked, "key", needed=True),
            offset=fields.size_field(asked, "offset") or 0,
            byte_size=fields.size_field(asked, "byte_size") or 0,
        )
        return await self._tell(request, told)

    @endpoint(
        "POST",
        "/v2/systemsharedmemory/unregister",
        f"{_REGION}/unregister",
        tells=schemas.NOTHING,
        changes=True,
        fails=(503,),
        rpc="SystemSharedMemoryUnregister",
    )
    async def shared_memory_unregister(self, request: web.Request) -> web.StreamResponse:
        """Forgets one region, or all that are in /dev/shm."""
        await self._read_object(request)
        told = await self._ask(request, "SystemSharedMemoryUnregister", name=_region(request))
        return await self._tell(request, told)

    # ---- parts ----

    async def _ask(self, request: web.Request, method: str, **asked: Any) -> dict[str, Any]:
        """Asks the servicer, by the name that gRPC has for it."""
        return await self._pass_on(request, method, message(f"inference.{method}Request")(**asked))

    async def _pass_on(self, request: web.Request, method: str, asked: Any) -> dict[str, Any]:
        return to_json(await getattr(self._service, method)(asked, Call(request.headers)))

    async def _read_request(
        self, request: web.Request, account: Account
    ) -> tuple[bytes, codec.Wish]:
        body = await read_body(request, self._request_max_bytes, account)
        text, tensors = codec.split(memoryview(body), request.headers.get(codec.JSON_LENGTH))
        account.take(parsed_bytes(text) + len(tensors))
        asked = fields.parse_object(text, "the request")
        return codec.read_request(asked, tensors, **_model(request))

    async def _read_object(self, request: web.Request) -> dict[str, Any]:
        """The body of a call that need not have one."""
        with self._memory.account() as account:
            body = await read_body(request, self._request_max_bytes, account)
            account.take(parsed_bytes(memoryview(body)))
            return fields.parse_object(memoryview(body), "the request") if body else {}

    async def _tell(
        self, request: web.Request, told: Any, *, status: int = 200
    ) -> web.StreamResponse:
        body = json.dumps(told).encode()
        return await send(request, [body], status=status, closes=self._closes())

    @cached_property
    def _description(self) -> dict[str, Any]:
        return openapi.document(endpoints_of(Endpoints))


def _model(request: web.Request) -> dict[str, str]:
    found = dict(request.match_info)
    return {
        "name": fields.text_field(found, "model"),
        "version": fields.text_field(found, "version"),
    }


def _region(request: web.Request) -> str:
    return fields.text_field(dict(request.match_info), "region")
