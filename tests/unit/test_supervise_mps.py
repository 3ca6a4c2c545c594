"""What the manager of MPS makes of what a control daemon says."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from gslice.supervise.mps import FAULT, Mps


class TwoServers:
    """A control daemon of an operator, with servers for two users."""

    def servers(self) -> list[int]:
        return [1, 2]

    def clients(self, server: int) -> list[int]:
        return {1: [10], 2: [20]}[server]

    def status(self, server: int) -> str:
        return {1: FAULT, 2: "ACTIVE"}[server]


def test_a_fault_of_another_user_s_server_is_not_ours(tmp_path: Path) -> None:
    mps: Any = Mps(tmp_path, "/run/mps", tmp_path / "log")
    mps._control = TwoServers()
    mps.ours.add(20)
    assert not asyncio.run(mps.faulted())
    mps.ours.add(10)
    assert asyncio.run(mps.faulted())
    mps.ours = {99}  # as another pid namespace counts: it may be any of them
    assert asyncio.run(mps.faulted())
