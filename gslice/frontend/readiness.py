"""Whether the server as a whole takes requests."""

from __future__ import annotations

from gslice.frontend.catalogue import Catalogue


class Readiness:
    """Ready from when the first functions have been loaded, until the server drains.

    A function that failed does not make the server unready, nor does one that is loaded later: a
    load balancer would take the healthy ones out with it.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._settled = False
        self.draining = False

    def ready(self) -> bool:
        """True: requests are welcome."""
        if not self._settled:
            # A command is none of our traffic, and may take minutes.
            ours = (function for function in self._catalogue if function.spec.program is None)
            self._settled = all(function.state != "LOADING" for function in ours)
        return self._settled and not self.draining

    def drain(self) -> None:
        """Not ready from now on; tells those who watch."""
        self.draining = True
        self._catalogue.announce()
