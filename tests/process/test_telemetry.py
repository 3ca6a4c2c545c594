"""What a node tells of itself: the metrics page, and what reads it; logs; traces."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import promql_parser
import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as open_metrics_families,
)
from prometheus_client.parser import text_string_to_metric_families
from ruamel.yaml import YAML

from gslice.telemetry.metrics import FUNCTION_STATES
from tests.collector import Collector, values
from tests.fakes.gpu import FakeGpu
from tests.node import ANY_PORT, WAIT_S, Node
from tests.process.gpu import MPS, numbers, on_gpu

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "configs/deploy"
_PROMETHEUS_OWN = {"instance", "job"}  # labels that it adds


def page_of(node: Node) -> str:
    status, page = node.http(node.status().metrics_address, "/metrics")
    assert status == 200
    return page


def labels_by_series(page: str) -> dict[str, set[str]]:
    """What Prometheus would store: names of series with the names of their labels."""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


# ---- what reads the page -----------------------------------------------------------------------


def expressions() -> dict[str, str]:
    """Every PromQL expression of dashboard, rules and alerts, by where it is."""
    dashboard = json.loads((DEPLOY / "grafana/gslice.json").read_text())
    found = {
        f"panel {panel['title']!r}, {target['refId']}": target["expr"]
        for panel in dashboard["panels"]
        for target in panel.get("targets", [])
    }
    for note in dashboard["annotations"]["list"]:
        found[f"annotation {note['name']!r}"] = note["expr"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            query = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
            assert query, variable
            found[f"variable {variable['name']!r}"] = f"count by ({query[2]}) ({query[1]})"
    found |= {rule.get("alert") or rule["record"]: rule["expr"] for rule in rules()}
    return {
        where: text.replace("$__rate_interval", "5m").replace("$function", ".*")
        for where, text in found.items()
    }


def rules() -> list[Mapping[str, Any]]:
    file = YAML(typ="safe").load((DEPLOY / "prometheus/alerts.yml").read_text())
    assert list(file) == ["groups"]
    names = [group["name"] for group in file["groups"]]
    assert len(names) == len(set(names))
    return [rule for group in file["groups"] for rule in group["rules"]]


def selectors(node: Any) -> Iterator[Any]:
    """The selectors of series below a node of the syntax tree."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
        return
    for part in ("expr", "lhs", "rhs", "param", "vector_selector", "selector"):
        below = getattr(node, part, None)
        if below is not None and not isinstance(below, (str, int, float)):
            yield from selectors(below)
    for below in getattr(node, "args", None) or []:
        yield from selectors(below)


def named(expression: str) -> Iterator[tuple[str, set[str]]]:
    """The series of an expression, with the labels that it chooses them by."""
    for selector in selectors(promql_parser.parse(expression)):
        yield selector.name, {matcher.name for matcher in selector.matchers.matchers}


def documented() -> dict[str, tuple[str, set[str]]]:
    """Type and labels of each series in docs/metrics.md."""
    rows = re.findall(
        r"^\| `((?:gslice|nv)_\w+)` \| (\w+) \| ([\w, ]*) ?\|",
        (ROOT / "docs/metrics.md").read_text(),
        re.MULTILINE,
    )
    assert len(rows) == len({name for name, _, _ in rows})
    return {
        name: (kind, {label.strip() for label in labels.split(",") if label.strip()})
        for name, kind, labels in rows
    }


def families(page: str) -> dict[str, tuple[str, set[str]]]:
    """The same of a page."""
    found = {}
    for family in text_string_to_metric_families(page):
        kind = {"unknown": "untyped"}.get(family.type, family.type)
        name = f"{family.name}_total" if kind == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        found[name] = kind, labels
    return found


def serve(node: Node, *series: str) -> tuple[str, int]:
    """Sends requests until the page has some series, for which the controller has to see traffic.

    Returns:
        The page, and how many requests there were.
    """
    deadline, sent = time.monotonic() + WAIT_S, 0
    with node.client() as client:
        while not labels_by_series(page := page_of(node)).keys() >= set(series):
            assert time.monotonic() < deadline, f"no {series} in {page}"
            for _ in range(5):  # fewer a second than are recorded
                client.infer("f", numbers(1, 2))
            sent += 5
    return page, sent


# ---- a node ------------------------------------------------------------------------------------


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


def test_a_node_tells_of_itself(start_gpu_node, gpu: FakeGpu, collector: Collector) -> None:
    told = {
        "http": ANY_PORT,
        "spares": 1,
        "logs": {"format": "json", "level": "debug", "size": "1MiB", "keep": 2},
        "tracing": {"otlp": collector.url, "sample": 1.0},
    }
    node = start_gpu_node({"f": on_gpu(slo={"p99": "10s"})}, devices=MPS, node=told)
    node.wait_status(lambda status: len(status.spares) == 1)
    page, sent = serve(node, "gslice_demand_ratio", "gslice_demand_per_second")
    check_page(page, gpu, sent)
    check_readers(labels_by_series(page))
    check_traces(collector, sent)
    node.stop()
    check_logs(node.state_dir / "log")


def check_page(page: str, gpu: FakeGpu, sent: int) -> None:
    told, wanted = families(page), documented()
    assert told.keys() == wanted.keys()
    for name, (kind, labels) in wanted.items():
        assert told[name][0] == kind, name
        assert told[name][1] <= labels, name
    value = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }

    def of(name: str, **labels: str) -> float:
        return value[name, frozenset(labels.items())]

    on_device = {"gpu_uuid": gpu.gpus[0].uuid}
    model = {"model": "f", "version": "1", **on_device}
    assert of("nv_inference_request_success", **model) == sent
    assert of("nv_inference_count", **model) == 2 * sent
    assert 0 < of("nv_inference_exec_count", **model) <= sent
    assert of("nv_inference_request_failure", **model, reason="BACKEND") == 0
    total_us = of("nv_inference_request_duration_us", **model)
    stage = {"function": "f", "stage": "total"}
    assert total_us == pytest.approx(of("gslice_request_stage_seconds_sum", **stage) * 1e6)
    assert of("nv_gpu_power_usage", **on_device) == of("gslice_gpu_power_watts", device="cuda:0")
    assert of("nv_gpu_memory_total_bytes", **on_device) == gpu.gpus[0].memory_bytes
    ratio = of("gslice_demand_ratio", device="cuda:0")
    assert 0 < ratio == of("gslice_function_demand_ratio", function="f", device="cuda:0")


def check_readers(series: Mapping[str, set[str]]) -> None:
    """Everything that dashboard and alerts name is in the page, or is recorded."""
    recorded = {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}
    known = dict(series) | {name: {"function"} for name in recorded}
    for where, expression in expressions().items():
        found = list(named(expression))
        assert found, where
        for name, labels in found:
            assert name in known, f"{where}: there is no {name}"
            assert labels <= known[name] | _PROMETHEUS_OWN, f"{where}: {labels} of {name}"


def check_traces(collector: Collector, sent: int) -> None:
    spans = collector.requests(sent)
    assert {each.name for each in spans} == {"infer f"}
    assert all(values(each.attributes)["gslice.code"] == 0 for each in spans)
    assert len({each.trace_id for each in spans}) == sent
    (resource,) = {each["service.instance.id"] for each in collector.resources}
    assert resource


def check_logs(folder: Path) -> None:
    """Each process writes JSON, a line each; what it runs in may print what it likes."""
    lines = {
        name: [json.loads(line) for line in (folder / f"{name}.log").read_text().splitlines()]
        for name in ("daemon", "frontend", "f")
    }
    for name, process in (("daemon", "daemon"), ("frontend", "front-end"), ("f", "worker")):
        assert lines[name], name
        for line in lines[name]:
            assert line["process"] == process
            assert {"time", "level", "pid", "message"} <= line.keys()
    assert any(line.get("kind") == "load" for line in lines["daemon"])
    assert {line.get("function") for line in lines["f"]} <= {"f", None}
    assert any(line.get("function") == "f" for line in lines["f"])


# ---- rules, without a node ---------------------------------------------------------------------


def test_rules_are_whole() -> None:
    headings = re.findall(r"^## (\w+)$", (ROOT / "docs/alerts.md").read_text(), re.MULTILINE)
    alerts = [rule for rule in rules() if "alert" in rule]
    assert [rule["alert"] for rule in alerts] == headings
    for rule in alerts:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"\d+[sm]", rule.get("for", "1m"))
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
        anchor = rule["alert"].lower()
        assert rule["annotations"]["runbook_url"] == f"docs/alerts.md#{anchor}"
        for text in re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]):
            assert text in ("function", "device", "instance")
    for rule in rules():
        promql_parser.parse(rule["expr"])
        assert ("alert" in rule) != ("record" in rule)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="Prometheus is not installed")
def test_prometheus_takes_the_rules() -> None:
    file = DEPLOY / "prometheus/alerts.yml"
    done = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("promtool") is None, reason="Prometheus is not installed")
def test_only_a_function_that_should_serve_is_down(tmp_path: Path) -> None:
    states = {"rests": "cold", "done": "finished", "serves": "ready", "broken": "failed"}
    series = [
        {"series": f"gslice_function_state{{{labels}}}", "values": f"{int(state == now)}x10"}
        for name, now in states.items()
        for state in FUNCTION_STATES
        for labels in [f'instance="n",job="gslice",function="{name}",state="{state}"']
    ]
    alerts = next(rule for rule in rules() if rule.get("alert") == "GsliceFunctionDown")
    annotations = {**alerts["annotations"], "summary": "broken does not serve"}
    labels = {"severity": "warning", "instance": "n", "function": "broken"}
    wanted = {
        "alertname": "GsliceFunctionDown",
        "eval_time": "6m",
        "exp_alerts": [{"exp_labels": labels, "exp_annotations": annotations}],
    }
    tests = [{"interval": "1m", "input_series": series, "alert_rule_test": [wanted]}]
    file = tmp_path / "test.yml"
    names = [str(DEPLOY / "prometheus/alerts.yml")]
    file.write_text(json.dumps({"rule_files": names, "evaluation_interval": "1m", "tests": tests}))
    done = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_is_whole() -> None:
    dashboard = json.loads((DEPLOY / "grafana/gslice.json").read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [tuple(panel["gridPos"][key] for key in "xywh") for panel in panels]
    assert all(x + w <= 24 for x, _, w, _ in places)
    taken = [
        (column, line)
        for x, y, w, h in places
        for column in range(x, x + w)
        for line in range(y, y + h)
    ]
    assert len(taken) == len(set(taken)), "panels overlap"
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    used = {name for text in expressions().values() for name, _ in named(text)}
    assert recorded <= used, "recorded, and read by nobody"


def test_the_page_is_openmetrics_too(start_node, identity) -> None:
    node = start_node({"f": identity}, node={"metrics_triton": False})
    with node.client() as client:
        client.infer("f", numbers(1))
    address = node.status().metrics_address
    asked = urllib.request.Request(
        f"http://{address}/metrics", headers={"Accept": "application/openmetrics-text"}
    )
    with urllib.request.urlopen(asked, timeout=WAIT_S) as answer:
        page = answer.read().decode()
    names = {family.name for family in open_metrics_families(page)}
    assert "gslice_requests" in names
    assert not [name for name in names if name.startswith("nv_")]
