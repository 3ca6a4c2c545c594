"""Which point of a latency table to measure next, so that few tell the whole."""

from __future__ import annotations

from math import dist, log
from typing import TYPE_CHECKING

from gslice.control.latency import left_out_errors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gslice.control.latency import Measurement

    Point = tuple[int, float]


def next_points(
    measurements: Sequence[Measurement],
    shares: Sequence[float],
    buckets: Sequence[int],
    tolerance: float = 0.05,
) -> Point | None:
    """The most useful point that was not measured yet.

    First the corners, and the middles of three edges: seven points, or fewer on a thin grid. Then
    wherever the others predict a point worst, which is where the curve bends: the unmeasured point
    near to it and far from all measured ones.

    Args:
        measurements: So far; may be empty.
        shares: That may be measured, in percent.
        buckets: That may be measured.
        tolerance: A left-out point is predicted well within this relative error.

    Returns:
        (bucket, share), or None: each point that the others surround is predicted well by them,
        or there is no other point.
    """
    known = {(m.bucket, m.share_percent) for m in measurements}
    candidates = [(b, p) for b in sorted(buckets) for p in sorted(shares) if (b, p) not in known]
    if not candidates:
        return None
    for point in _outline(sorted(buckets), sorted(shares)):
        if point not in known:
            return point
    errors = {
        (m.bucket, m.share_percent): abs(error)
        for m, error in left_out_errors(measurements).items()
    }
    bends = {point: error for point, error in errors.items() if error > log(1 + tolerance)}
    if not bends:
        return None

    def usefulness(candidate: Point) -> float:
        gap = min(_distance(candidate, point) for point in known)
        return gap * max(error / (gap + _distance(candidate, p)) for p, error in bends.items())

    return max(candidates, key=usefulness)


def _outline(buckets: Sequence[int], shares: Sequence[float]) -> list[Point]:
    """Where the grid ends, cheapest measurements first, and the middle of its edges."""
    few, many, little, much = buckets[0], buckets[-1], shares[0], shares[-1]
    half = min(shares, key=lambda share: abs(log(share * share / (little * much))))
    some = min(buckets, key=lambda bucket: abs(log(bucket * bucket / (few * many))))
    corners = [(few, much), (many, much), (few, little), (many, little)]
    return [*corners, (many, half), (few, half), (some, much)]


def _distance(one: Point, other: Point) -> float:
    """In doublings, of rows and of share."""
    return dist([log(value, 2) for value in one], [log(value, 2) for value in other])
