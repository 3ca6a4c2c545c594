"""Profiles of the functions, measured as an operator would: `gslice profile NAME`."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Sequence

from benchmarks.goodput.live.course import MODELS, Model, measured
from benchmarks.goodput.live.site import Site
from benchmarks.goodput.scene import Function
from gslice.control.latency import Measurement
from gslice.core.errors import Internal


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
            points = await _profile(site, model, shares_percent)
            function = found[model.name] = measured(model, points)
            tell(
                f"{model.name}: {len(points)} points measured; SLO {function.slo_us / 1e3:g} ms,"
                f" {function.rate_hint_per_s:.1f} requests/s"
            )
    return found


async def _profile(site: Site, model: Model, shares_percent: Sequence[float]) -> list[Measurement]:
    chosen = ["--shares", ",".join(f"{share:g}%" for share in shares_percent), "--buckets", "1"]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gslice", "profile", model.name, "--json"),
        *("--state-dir", str(site.folder / "state")),
        *(chosen if shares_percent else []),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    printed, problem = await process.communicate()
    if process.returncode:
        raise Internal(f"gslice profile {model.name}: {problem.decode().strip()}")
    return [
        Measurement(**{field: point[field] for field in Measurement.__dataclass_fields__})
        for point in json.loads(printed)["points"]
    ]
