"""The daemon's own decisions, without children."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gslice.core.config import load_config
from gslice.core.errors import InvalidArgument, Unavailable
from gslice.daemon.daemon import Daemon, json_body
from gslice.daemon.store import Store
from gslice.ipc.channel import Received
from gslice.ipc.messages import Failed, Message, RepositoryCall


@dataclass
class Frontend:
    """Takes the daemon's answers, as a front-end would."""

    answers: list[tuple[Message, int]] = field(default_factory=list)

    def send(self, message: Message, fds: Any = (), seq: int = 0) -> None:
        self.answers.append((message, seq))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "gslice.db") as store:
        yield store


def make_daemon(tmp_path: Path, store: Store) -> Daemon:
    """A daemon that is not run; on a running event loop."""
    config = load_config(None, environ={"GSLICE_NODE__STATE_DIR": str(tmp_path / "state")})
    return Daemon(config, store)


@pytest.mark.parametrize("text", ["{", "{a: 1}", "[" * 100_000])
def test_a_config_override_must_be_json(text: str) -> None:
    with pytest.raises(InvalidArgument, match="the config override is"):
        json_body(text)


def test_a_client_is_answered_whatever_comes_between(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def waits(*_: object) -> None:
        await asyncio.get_running_loop().create_future()

    async def breaks(*_: object) -> None:
        raise ZeroDivisionError

    async def scenario() -> None:
        daemon, frontend = make_daemon(tmp_path, store), Frontend()
        order: Any = Received(RepositoryCall("unload", "a"), seq=7)
        for unload, cancelled in ((waits, True), (breaks, False)):
            monkeypatch.setattr(daemon, "unload", unload)
            daemon._called(frontend, order)  # type: ignore[arg-type]
            (task,) = daemon._tasks
            await asyncio.sleep(0)
            if cancelled:
                task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        (stopping, seq), (broken, _) = frontend.answers
        assert isinstance(stopping, Failed)
        assert isinstance(broken, Failed)
        assert (stopping.code, stopping.message, seq) == (
            Unavailable.code,
            "the daemon is stopping",
            7,
        )
        assert "its log says more" in broken.message

    asyncio.run(scenario())
