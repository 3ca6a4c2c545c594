"""Who may look, who may act, and what a browser is told about the page.

Any page that a browser shows can send requests to loopback. So nothing is answered under a name
that is not this machine's, and what changes the node must come from our own page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gslice.core.access import ANONYMOUS, Role, credential_of, is_loopback
from gslice.core.errors import InvalidArgument, PermissionDenied, Unauthenticated
from gslice.frontend.rest.host import check_host

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

    from gslice.core.access import Access, Caller

HEADER = "X-Gslice-Page"
"""Of what changes the node: no form can send it, and other origins' scripts must ask first."""

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:;"
        " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
        " require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Of every answer: nothing is loaded from elsewhere, no script or style stands in the page."""


class Guard:
    """Decides about requests.

    Args:
        address: Where the port listens, host:port.
        access: Who is known now.
    """

    def __init__(self, address: str, access: Callable[[], Access]) -> None:
        self._access = access
        self._is_local = is_loopback(address)

    def why_not(self, request: web.Request) -> str:
        """Why a caller may not change the node; empty: it may."""
        try:
            self.caller(request, Role.ADMIN)
        except (PermissionDenied, Unauthenticated) as error:
            return str(error)
        return ""

    def check(self, request: web.Request, role: Role | None) -> None:
        """Lets a request pass to a route that is for a role; None: for everybody.

        Raises:
            Unauthenticated: a key is needed, or it is not known.
            PermissionDenied: it may not.
            InvalidArgument: it is not as our page sends it.
        """
        if role is None:
            return
        if role is Role.ADMIN:
            _check_ours(request)
        if self.caller(request, role).name == ANONYMOUS:
            check_host(request.headers)

    def caller(self, request: web.Request, role: Role) -> Caller:
        """Who calls, if the role is theirs.

        Raises:
            Unauthenticated: a key is needed, or it is not known.
            PermissionDenied: it is not for this.
        """
        access = self._access()
        caller = access.require(credential_of(request.headers.get), role)
        if access.open and role is Role.ADMIN and not self._is_local:
            raise PermissionDenied(
                "the page only shows the node here: its port is reachable from other machines,"
                " and nobody is asked for a key",
                hint="use the command line on the node, or a port on loopback",
            )
        if caller.tenant is not None:
            raise PermissionDenied(
                f"the page shows the whole node, and key {caller.name!r} is tenant"
                f" {caller.tenant.name!r}'s"
            )
        return caller


def _check_ours(request: web.Request) -> None:
    """What changes the node comes from the page itself, not from one of another origin.

    Raises:
        PermissionDenied: it comes from elsewhere.
        InvalidArgument: it is no JSON.
    """
    origin = request.headers.get("Origin")
    site = request.headers.get("Sec-Fetch-Site", "same-origin")
    is_ours = origin is None or origin == f"{request.scheme}://{request.host}"
    if not is_ours or site not in ("same-origin", "none") or HEADER not in request.headers:
        raise PermissionDenied("calls that change the node are taken from its own page only")
    if request.content_type != "application/json":
        raise InvalidArgument("the body must be JSON", hint="Content-Type: application/json")
