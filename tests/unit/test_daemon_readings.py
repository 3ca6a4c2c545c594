"""What a scrape reads of a function."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from gslice.core.types import FunctionSpec
from gslice.daemon.readings import function_reading


def test_while_another_slo_is_loaded_counters_are_of_the_one_that_serves() -> None:
    deployment = SimpleNamespace(
        spec=FunctionSpec("f", slo_p99_us=50_000),
        segment=None,
        workers=[],
        share_effective_percent=0.0,
    )
    wanted: Any = SimpleNamespace(
        name="f",
        spec=FunctionSpec("f", slo_p99_us=30_000),
        deployment=deployment,
        program=None,
        serving=True,
        share_granted_percent=0.0,
        restarts=SimpleNamespace(count=0),
        residency=SimpleNamespace(cold_starts=0),
        kept=SimpleNamespace(warm=[], deployments=[]),
        resizing=SimpleNamespace(last_shadow=None),
    )
    assert function_reading(wanted, None, "").slo_us == 50_000
    wanted.deployment = None
    assert function_reading(wanted, None, "").slo_us == 30_000
