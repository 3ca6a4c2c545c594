"""What a scrape reads of a function."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from gslice._native import Segment, histogram_bounds_us
from gslice.core.types import FunctionSpec
from gslice.daemon.readings import function_reading
from gslice.supervise.ledger import Counted, Key


def test_while_another_slo_is_loaded_counters_are_of_the_one_that_serves() -> None:
    deployment = SimpleNamespace(
        spec=FunctionSpec("f", slo_p99_us=50_000),
        segment=None,
        workers=[],
        share_effective_percent=0.0,
    )
    wanted: Any = SimpleNamespace(
        name="f",
        state="READY",
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


def test_an_answer_is_late_by_what_was_promised_when_it_came() -> None:
    bounds_us = histogram_bounds_us()

    def counted(slo_us: float, *latencies_us: float) -> Counted:
        stats = Segment.create("f", [(4096, 1)], 4096, 1).stats()
        for latency_us in latencies_us:
            stats["stage"]["total"]["bins"][
                np.searchsorted(bounds_us, latency_us, "right") - 1
            ] += 1
        return Counted(Key("1", slo_us), stats)

    parts = [counted(500, 10, 100, 1000), counted(5000, 1000, 9000), counted(0, 10)]
    deployment = SimpleNamespace(
        spec=FunctionSpec("f", slo_p99_us=5000),
        segment=Segment.create("f", [(4096, 1)], 4096, 1),
        workers=[],
        share_effective_percent=0.0,
        node=SimpleNamespace(ledgers=SimpleNamespace(read=lambda name: parts)),
    )
    function: Any = SimpleNamespace(
        name="f",
        state="READY",
        spec=deployment.spec,
        deployment=deployment,
        program=None,
        share_granted_percent=0.0,
        restarts=SimpleNamespace(count=0),
        residency=SimpleNamespace(cold_starts=0),
        kept=SimpleNamespace(warm=[], deployments=[]),
        resizing=SimpleNamespace(last_shadow=None),
    )
    reading = function_reading(function, None, "")
    assert reading.slo_kept == 3
    assert reading.stats is not None
    assert reading.stats["stage"]["total"]["bins"].sum() == 6
