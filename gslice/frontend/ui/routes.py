"""What the page can ask for, and who may: one declaration each, beside what answers it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aiohttp import web

    Handler = Callable[[Any, web.Request], Awaitable[web.StreamResponse]]

PUBLIC = "public"
"""Files of the page, which say nothing about the node."""
VIEW = "view"
"""Whoever may look at the node."""
ADMIN = "admin"
"""Whoever may change it."""

_MARK = "__route__"


@dataclass(frozen=True)
class Route:
    """One of them.

    Attributes:
        method: GET or POST.
        path: Where it is, parts in braces taken from there.
        role: Who may ask: `PUBLIC`, `VIEW` or `ADMIN`.
        name: Of the method that answers.
    """

    method: str
    path: str
    role: str
    name: str


def route(method: str, path: str, role: str) -> Callable[[Handler], Handler]:
    """Makes a method answer a route: see `Route`."""

    def mark(handler: Handler) -> Handler:
        setattr(handler, _MARK, Route(method, path, role, handler.__name__))
        return handler

    return mark


def routes_of(kind: type) -> list[Route]:
    """A class's routes, as they stand in it."""
    return [getattr(each, _MARK) for each in vars(kind).values() if hasattr(each, _MARK)]
