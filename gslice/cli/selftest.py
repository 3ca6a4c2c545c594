"""The self-test of `gslice doctor`: work done under a share, against work done without one."""

from __future__ import annotations

import os
import threading
import time

from gslice.cli.checks import Check
from gslice.core.errors import GsliceError
from gslice.device.limiter import Limiter, NoLimiter, make_limiter

SHARE_PERCENT = 25.0
TOLERANCE_PERCENT = 7.5  # of the device; a busy machine takes a little from either run
_BURN_S = 0.7
_NAME = "share of 25%"


def share_check() -> Check:
    """Measures how much of one core's work a thread gets done at a share of 25 %."""
    core = min(os.sched_getaffinity(0))
    try:
        limiter = make_limiter("auto", [core], "doctor")
    except GsliceError as error:
        return Check(_NAME, "warn", error.message, error.hint)
    if limiter.name != "cgroup":
        return Check(
            _NAME,
            "warn",
            "not measured: only the cgroup limiter gives less than a core",
            "shares are rounded to whole cores here",
        )
    try:
        effective = _work_per_s(limiter, SHARE_PERCENT) * 100 / _work_per_s(NoLimiter([core]), 100)
    except GsliceError as error:
        return Check(_NAME, "fail", error.message, error.hint)
    finally:
        limiter.release()
    detail = f"{effective:.1f}% of a core's work was done ({limiter.name})"
    if abs(effective - SHARE_PERCENT) > TOLERANCE_PERCENT:
        return Check(_NAME, "warn", detail, "run it again while the machine is idle")
    return Check(_NAME, "ok", detail)


def _work_per_s(limiter: Limiter, share_percent: float) -> float:
    """Rounds of arithmetic a second, in a thread of its own under the limiter."""
    result: list[float | GsliceError] = []

    def work() -> None:
        try:
            limiter.apply(share_percent, [threading.get_native_id()])
        except GsliceError as error:
            result.append(error)
            return
        rounds, start = 0, time.perf_counter()
        while (elapsed_s := time.perf_counter() - start) < _BURN_S:
            sum(range(500))
            rounds += 1
        result.append(rounds / elapsed_s)

    thread = threading.Thread(target=work, name="gslice-doctor")
    thread.start()
    thread.join()
    if isinstance(result[0], GsliceError):
        raise result[0]
    return result[0]
