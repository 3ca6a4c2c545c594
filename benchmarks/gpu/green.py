"""Lanes on a part of a GPU: what they cost, whether they keep to it, what a graph remembers."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.gpu.step import needed
from gslice import _native

_PARTS = (0.0, 0.25, 0.5, 1.0)  # of all groups; at least one


def measure() -> tuple[bool, str, dict[str, Any]]:
    """Whether lanes keep to their SMs, the answer in a line, and a row for each size of a part."""
    torch = needed("torch")
    torch.zeros(1, device="cuda")  # torch's primary context stays the current one
    groups = _native.SmGroups(0)
    counts = sorted({max(1, int(groups.count * part)) for part in _PARTS})
    rows = [_one(torch, groups, range(count)) for count in counts]
    plain_ms = _product_ms(torch, torch.cuda.current_stream())
    details: dict[str, Any] = {
        "sms": groups.sms,
        "groups": groups.count,
        "group_sms": groups.group_sms,
        "rows": rows,
        "plain_ms": plain_ms,
        "graph": _graph(torch, groups, counts[0], counts[-1]),
    }
    smallest, largest = rows[0], rows[-1]
    slower = smallest["product_ms"] / largest["product_ms"]
    text = (
        f"{groups.count} groups of {groups.group_sms} of {groups.sms} SMs; {smallest['sms']} are"
        f" {slower:.1f} times slower than {largest['sms']}; creation {largest['create_ms']:.1f} ms;"
        f" a graph keeps the SMs it was captured on: {details['graph']['keeps']}"
    )
    return slower > 0.5 * largest["sms"] / smallest["sms"], text, details


def _one(torch: Any, groups: _native.SmGroups, chosen: range) -> dict[str, Any]:
    begun = time.perf_counter()
    lane = _native.CudaDevice(0, 1, groups=groups, chosen=chosen)
    created = time.perf_counter()
    try:
        return {
            "groups": len(chosen),
            "sms": lane.lane_sms,
            "create_ms": round((created - begun) * 1e3, 3),
            "product_ms": _product_ms(torch, _stream_of(torch, lane)),
        }
    finally:
        lane.close()


def _graph(torch: Any, groups: _native.SmGroups, few: int, many: int) -> dict[str, Any]:
    """A product captured on a small part, replayed there and on a large one."""
    small = _native.CudaDevice(0, 1, groups=groups, chosen=range(few))
    large = _native.CudaDevice(0, 1, groups=groups, chosen=range(many))
    a = torch.randn(4096, 4096, device="cuda", dtype=torch.float16)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    stream = _stream_of(torch, small)
    _median_ms(torch, stream, lambda: a @ a)  # cuBLAS allocates, which a capture does not allow
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        a @ a
    there_ms, elsewhere_ms = (
        _median_ms(torch, _stream_of(torch, lane), graph.replay) for lane in (small, large)
    )
    torch.cuda.synchronize()
    for lane in (small, large):
        lane.close()
    keeps = elsewhere_ms > 0.7 * there_ms
    return {"there_ms": there_ms, "elsewhere_ms": elsewhere_ms, "keeps": keeps}


def _stream_of(torch: Any, lane: _native.CudaDevice) -> Any:
    return torch.cuda.ExternalStream(lane.lane_stream(lane.first_lane))


def _product_ms(torch: Any, stream: Any) -> float:
    """Median time of a 4096 x 4096 FP16 product on a stream."""
    with torch.cuda.stream(stream):
        a = torch.randn(4096, 4096, device="cuda", dtype=torch.float16)
    return _median_ms(torch, stream, lambda: a @ a)


def _median_ms(torch: Any, stream: Any, run: Any) -> float:
    times = []
    with torch.cuda.stream(stream):
        for _ in range(20):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record(stream)
            run()
            end.record(stream)
            end.synchronize()
            times.append(begin.elapsed_time(end))
    return round(float(sorted(times)[len(times) // 2]), 4)
