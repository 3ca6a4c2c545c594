from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from gslice._native import Segment, histogram_bounds_us
from gslice.core.access import ShareQuota
from gslice.telemetry.metrics import NodeCollector
from gslice.telemetry.reading import FunctionReading, GpuFigures, NodeReading


def scrape(reading: NodeReading) -> Callable[..., float]:
    registry = CollectorRegistry()
    registry.register(NodeCollector(lambda: reading, histogram_bounds_us()))
    samples = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }

    def value(name: str, **labels: str) -> float:
        return samples[name, frozenset(labels.items())]

    return value


def reading(**changes: object) -> NodeReading:
    segment = Segment.create("f", [(4096, 4)], 4096, 2)
    stats = segment.stats()
    stats["outcome"]["ok"] = 5
    stats["rows"] = 9
    stats["batch_rows"] = np.bincount([1, 1, 3, 128], minlength=129).astype(np.uint64)
    stats["compute_busy_ns"] = 2_500_000_000
    bins = np.zeros(512, np.uint64)
    bounds = histogram_bounds_us()
    for latency_us in (10, 100, 1000):
        bins[np.searchsorted(bounds, latency_us, "right") - 1] += 1
    stats["stage"]["total"] = {"count": 3, "sum_ns": 1_110_000, "bins": bins}
    function = FunctionReading(
        "f",
        "READY",
        stats=stats,
        version_stats=stats,
        slots=segment.counts(),
        share_percent={"requested": 25.0, "granted": 25.0, "effective": 24.0},
        worker_rss_bytes={123: 1 << 20},
        worker_restarts=2,
        version=12,
        kept_versions=1,
        segment_bytes=segment.size_bytes,
        slo_us=500.0,
        slo_kept=2.0,
        demand_per_s=40.0,
        capacity_per_s=90.0,
    )
    return NodeReading("1.2.3", [function, FunctionReading("resting", "COLD")], 1, 3, **changes)


def test_figures_of_the_node_and_its_functions() -> None:
    value = scrape(reading())
    assert value("gslice_build_info", version="1.2.3") == 1
    assert value("gslice_frontend_restarts_total") == 3
    assert value("gslice_function_state", function="f", state="ready") == 1
    assert value("gslice_function_state", function="f", state="cold") == 0
    assert value("gslice_function_state", function="resting", state="cold") == 1
    assert value("gslice_function_state", function="resting", state="failed") == 0
    assert value("gslice_function_version", function="f") == 12
    assert value("gslice_kept_versions", function="f") == 1
    assert value("gslice_requests_total", function="f", outcome="ok") == 5
    assert value("gslice_slots", function="f", state="free") == 4
    assert value("gslice_queue_length", function="f") == 0
    assert value("gslice_share_percent", function="f", kind="effective") == 24
    assert value("gslice_worker_rss_bytes", function="f", pid="123") == 1 << 20
    assert value("gslice_worker_restarts_total", function="f") == 2
    assert value("gslice_compute_busy_seconds_total", function="f") == 2.5


def test_how_a_promise_is_kept() -> None:
    value = scrape(reading())
    assert value("gslice_slo_seconds", function="f") == pytest.approx(0.0005)
    assert value("gslice_slo_kept_total", function="f") == 2
    assert value("gslice_demand_per_second", function="f") == 40
    assert value("gslice_capacity_per_second", function="f") == 90
    with pytest.raises(KeyError):
        value("gslice_slo_seconds", function="resting")


def test_events_are_counted_by_kind() -> None:
    value = scrape(reading(events={"crash": 2, "fault": 0}))
    assert value("gslice_events_total", kind="crash") == 2
    assert value("gslice_events_total", kind="fault") == 0


def test_what_is_needed_of_devices() -> None:
    ratios = {("f", "cuda:0"): 0.5, ("g", "cuda:0"): 0.75, ("f", "cuda:1"): 0.1}
    value = scrape(reading(demand_ratio=ratios, client_memory_bytes=[4096, 8192]))
    assert value("gslice_demand_ratio", device="cuda:0") == 1.25
    assert value("gslice_function_demand_ratio", function="g", device="cuda:0") == 0.75
    assert value("gslice_client_memory_regions") == 2
    assert value("gslice_client_memory_bytes") == 12288


def test_the_same_under_tritons_names() -> None:
    gpu = GpuFigures(
        "cuda:0", True, 132, 1 << 30, 1 << 20, 40.0, 250.0, 50.0, 0, 0, "GPU-1", 700, 9
    )
    unknown = GpuFigures("cuda:1", False, 0, 0, 0, 0.0, 0.0, 0.0, 0)
    value = scrape(reading(gpus=[gpu, unknown]))
    model = {"model": "f", "version": "12"}
    assert value("nv_inference_request_success", **model) == 5
    assert value("nv_inference_count", **model) == 9
    assert value("nv_inference_request_duration_us", **model) == pytest.approx(1110)
    assert value("nv_inference_request_failure", **model, reason="REJECTED") == 0
    assert value("nv_inference_pending_request_count", **model) == 0
    assert value("nv_gpu_utilization", gpu_uuid="GPU-1") == pytest.approx(0.4)
    assert value("nv_energy_consumption", gpu_uuid="GPU-1") == 9
    with pytest.raises(KeyError):
        value("nv_gpu_utilization", gpu_uuid="")


def test_histograms_are_cumulative_and_end_at_the_count() -> None:
    value = scrape(reading())
    rows = {le: value("gslice_batch_rows_bucket", function="f", le=le) for le in ("1.0", "4.0")}
    assert rows == {"1.0": 2, "4.0": 3}
    assert value("gslice_batch_rows_bucket", function="f", le="+Inf") == 4
    assert value("gslice_batch_rows_sum", function="f") == 9
    total = {"function": "f", "stage": "total"}
    bounds = [2.0**power / 1e6 for power in range(5, 25)]
    buckets = [
        value("gslice_request_stage_seconds_bucket", le=str(bound), **total) for bound in bounds
    ]
    assert buckets == sorted(buckets)
    assert buckets[0] == 1  # 10 us
    assert buckets[bounds.index(0.000128)] == 2  # and 100 us
    assert value("gslice_request_stage_seconds_count", **total) == 3
    assert value("gslice_request_stage_seconds_sum", **total) == pytest.approx(0.00111)


def test_what_tenants_have_and_may_have() -> None:
    value = scrape(reading(tenants={ShareQuota("shop", 150.0): 40.0}))
    assert value("gslice_tenant_share_percent", tenant="shop", kind="granted") == 40
    assert value("gslice_tenant_share_percent", tenant="shop", kind="quota") == 150
