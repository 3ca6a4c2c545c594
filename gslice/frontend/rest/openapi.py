"""The API's description, made from the endpoints themselves: an OpenAPI document, and a page."""

from __future__ import annotations

import html
import json
from http import HTTPStatus
from string import Template
from typing import TYPE_CHECKING, Any

from gslice import __version__
from gslice.frontend.rest import schemas
from gslice.frontend.rest.codec import JSON_LENGTH

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gslice.frontend.rest.endpoint import Endpoint

_OF_BODIES = (400, 413, 415)  # statuses of any call that has one
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_BINARY_HEADER = {
    "description": "Bytes of the body that are JSON; the tensors' follow. Absent: all are.",
    "schema": {"type": "integer", "minimum": 1},
}
_RETRY_AFTER = {"description": "Seconds until another try.", "schema": {"type": "integer"}}


def document(endpoints: Iterable[Endpoint]) -> dict[str, Any]:
    """The OpenAPI 3.1 document of some endpoints."""
    paths: dict[str, Any] = {}
    for each in endpoints:
        for index, path in enumerate(each.paths):
            paths.setdefault(path, {})[each.method.lower()] = _operation(each, index)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "gslice",
            "version": __version__,
            "description": "KServe v2 (Open Inference Protocol) over HTTP.",
        },
        "paths": paths,
        "components": {
            "schemas": {"Error": schemas.ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],  # a node need not have keys
    }


def page(described: dict[str, Any]) -> str:
    """A document as HTML, all in itself: it loads nothing from anywhere."""
    operations = [
        _operation_part(method, path, operation)
        for path, methods in described["paths"].items()
        for method, operation in methods.items()
    ]
    info = {key: html.escape(text) for key, text in described["info"].items()}
    return _PAGE.substitute(info, operations="\n".join(operations))


def _operation(each: Endpoint, index: int) -> dict[str, Any]:
    summary, _, rest = each.text.partition("\n\n")
    name = each.name if index == 0 else f"{each.name}_{index + 1}"
    operation: dict[str, Any] = {"operationId": name, "summary": summary}
    if rest:
        operation["description"] = rest
    parameters = [_path_parameter(part) for part in each.paths[index].split("/") if "{" in part]
    if each.binary:
        parameters.append({"name": JSON_LENGTH, "in": "header", **_BINARY_HEADER})
    if parameters:
        operation["parameters"] = parameters
    if each.asks is not None:
        operation["requestBody"] = {"content": _content(each.asks, binary=each.binary)}
    operation["responses"] = _responses(each)
    return operation


def _path_parameter(part: str) -> dict[str, Any]:
    return {"name": part.strip("{}"), "in": "path", "required": True, "schema": {"type": "string"}}


def _content(
    schema: dict[str, Any], *, binary: bool, kind: str = "application/json"
) -> dict[str, Any]:
    content: dict[str, Any] = {kind: {"schema": schema}}
    return {**content, "application/octet-stream": _BINARY} if binary else content


def _responses(each: Endpoint) -> dict[str, Any]:
    done: dict[str, Any] = {
        "description": "Done.",
        "content": _content(each.tells, binary=each.binary, kind=each.kind),
    }
    if each.binary:
        done["headers"] = {JSON_LENGTH: _BINARY_HEADER}
    responses = {"200": done}
    bodies = _OF_BODIES if each.asks is not None else ()
    for status in sorted({*each.fails, *bodies, *((401, 403) if each.rpc else ())}):
        responses[str(status)] = _failure(status)
    return responses


def _failure(status: int) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Error"}
    failure: dict[str, Any] = {
        "description": HTTPStatus(status).phrase,
        "content": {"application/json": {"schema": schema}},
    }
    if status in (429, 503):
        failure["headers"] = {"Retry-After": _RETRY_AFTER}
    return failure


def _operation_part(method: str, path: str, operation: dict[str, Any]) -> str:
    parts = [f"<h2><b>{method.upper()}</b> <code>{html.escape(path)}</code></h2>"]
    parts += [f"<p>{html.escape(operation[key])}</p>" for key in _texts(operation)]
    if "requestBody" in operation:
        parts.append(_schema_part("Request", operation["requestBody"]))
    parts.append(_schema_part("Answer", operation["responses"]["200"]))
    others = [
        f"<li><code>{status}</code> {html.escape(told['description'])}</li>"
        for status, told in operation["responses"].items()
        if status != "200"
    ]
    if others:
        parts.append(f"<ul>{''.join(others)}</ul>")
    return f"<section>{''.join(parts)}</section>"


def _texts(operation: dict[str, Any]) -> list[str]:
    return [key for key in ("summary", "description") if key in operation]


def _schema_part(title: str, body: dict[str, Any]) -> str:
    kinds = ", ".join(body["content"])
    first = next(iter(body["content"].values()))
    text = json.dumps(first["schema"], indent=2)
    return (
        f"<details><summary>{title}: {html.escape(kinds)}</summary>"
        f"<pre>{html.escape(text)}</pre></details>"
    )


_PAGE = Template("""\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>$title $version: HTTP API</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem }
h2 { font-size: 1rem; margin: 2rem 0 0.25rem; overflow-wrap: anywhere }
p { margin: 0.25rem 0 }
pre { overflow-x: auto; padding: 0.5rem; border: 1px solid }
</style>
<h1>$title $version</h1>
<p>$description Errors are <code>{"error": "..."}</code>. The same as a document:
<a href="/v2/openapi.json">/v2/openapi.json</a>.</p>
$operations
</html>
""")
