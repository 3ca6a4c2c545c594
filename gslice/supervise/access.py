"""Who may do what, as front-ends know it, and the board on which they count what tenants take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gslice._native import QuotaBoard
from gslice.core.config import present_access
from gslice.core.errors import ConfigError
from gslice.core.events import EventKind
from gslice.ipc.messages import Ok, SetAccess
from gslice.supervise.logs import DAEMON_LOG_NAME

if TYPE_CHECKING:
    from gslice.core.access import Access
    from gslice.core.config import AccessConfig
    from gslice.core.events import Record
    from gslice.ipc.messages import FrontendState
    from gslice.supervise.frontend import Frontend
    from gslice.supervise.frontends import Frontends

ORDER_TIMEOUT_S = 10.0
_Stamp = tuple[int, int, int]


class AccessBook:
    """What the node's front-ends go by.

    Args:
        config: As the settings have it.
        event: Records that it changed, or could not.

    Raises:
        ConfigError: the file of keys cannot be read, or is wrong.
    """

    def __init__(self, config: AccessConfig, event: Record) -> None:
        self._config = config
        self._event = event
        self._stamp = self._read_stamp()
        self._board = QuotaBoard.create()
        self.now: Access = present_access(config)
        """Who may do what now."""

    def knows(self, state: FrontendState) -> bool:
        """Whether a front-end of an earlier daemon can go by it."""
        return self.now.open or state.asks is not None

    async def introduce(self, frontend: Frontend) -> None:
        """Tells a front-end before it listens; one that goes by something else already, anew.

        Raises:
            GsliceError: it does not go by it, and must not serve.
        """
        if not self.now.open or frontend.asks:
            order, fds = self._order()
            await frontend.child.request(order, Ok, fds=fds, timeout_s=ORDER_TIMEOUT_S)

    def under_way(self) -> dict[str, int]:
        """Requests under way by tenant."""
        tenants = enumerate(self.now.tenants)
        return {tenant.name: self._board.under_way(place) for place, tenant in tenants}

    def died(self, index: int) -> None:
        """Nothing is under way any more at a front-end."""
        self._board.clear(index)

    async def refresh(self, frontends: Frontends) -> None:
        """Reads the file of keys if it has changed; what is wrong with it changes nothing."""
        stamp = self._read_stamp()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            found = present_access(self._config)
        except ConfigError as error:
            text = f"keys stay as they were: {error.message}"
            self._event(DAEMON_LOG_NAME, EventKind.FAILED, text)
            return
        if found == self.now:
            return
        self.now = found
        await frontends.tell([self._order()])
        self._event(DAEMON_LOG_NAME, EventKind.CONFIG, f"{len(found.keys)} key(s) from now on")

    def _order(self) -> tuple[SetAccess, tuple[int, ...]]:
        return SetAccess(self.now), (self._board.fd,)

    def _read_stamp(self) -> _Stamp | None:
        if self._config.key_file is None:
            return None
        try:
            found = self._config.key_file.stat()
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns
