from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gslice.core.config import (
    ClientMemoryConfig,
    DeviceConfig,
    check_state_dir,
    config_for_model,
    config_to_yaml,
    default_state_dir,
    format_cores,
    function_from_yaml,
    json_schema,
    load_config,
    parse_cores,
    state_dir_of,
)
from gslice.core.config.body import function_to_yaml
from gslice.core.config.load import load_config_text
from gslice.core.config.types import LogConfig
from gslice.core.errors import ConfigError, InvalidArgument
from gslice.core.logs import LogStyle
from gslice.core.tracing import EXPORTER, Tracing
from gslice.core.types import FunctionSpec, ShareBounds
from tests.unit.conftest import load


def problems(path: Path, text: str, **environ: str) -> list[str]:
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path, **environ)
    return [line.replace(f"{path.parent}/", "") for line in caught.value.message.splitlines()]


# ---- what a good file says -------------------------------------------------------------------


def test_the_file_of_the_design(node_yaml: Path) -> None:
    config = load(node_yaml)
    assert config.path == node_yaml
    assert config.node.grpc == "127.0.0.1:9001"
    assert config.node.state_dir == node_yaml.parent / "state"
    assert config.node.orphan_grace_us == 60_000_000
    assert config.devices == {
        "cpu": DeviceConfig("cpu", "none", 80.0, 60 * 2**30, tuple(sorted(os.sched_getaffinity(0))))
    }
    assert config.functions["detector"] == FunctionSpec(
        name="detector",
        model=str(node_yaml.parent / "detector.onnx"),
        priority="high",
        slo_p99_us=30_000,
        batch_max=16,
        queue_max=128,
        warmup=str(node_yaml.parent / "samples/detector.npz"),
    )
    assert config.functions["tagger"] == FunctionSpec(
        name="tagger",
        engine="python",
        python="my_pkg.tagger:Tagger",
        python_path=str(node_yaml.parent),
        args={"threshold": 0.4},
        share=ShareBounds(10.0, 10.0, auto=False),
        slo_p99_us=50_000,
        batch_max=16,
    )


def test_configuration_is_frozen(node_yaml: Path) -> None:
    config = load(node_yaml)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.node.grpc = "x"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("share", "bounds"),
    [
        ("auto", ShareBounds(1.0, 100.0, auto=True)),
        ("40%", ShareBounds(40.0, 40.0, auto=False)),
        ("{min: 20%, max: 60%}", ShareBounds(20.0, 60.0, auto=True)),
        ("{min: 20%}", ShareBounds(20.0, 100.0, auto=True)),
        ("{min: 30%, max: 30%}", ShareBounds(30.0, 30.0, auto=False)),
    ],
)
def test_shares(share: str, bounds: ShareBounds) -> None:
    assert function_from_yaml("f", f"{{model: m.onnx, share: {share}}}", Path("/")).share == bounds


def test_a_python_file_beside_the_file(tmp_path: Path) -> None:
    spec = function_from_yaml("f", "python: src/tagger.py:Tagger", tmp_path)
    assert (spec.python, spec.python_path) == ("tagger:Tagger", str(tmp_path / "src"))


def test_torch_serves_exported_programs_and_modules_of_a_factory(tmp_path: Path) -> None:
    exported = function_from_yaml("f", "model: m.pt2\nprecision: fp16", tmp_path)
    assert (exported.engine, exported.model) == ("torch", str(tmp_path / "m.pt2"))
    assert exported.precision == "fp16"
    made = function_from_yaml("f", "torch: src/nets.py:make\nargs: {layers: 4}", tmp_path)
    assert (made.engine, made.model, made.python) == ("torch", "", "nets:make")
    assert (made.python_path, made.args) == (str(tmp_path / "src"), {"layers": 4})


@pytest.mark.parametrize(
    ("text", "engine"),
    [
        ("model: m.onnx", "onnxruntime"),
        ("model: m.pt2", "torch"),
        ("model: m.plan", "tensorrt"),
        ("model: m.engine", "tensorrt"),
        ("{model: m.onnx, engine: tensorrt}", "tensorrt"),
        ("{model: m.plan, engine: tensorrt_rtx}", "tensorrt_rtx"),
        ("{model: m.onnx, engine: auto}", "onnxruntime"),
    ],
)
def test_the_file_or_what_is_written_says_what_runs_a_model(text: str, engine: str) -> None:
    spec = function_from_yaml("f", text, Path("/"))
    assert (spec.engine, spec.args) == (engine, {})


def test_lengths_for_tensorrt() -> None:
    shapes = {"ids": {"min": [-1, 16], "opt": [-1, 128], "max": [-1, 512]}}
    text = f"{{model: m.onnx, engine: tensorrt, shapes: {shapes}}}"
    spec = function_from_yaml("f", text, Path("/"))
    assert spec.args == {"shapes": shapes}


def test_identity_outputs_mirror_its_inputs() -> None:
    tensor = {"name": "X", "dtype": "FP32", "dims": [-1, 4]}
    spec = function_from_yaml("f", json.dumps({"identity": {"inputs": [tensor]}}), Path("/"))
    assert spec.engine == "identity"
    assert spec.args == {"inputs": [tensor], "outputs": [tensor]}


def test_identity_in_place() -> None:
    tensors = {"inputs": [{"name": "X", "dtype": "FP32", "dims": [-1]}], "in_place": True}
    spec = function_from_yaml("f", json.dumps({"identity": tensors}), Path("/"))
    assert spec.args["in_place"] is True
    assert function_from_yaml("f", function_to_yaml(spec), Path("/")) == spec


def test_empty_sections_mean_their_defaults(tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_text("version: 1\nnode:\nfunctions:\n  # none yet\n")
    assert load(path).functions == {}


def test_residency_comes_from_the_defaults_key_by_key(tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_text(
        "version: 1\nnode: {state_dir: ./s}\ndefaults: {residency: cold, idle_after: 5s}\n"
        "functions:\n  a: {model: a.onnx}\n  b: {model: b.onnx, residency: pinned}\n"
        "  c: {model: c.onnx, residency: cold, idle_after: 10m}\n"
    )
    found = load(path).functions.values()
    assert [(f.residency, f.idle_after_us) for f in found] == [
        ("cold", 5_000_000),
        ("pinned", 5_000_000),
        ("cold", 600_000_000),
    ]
    path.write_text("version: 1\nnode: {state_dir: ./s}\nfunctions: {a: {model: a.onnx}}\n")
    (usual,) = load(path).functions.values()
    assert (usual.residency, usual.idle_after_us) == ("warm", 600_000_000)


def test_a_function_overrides_the_defaults_key_by_key(tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_text(
        "version: 1\ndefaults: {slo: {p99: 50ms}, queue: {max: 7, request_max: 1MiB}}\n"
        "functions: {f: {model: m, queue: {max: 9}, slo: {p99: none}}}\n"
    )
    spec = load(path).functions["f"]
    assert (spec.queue_max, spec.request_max_bytes, spec.slo_p99_us) == (9, 2**20, 0)


def test_merge_keys_and_aliases(tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_text(
        "version: 1\nfunctions:\n  a: &a {model: m.onnx, share: 40%}\n  b: {<<: *a, lanes: 1}\n"
    )
    functions = load(path).functions
    assert functions["b"] == dataclasses.replace(functions["a"], name="b", lanes=1)


def test_without_a_file(tmp_path: Path) -> None:
    config = load_config(None, environ={"XDG_STATE_HOME": str(tmp_path)})
    assert config.path is None
    assert config.functions == {}
    assert config.node.grpc == "127.0.0.1:8001"
    assert config.node.state_dir == tmp_path / "gslice"
    assert list(config.devices) == ["cpu"]


# ---- the state directory ---------------------------------------------------------------------


def test_a_state_dir_too_long_for_its_sockets(tmp_path: Path) -> None:
    long = "x" * 90
    (line,) = problems(tmp_path / "node.yaml", f"version: 1\nnode:\n  state_dir: /tmp/{long}\n")
    assert line.startswith("node.yaml:3: node.state_dir:")
    assert "Unix sockets; choose a shorter directory" in line


def test_the_longest_state_dir_leaves_room_for_the_longest_socket() -> None:
    longest = next(n for n in range(1, 200) if _is_too_long(n)) - 1
    assert longest + len("/run/w-0123456789ab.sock") == 107


def _is_too_long(length: int) -> bool:
    try:
        check_state_dir(Path("/" + "x" * (length - 1)))
    except InvalidArgument:
        return True
    return False


def test_where_state_belongs(tmp_path: Path) -> None:
    assert default_state_dir({"GSLICE_STATE_DIR": "/a/b", "XDG_STATE_HOME": "/c"}) == Path("/a/b")
    assert default_state_dir({"XDG_STATE_HOME": "/c"}) == Path("/c/gslice")
    assert default_state_dir({}) == Path.home() / ".local/state/gslice"


def test_the_state_dir_of_a_file_that_is_being_edited(tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_text("version: 1\nnode: {state_dir: s}\nfunctions: {f: {modl: 1}}\n")
    assert state_dir_of(path, {}) == tmp_path / "s"
    assert state_dir_of(path, {"GSLICE_NODE__STATE_DIR": "/e"}) == Path("/e")


# ---- overrides -------------------------------------------------------------------------------


def test_memory_of_clients(node_yaml: Path) -> None:
    assert load(node_yaml).node.client_memory is None
    config = load(node_yaml, GSLICE_NODE__CLIENT_MEMORY="{prefix: /mine-}")
    assert config.node.client_memory == ClientMemoryConfig("/mine-", 1 << 30, os.geteuid())
    assert "client_memory: {prefix: /mine-, max: 1GiB" in config_to_yaml(config)
    for owner, uid in (("root", 0), ("12345", 12345)):
        text = f"{{prefix: /mine-, max: 64MiB, owner: {owner}}}"
        config = load(node_yaml, GSLICE_NODE__CLIENT_MEMORY=text)
        assert config.node.client_memory == ClientMemoryConfig("/mine-", 64 << 20, uid)


def test_what_a_node_tells_of_itself(node_yaml: Path) -> None:
    node = load(node_yaml).node
    assert (node.metrics_triton, node.logs, node.tracing) == (True, LogConfig(), None)
    config = load(
        node_yaml,
        GSLICE_NODE__METRICS_TRITON="false",
        GSLICE_NODE__LOGS="{format: json, level: debug, size: 1MiB, keep: 3}",
        GSLICE_NODE__TRACING="{otlp: 'http://collector:4317', sample: 1}",
    )
    assert not config.node.metrics_triton
    assert config.node.logs == LogConfig(LogStyle("json", "debug"), 1 << 20, 3)
    assert config.node.tracing == Tracing("http://collector:4317", 1.0)
    shown = config_to_yaml(config)
    assert "logs: {format: json, level: debug, size: 1MiB, keep: 3}" in shown
    assert "tracing: {otlp: http://collector:4317, sample: 1.0}" in shown


def test_traces_need_opentelemetry(node_yaml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec

    def without(name: str) -> object:
        return None if name == EXPORTER else find(name)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    with pytest.raises(ConfigError, match=r"node.tracing: .*pip install 'gslice\[otel\]'"):
        load(node_yaml, GSLICE_NODE__TRACING="{otlp: 'http://collector:4317'}")


@pytest.mark.parametrize(("text", "spares"), [("auto", None), ("0", 0), ("3", 3)])
def test_how_many_spares(node_yaml: Path, text: str, spares: int | None) -> None:
    config = load(node_yaml, GSLICE_NODE__SPARES=text)
    assert config.node.spares == spares
    assert f"spares: {text}" in config_to_yaml(config)
    assert load(node_yaml).node.spares is None


# ---- one model, no file ----------------------------------------------------------------------


def test_a_model_without_yaml(tmp_path: Path) -> None:
    config = config_for_model(tmp_path / "my model.onnx", environ={"GSLICE_STATE_DIR": "/s"})
    assert config.path is None
    assert config.functions == {
        "my-model": FunctionSpec("my-model", model=str(tmp_path / "my model.onnx"))
    }


def test_a_model_with_settings(tmp_path: Path) -> None:
    config = config_for_model(
        tmp_path / "m.onnx", name="x", settings={"share": "40%", "slo": {"p99": "5ms"}}, environ={}
    )
    assert config.functions["x"].share == ShareBounds(40.0, 40.0, auto=False)
    assert config.functions["x"].slo_p99_us == 5000
    with pytest.raises(ConfigError, match=r"command line: functions.m.share: '0.4' has no percent"):
        config_for_model(tmp_path / "m.onnx", settings={"share": "0.4"}, environ={})


# ---- schema and cores ------------------------------------------------------------------------


def test_the_schema_names_every_setting() -> None:
    schema = json_schema()
    definitions = schema["$defs"]
    assert set(schema["properties"]) == {"version", "node", "devices", "defaults", "functions"}
    assert "share" in definitions["Function"]["properties"]
    assert definitions["Function"]["additionalProperties"] is False
    json.dumps(schema)


@given(st.sets(st.integers(0, 4095), min_size=1))
def test_cores_survive_the_round_trip(cores: set[int]) -> None:
    assert parse_cores(format_cores(cores)) == sorted(cores)


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "3-1", "1,,2", "99999", "²"])
def test_what_is_no_list_of_cores(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_cores(text)


def test_the_example_is_good_and_says_what_is_default() -> None:
    path = Path(__file__).parents[2] / "configs/node.yaml"
    config = load_config(path, environ={})
    assert set(config.functions) == {"detector", "tagger", "ranker", "notebook", "echo"}
    # What it shows commented out under `node` is what holds without it.
    node, rest = path.read_text().split("\ndevices:")
    written = re.sub(r"^  # ([a-z_]+: )", r"  \1", node, flags=re.MULTILINE)
    assert written.count("\n  request_max: 64MiB") == 1
    assert load_config_text(f"{written}\ndevices:{rest}", path).node == config.node
