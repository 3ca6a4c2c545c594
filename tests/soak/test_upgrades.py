"""Everything is replaced by `gslice upgrade --workers`, again and again for minutes, under load."""

from __future__ import annotations

import time

import pytest

from tests.process.open_loop import OpenLoop
from tests.process.traffic import Traffic
from tests.soak.test_kills import SECONDS, drill, told

pytestmark = [pytest.mark.soak, pytest.mark.timeout(SECONDS + 900)]


def test_upgrades_with_workers(start_node, zoo, identity, seed: int, say) -> None:
    functions = {"echo": zoo("Echo", instances=2, share="30%"), "same": identity}
    node = start_node(functions, node={"connection_age": "500ms"})

    def upgrade() -> float:
        began_s = time.monotonic()
        with node.control() as control:
            stages = list(control.upgrade(workers=True))
        assert stages[-1].name == "done", stages[-1].detail
        return time.monotonic() - began_s

    with (
        Traffic(node, "echo", clients=4) as traffic,
        OpenLoop(node.grpc_address, "same", channels=4, rate_per_s=80) as flow,
    ):
        took_s = drill(node, traffic, upgrade, seed)
    say(f"upgrades: {told(took_s)}; {traffic.sent + flow.sent} requests")
    traffic.assert_each_answered_once()
    flow.assert_each_answered_once()
