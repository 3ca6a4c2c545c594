"""What an endpoint is: how it is reached, and what its page of the API's description says."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gslice.protos import message

if TYPE_CHECKING:
    from aiohttp import web

    Handler = Callable[[Any, web.Request], Awaitable[web.StreamResponse]]

_MARK = "__endpoint__"


@dataclass(frozen=True)
class Endpoint:
    """One of them.

    Attributes:
        method: GET or POST.
        paths: Where it is, parts in braces taken from there.
        name: Of the handler.
        text: What it does, in a sentence or more.
        asks: Schema of the request's body; None: it takes none.
        tells: Schema of the answer's body.
        kind: Content-Type of the answer, unless tensors are in it.
        binary: Both bodies may have tensors behind the JSON.
        changes: It changes the node, so no web page may call it.
        rpc: What gRPC calls it: callers who may not call it are refused before its body is read;
            empty: it is for everybody.
        fails: Which statuses it may answer instead of 200, besides those of any.
    """

    method: str
    paths: tuple[str, ...]
    name: str
    text: str
    asks: dict[str, Any] | None
    tells: dict[str, Any]
    kind: str
    binary: bool
    changes: bool
    rpc: str
    fails: tuple[int, ...]


def endpoint(
    method: str,
    *paths: str,
    tells: dict[str, Any],
    asks: dict[str, Any] | None = None,
    kind: str = "application/json",
    binary: bool = False,
    changes: bool = False,
    rpc: str = "",
    fails: tuple[int, ...] = (),
) -> Callable[[Handler], Handler]:
    """Makes a method an endpoint: see `Endpoint`; its docstring is the text."""

    def mark(handler: Handler) -> Handler:
        text = inspect.cleandoc(handler.__doc__ or "")
        name = handler.__name__
        found = Endpoint(
            *(method, paths, name, text, asks, tells, kind),
            binary=binary,
            changes=changes,
            rpc=rpc,
            fails=fails,
        )
        setattr(handler, _MARK, found)
        return handler

    return mark


def endpoints_of(kind: type) -> list[Endpoint]:
    """A class's endpoints, as they stand in it."""
    return [getattr(each, _MARK) for each in vars(kind).values() if hasattr(each, _MARK)]


def descriptor(name: str) -> Any:
    """Of a message of the protocol, such as `ModelInferRequest`."""
    return message(f"inference.{name}").DESCRIPTOR
