"""What the page can ask for, and who may: one declaration each, beside what answers it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gslice.core.access import Role
    from gslice.frontend.rest.endpoint import Handler

_MARK = "__route__"


@dataclass(frozen=True)
class Route:
    """One of them.

    Attributes:
        method: GET or POST.
        path: Where it is, parts in braces taken from there.
        role: Who may ask; None: everybody, for it says nothing about the node.
        name: Of the method that answers.
    """

    method: str
    path: str
    role: Role | None
    name: str


def route(method: str, path: str, role: Role | None) -> Callable[[Handler], Handler]:
    """Makes a method answer a route: see `Route`."""

    def mark(handler: Handler) -> Handler:
        setattr(handler, _MARK, Route(method, path, role, handler.__name__))
        return handler

    return mark


def routes_of(kind: type) -> list[Route]:
    """A class's routes, as they stand in it."""
    return [getattr(each, _MARK) for each in vars(kind).values() if hasattr(each, _MARK)]
