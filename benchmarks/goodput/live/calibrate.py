"""Profiles of the functions, measured as an operator would: `gslice profile NAME`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from benchmarks.goodput.live.course import MODELS, Model, measured
from benchmarks.goodput.live.site import Site
from benchmarks.goodput.scene import Function
from gslice.client.control import Control
from gslice.control.latency import Measurement


async def calibrate(
    site: Site, shares_percent: Sequence[float], tell: Callable[[str], None]
) -> dict[str, Function]:
    """Measures every function on a node without traffic; its state directory keeps the profiles.

    Args:
        site: Where.
        shares_percent: What to measure them at, one row each; empty: as the daemon chooses.
        tell: Told what was found.
    """
    found = {}
    async with site.node({model.name: model.body() for model in MODELS}, controlled=False) as node:
        site.settle(node.status)
        for model in MODELS:
            points = await asyncio.to_thread(_profile, site, model, shares_percent)
            function = found[model.name] = measured(model, points)
            tell(
                f"{model.name}: {len(points)} points measured; SLO {function.slo_us / 1e3:g} ms,"
                f" {function.rate_hint_per_s:.1f} requests/s"
            )
    return found


def _profile(site: Site, model: Model, shares_percent: Sequence[float]) -> list[Measurement]:
    buckets = [1] if shares_percent else []
    with Control(site.folder / "state") as control:
        *_, last = control.profile(model.name, shares_percent, buckets)
    return [
        Measurement(**{field: getattr(point, field) for field in Measurement.__dataclass_fields__})
        for point in last.result.points
    ]
