"""HTTP by hand, for what no client library would send to the REST front-end."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from tests.contract.direct import WAIT_S

JSON_LENGTH = "Inference-Header-Content-Length"
INFER = "/v2/models/echo/infer"


class Reply(NamedTuple):
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The text of a failed call, and nothing else beside it."""
        (key,) = self.json
        assert key == "error"
        return str(self.json["error"])


@contextmanager
def connected(address: str) -> Iterator[http.client.HTTPConnection]:
    """A connection, to be used for several calls."""
    connection = http.client.HTTPConnection(address, timeout=WAIT_S)
    try:
        yield connection
    finally:
        connection.close()


def call(
    address: str, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
) -> Reply:
    """One call on a connection of its own; a body that is no bytes goes as JSON."""
    with connected(address) as connection:
        return call_on(connection, method, path, body, headers)


def call_on(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
    connection.request(method, path, body, dict(headers or {}))
    answer = connection.getresponse()
    return Reply(answer.status, answer.headers, answer.read())


def x(*values: Any, shape: list[int] | None = None, **parameters: Any) -> dict[str, Any]:
    """The input of the tests' echo, FP32."""
    tensor = {"name": "x", "datatype": "FP32", "shape": shape or [1, 4], "data": list(values)}
    return {**tensor, "parameters": parameters} if parameters else tensor


def with_tensors(asked: dict[str, Any], *tensors: bytes) -> tuple[bytes, dict[str, str]]:
    """A body with tensors behind its JSON, and the header that says so."""
    text = json.dumps(asked).encode()
    return b"".join([text, *tensors]), {JSON_LENGTH: str(len(text))}
