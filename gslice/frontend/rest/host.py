"""The name under which a server is asked: a browser may have been told that ours is another's.

Any page that a browser shows can send requests to loopback, and by rebinding its own name to
loopback can even read the answers. The name that it is called by is all that gives it away.
"""

from __future__ import annotations

import ipaddress
import os
from typing import TYPE_CHECKING

from gslice.core.errors import PermissionDenied

if TYPE_CHECKING:
    from collections.abc import Mapping


def check_host(headers: Mapping[str, str]) -> None:
    """Refuses what is asked for under a name that is not this machine's.

    Args:
        headers: Of the request; no browser leaves `Host` out.

    Raises:
        PermissionDenied: it is.
    """
    host = headers.get("Host", "localhost")
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    name = name.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost") or _is_address(name):
        return
    own = os.uname().nodename.lower()
    if name in (own, own.partition(".")[0]) or name.startswith(f"{own}."):
        return
    raise PermissionDenied(
        f"nothing is answered under the name {name!r}, which may be a web page's",
        hint="use the node's address, its own name, or localhost; or set node.access.keys",
    )


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
