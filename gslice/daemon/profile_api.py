"""`Profile` of the control API: an order that ends with its caller, and what it found."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from gslice.core.errors import Cancelled, GsliceError
from gslice.daemon.versions import model_of
from gslice.protos import message

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from gslice.daemon.daemon import Daemon
    from gslice.daemon.profiles import Profile
    from gslice.supervise.profiling import Measuring

_CURVE_STEPS = 50


async def profile_steps(daemon: Daemon, request: Any) -> AsyncGenerator[Any, None]:
    """Each point as it is measured, then the profile; or the one that is kept.

    It is given up when nobody reads any more, or when the daemon stops.

    Raises:
        GsliceError: the function cannot be measured.
        Cancelled: the daemon stops.
    """
    step = message("gslice.v1.ProfileStep")
    profiler, name = daemon.supervisor.profiler, request.name
    if request.show:
        spec = daemon.supervisor.function(name).spec
        yield step(result=_result(name, daemon.profiles.shown(spec), model_of(spec)))
        return
    grid = profiler.grid(name, request.shares_percent, request.buckets)
    model = model_of(profiler.deployment(name).spec)
    yield step(left=grid.most, excess_percent=profiler.excess_percent(name, grid))
    steps: asyncio.Queue[Any] = asyncio.Queue()
    begun_s, done = time.monotonic(), 0

    def tell(measured: Measuring) -> None:
        nonlocal done
        done += 1
        left = grid.most - done
        left_s = left * (time.monotonic() - begun_s) / done
        steps.put_nowait(step(point=_point(measured), left=left, left_s=left_s))

    async def measure() -> GsliceError | None:
        try:
            profile = await daemon.profiles.measure(profiler, name, grid, tell)
            steps.put_nowait(step(result=_result(name, profile, model)))
        except GsliceError as error:
            return error
        return None

    task = daemon.background(measure())
    task.add_done_callback(lambda _: steps.put_nowait(None))
    try:
        while (item := await steps.get()) is not None:
            yield item
    finally:
        task.cancel()  # nothing, if it has ended
        await asyncio.wait([task])
    if task.cancelled():
        raise Cancelled(f"function {name} is not measured any more: the daemon is stopping")
    if (error := task.result()) is not None:
        raise error


def _point(measured: Measuring, fitted_us: float = 0.0) -> Any:
    found = measured.measurement
    return message("gslice.v1.ProfilePoint")(
        **vars(found),
        share_ordered_percent=measured.asked_percent,
        joules=measured.joules,
        fitted_us=fitted_us,
    )


def _result(name: str, profile: Profile, model: str) -> Any:
    fitted, circumstances = profile.model, profile.circumstances
    points = [
        _point(each, fitted.median_us(each.measurement.bucket, each.measurement.share_percent))
        for each in profile.points
    ]
    return message("gslice.v1.ProfileResult")(
        name=name,
        model=model,
        device=circumstances.device,
        limiter=circumstances.limiter,
        machine=circumstances.machine,
        version=profile.gslice,
        at_s=profile.at_s or time.time(),
        quick=profile.quick,
        error_percent=fitted.error_percent,
        points=points,
        curves=[_curve(profile, bucket) for bucket in fitted.buckets],
    )


def _curve(profile: Profile, bucket: int) -> Any:
    fitted = profile.model
    low, high = fitted.shares_percent[0], fitted.shares_percent[-1]
    steps = (low + (high - low) * step / _CURVE_STEPS for step in range(_CURVE_STEPS + 1))
    shares = sorted({*steps, *fitted.shares_percent})
    knee_percent = fitted.knee_percent(bucket)
    return message("gslice.v1.ProfileCurve")(
        bucket=bucket,
        knee_percent=knee_percent,
        knee_us=fitted.median_us(bucket, knee_percent),
        shares_percent=shares,
        medians_us=[fitted.median_us(bucket, share) for share in shares],
    )
