"""Following an upgrade from one daemon to the next."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from gslice.client.control import Control
from gslice.core.errors import Cancelled, GsliceError, Unavailable


def daemon(error: GsliceError | None, *names: str) -> Any:
    """A daemon that tells the stages, and then ends with an error, if any."""

    def stream(*_: object, **__: object) -> Iterator[Any]:
        for name in names:
            yield SimpleNamespace(name=name)
        if error is not None:
            raise error

    client = contextlib.nullcontext()
    client._stream = stream  # type: ignore[attr-defined]
    return client


def follow(monkeypatch: pytest.MonkeyPatch, *daemons: Any) -> list[str]:
    control = Control.__new__(Control)
    monkeypatch.setattr(control, "status", lambda: SimpleNamespace(pid=os.getpid()))
    monkeypatch.setattr(control, "_successors", lambda pidfd: iter(daemons))
    return [stage.name for stage in control.upgrade()]


@pytest.mark.parametrize("error", [Unavailable("went away"), Cancelled("ends"), None])
def test_a_daemon_that_ends_is_followed_to_the_next(
    monkeypatch: pytest.MonkeyPatch, error: GsliceError | None
) -> None:
    """The old one may even be asked again, and cancel that at its end."""
    told = ("check", "handover")
    last = daemon(None, *told, "adopt", "done")
    names = follow(monkeypatch, daemon(error, *told), daemon(error, *told), last)
    assert names == [*told, "adopt", "done"]


def test_an_order_that_never_began_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Cancelled):
        follow(monkeypatch, daemon(Cancelled("ends")), daemon(None, "check", "done"))
