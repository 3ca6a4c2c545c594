"""What an operator may want to know later: the kinds of events, and how one is recorded."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum


class EventKind(StrEnum):
    """One word for what happened; docs/operations.md says what each means."""

    LOAD = "load"
    UNLOAD = "unload"
    STAGE = "stage"
    SWAP = "swap"
    MOVE = "move"
    CRASH = "crash"
    KILL = "kill"
    REQUEUE = "requeue"
    RESTART = "restart"
    FAILED = "failed"
    FAULT = "fault"
    ADOPT = "adopt"
    SHARE = "share"
    PROFILE = "profile"
    VERSION = "version"
    RESIDENCY = "residency"
    DEVICE = "device"
    CONFIG = "config"
    UPGRADE = "upgrade"
    DAEMON = "daemon"
    OTHER = "other"


Record = Callable[[str, EventKind, str], None]
"""Records an event: its subject, kind and text.

The subject is a function, a device, `frontend`, `spares` or `daemon`.
"""
