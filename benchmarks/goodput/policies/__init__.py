"""Who decides in the benchmark: the product's controller, and what it is compared with."""

from __future__ import annotations

from benchmarks.goodput.policies.fixed import equal, static, timeshare, uncontrolled
from benchmarks.goodput.policies.gslice2020 import gslice2020
from benchmarks.goodput.policies.oracle import oracle
from benchmarks.goodput.policies.slo import side_by_side, slo
from benchmarks.goodput.simulate import Make

POLICIES: dict[str, Make] = {
    "slo": slo,
    "side_by_side": side_by_side,
    "gslice2020": gslice2020,
    "equal": equal,
    "static": static,
    "uncontrolled": uncontrolled,
    "timeshare": timeshare,
    "oracle": oracle,
}
