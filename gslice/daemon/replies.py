"""Events, versions and what became of a resize, as the control API tells them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from gslice.daemon.versions import digest_of_model, model_of
from gslice.protos import message

if TYPE_CHECKING:
    from gslice.control.versions import Version
    from gslice.daemon.store import Event
    from gslice.supervise.resize import Resized


def resized_reply(resized: Resized) -> Any:
    """A `gslice.v1.Resized`, its swaps included."""
    swap = message("gslice.v1.Swap")
    swaps = [swap(**dataclasses.asdict(each)) for each in resized.swaps]
    return message("gslice.v1.Resized")(**{**vars(resized), "swaps": swaps})


def event_reply(event: Event) -> Any:
    """A `gslice.v1.Event`."""
    return message("gslice.v1.Event")(**vars(event))


def version_reply(version: Version, state: str) -> Any:
    """A `gslice.v1.Version`.

    Args:
        version: Which.
        state: What it is in, in a word.
    """
    return message("gslice.v1.Version")(
        number=str(version.number),
        state=state,
        model=model_of(version.spec),
        fingerprint=version.fingerprint,
        first_served_s=version.first_served_s,
        served_s=version.served_s,
        sha256=digest_of_model(version.spec),
    )
