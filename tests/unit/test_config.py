from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gslice.core.config import (
    DeviceConfig,
    Override,
    check_state_dir,
    config_for_model,
    config_to_yaml,
    default_state_dir,
    diff_functions,
    format_cores,
    function_from_yaml,
    function_to_yaml,
    json_schema,
    load_config,
    parse_cores,
    save_functions,
    state_dir_of,
)
from gslice.core.errors import ConfigError, InvalidArgument, NotFound
from gslice.core.types import FunctionSpec, ShareBounds

NODE = """\
version: 1
node: {grpc: 127.0.0.1:9001, http: 127.0.0.1:9000, metrics: 127.0.0.1:9002, state_dir: ./state}
devices: {cpu: {limiter: none, limits: {share: 80%, memory: 60GiB}}}     # default: auto
defaults: {slo: {p99: 50ms}, batch: {max: 16, delay: auto}}
functions:
  detector: {model: ./detector.onnx, slo: {p99: 30ms}, share: auto, priority: high,
             queue: {max: 128}, warmup: samples/detector.npz}
  # labels pictures
  tagger: {python: my_pkg.tagger:Tagger, args: {threshold: 0.4}, share: 10%}  # fixed
"""


@pytest.fixture
def node_yaml(tmp_path: Path) -> Path:
    path = tmp_path / "node.yaml"
    path.write_text(NODE)
    return path


def load(path: Path, **environ: str):
    return load_config(path, environ=environ)


def problems(path: Path, text: str, **environ: str) -> list[str]:
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path, **environ)
    return [line.replace(f"{path.parent}/", "") for line in caught.value.message.splitlines()]


# ---- what a good file says ---------------------------------------------------------------------


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


def test_identity_outputs_mirror_its_inputs() -> None:
    tensor = {"name": "X", "dtype": "FP32", "dims": [-1, 4]}
    spec = function_from_yaml("f", json.dumps({"identity": {"inputs": [tensor]}}), Path("/"))
    assert spec.engine == "identity"
    assert spec.args == {"inputs": [tensor], "outputs": [tensor]}


def test_empty_sections_mean_their_defaults(tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_text("version: 1\nnode:\nfunctions:\n  # none yet\n")
    assert load(path).functions == {}


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


# ---- what a wrong file is told -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "version: 1\nfunctions:\n  detektor:\n    model: a.onnx\n    shar: 40%\n",
            "node.yaml:5: functions.detektor.shar: unknown key; did you mean 'share'?",
        ),
        ("version: 1\nnod: {}\n", "node.yaml:2: nod: unknown key; did you mean 'node'?"),
        (
            "version: 1\nnode: {zzzz: 1}\n",
            "node.yaml:2: node.zzzz: unknown key; there is grpc, http, metrics, state_dir,"
            " orphan_grace, hang_timeout, drain_timeout, pinned_memory, frontends, request_max",
        ),
        ("node: {}\n", "node.yaml:1: version: required, but not given; write `version: 1`"),
        ("version: 2\n", "node.yaml:1: version: 2 is not one of 1"),
        (
            "version: 1\nnode:\n  orphan_grace: 5\n",
            "node.yaml:3: node.orphan_grace: '5' has no unit; write it as 30ms",
        ),
        (
            "version: 1\nnode:\n  grpc: 8001\n",
            "node.yaml:3: node.grpc: 8001 is not an address; write host:port, as in 127.0.0.1:8001",
        ),
        (
            "version: 1\nnode:\n  grpc: 127.0.0.1:99999\n",
            "node.yaml:3: node.grpc: '127.0.0.1:99999' is not an address; write host:port,"
            " as in 127.0.0.1:8001",
        ),
        (
            "version: 1\nnode: {grpc: 127.0.0.1:1, http: 127.0.0.1:1}\n",
            "node.yaml:2: node.http: 127.0.0.1:1 is node.grpc already; use another port",
        ),
        (
            "version: 1\nnode: {frontends: 0}\n",
            "node.yaml:2: node.frontends: must be at least 1, not 0",
        ),
        (
            "version: 1\nfunctions: {f: {model: m, share: 40}}\n",
            "node.yaml:2: functions.f.share: '40' has no percent sign; write it as 40%;"
            " a share is auto, 40% or {min: 20%, max: 60%}",
        ),
        (
            "version: 1\nfunctions: {f: {model: m, share: {min: 50%, max: 20%}}}\n",
            "node.yaml:2: functions.f.share: min is above max",
        ),
        (
            "version: 1\nfunctions: {f: {model: m, share: {mni: 50%}}}\n",
            "node.yaml:2: functions.f.share.mni: unknown key; did you mean 'min'?",
        ),
        (
            "version: 1\nfunctions: {f: {model: m, priority: urgent}}\n",
            "node.yaml:2: functions.f.priority: 'urgent' is not one of 'low', 'normal' or 'high'",
        ),
        (
            "version: 1\nfunctions: {f: {model: m, batch: 7}}\n",
            "node.yaml:2: functions.f.batch: must be a mapping, as in {key: value}, not 7",
        ),
        (
            "version: 1\nfunctions: {f: {model: m, side_effects: 1}}\n",
            "node.yaml:2: functions.f.side_effects: must be true or false, not 1",
        ),
        (
            "version: 1\nfunctions: {f: {model: m, lanes: two}}\n",
            "node.yaml:2: functions.f.lanes: must be a whole number, not 'two'",
        ),
        (
            "version: 1\nfunctions: {f: {model: m, python: a:B}}\n",
            "node.yaml:2: functions.f: model and python exclude each other; keep one",
        ),
        (
            "version: 1\nfunctions: {f: {share: auto}}\n",
            "node.yaml:2: functions.f: says nothing to serve; add one of model, python, identity",
        ),
        (
            "version: 1\nfunctions: {f: {model: }}\n",
            "node.yaml:2: functions.f: says nothing to serve; add one of model, python, identity",
        ),
        (
            "version: 1\nfunctions: {f: {python: tagger}}\n",
            "node.yaml:2: functions.f: python: 'tagger' must be module:Class, as in tagger:Tagger",
        ),
        (
            "version: 1\nfunctions: {f: {model: m, environment: {A: true}}}\n",
            "node.yaml:2: functions.f.environment: A must be text; put it in quotes, as in A: '1'",
        ),
        (
            "version: 1\nfunctions: {a/b: {model: m}}\n",
            "node.yaml:2: functions.a/b: 'a/b' cannot be a function's name; use up to 64 letters,"
            " digits, '.', '_' and '-'",
        ),
        (
            "version: 1\nfunctions: {f: {model: m, device: cpi}}\n",
            "node.yaml:2: functions.f.device: 'cpi' is not a device of this node;"
            " did you mean 'cpu'?",
        ),
        (
            "version: 1\nfunctions: {f: {model: m, queue: {request_max: 1GiB}}}\n",
            "node.yaml:2: functions.f.queue.request_max: 1GiB is more than node.request_max,"
            " 64MiB; raise that too",
        ),
        (
            "version: 1\nfunctions:\n  f: {identity: {inputs: [{name: X, dtype: F32, dims: [1]}]}}\n",
            "node.yaml:3: functions.f.identity.inputs.0: 'F32' is not a data type; use BOOL, UINT8,"
            " UINT16, UINT32, UINT64, INT8, INT16, INT32, INT64, FP16, BF16, FP32, FP64, BYTES",
        ),
        (
            "version: 1\ndevices: {cuda:0: {limiter: mps}}\n",
            "node.yaml:2: devices.cuda:0: this build of gslice has no CUDA path yet;"
            " use cpu, or cpu:0-1",
        ),
        (
            "version: 1\ndevices: {cpu: {limiter: mps}}\n",
            "node.yaml:2: devices.cpu.limiter: 'mps' limits GPUs; a CPU device takes auto, cgroup,"
            " threads or none",
        ),
        (
            "version: 1\ndevices: {cpu:5-2: {}}\n",
            "node.yaml:2: devices.cpu:5-2: '5-2' is not a range of cores; write it as 0-3",
        ),
        (
            "version: 1\ndevices: {gpu: {}}\n",
            "node.yaml:2: devices.gpu: is not a device; write cpu, cpu:0-1 or cuda:0",
        ),
        ("version: 1\nversion: 1\n", "node.yaml:2: version: given twice; keep one"),
        ("a:\n\t- b\n", "node.yaml:2: a tab in the indentation; YAML takes spaces only"),
        ("- 1\n", "node.yaml:1: the file must be a mapping of keys to values"),
        ("a: *b\n", "node.yaml:1: not valid YAML: found undefined alias 'b'"),
    ],
)
def test_one_problem_is_one_line(tmp_path: Path, text: str, told: str) -> None:
    assert problems(tmp_path / "node.yaml", text) == [told]


def test_all_problems_of_a_file_come_together_in_its_order(tmp_path: Path) -> None:
    text = """\
version: 1
node: {grpcc: 127.0.0.1:1, http: 1}
functions:
  a: {model: m, shar: 40%, device: gpu}
  b: {}
  c: {model: m, queue: {request_max: 1GiB, max: lots}}
  d: {model: m, device: cpi}
"""
    assert [line.split(" ")[0:2] for line in problems(tmp_path / "node.yaml", text)] == [
        ["node.yaml:2:", "node.http:"],
        ["node.yaml:2:", "node.grpcc:"],
        ["node.yaml:4:", "functions.a.shar:"],
        ["node.yaml:4:", "functions.a.device:"],
        ["node.yaml:5:", "functions.b:"],
        ["node.yaml:6:", "functions.c.queue.max:"],
        ["node.yaml:7:", "functions.d.device:"],
    ]


def test_cores_that_are_not_there(tmp_path: Path) -> None:
    (line,) = problems(tmp_path / "node.yaml", "version: 1\ndevices: {cpu:0-4000: {}}\n")
    assert "is not among this process's cores" in line


def test_cores_belong_to_one_device(tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    text = f"version: 1\ndevices: {{cpu:{core}: {{}}, cpu: {{cpus: [{core}]}}}}\n"
    (line,) = problems(tmp_path / "node.yaml", text)
    assert line.endswith(f"devices.cpu: core {core} belongs to cpu:{core} already")


@pytest.mark.parametrize("text", ["[" * 5000, "a: " + "{b: " * 100 + "1" + "}" * 100])
def test_endless_nesting_is_refused(tmp_path: Path, text: str) -> None:
    (line,) = problems(tmp_path / "node.yaml", text)
    assert "nested more than" in line


def test_a_file_that_swells_is_refused(tmp_path: Path) -> None:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    (line,) = problems(tmp_path / "node.yaml", "\n".join(rows))
    assert "more than 100000 values" in line


@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=80) | st.text(alphabet="{}[]:,&*!|>-# \n\tab1%", max_size=60))
def test_any_text_is_good_or_told_to_be_wrong(tmp_path_factory, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        function_from_yaml("f", text, Path("/"))
    assert all(line.startswith("f:") for line in caught.value.message.splitlines())


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(NotFound) as caught:
        load(tmp_path / "node.yaml")
    assert "No such file" in caught.value.message
    assert "gslice init" in caught.value.hint


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8 text"):
        load(path)


# ---- the state directory -----------------------------------------------------------------------


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


# ---- overrides ---------------------------------------------------------------------------------


def test_the_environment_overrides_the_file(node_yaml: Path) -> None:
    config = load(
        node_yaml,
        GSLICE_NODE__GRPC="1.2.3.4:5",
        GSLICE_NODE__FRONTENDS="2",
        GSLICE_DEVICES__CPU__LIMITS__SHARE="50%",
        GSLICE_DEFAULTS__BATCH__MAX="4",
        GSLICE_FUNCTIONS__DETECTOR__SHARE="{min: 5%, max: 10%}",
        GSLICE_FUNCTIONS__TAGGER__ARGS__THRESHOLD="0.9",
        GSLICE_FUNCTIONS__TAGGER__ENVIRONMENT__OMP_NUM_THREADS="1",
        GSLICE_STATE_DIR="/ignored",
        UNRELATED__X="1",
    )
    assert config.node.grpc == "1.2.3.4:5"
    assert config.node.frontends == 2
    assert config.devices["cpu"].share_limit_percent == 50.0
    assert config.functions["detector"].share == ShareBounds(5.0, 10.0, auto=True)
    assert config.functions["detector"].batch_max == 4
    assert config.functions["tagger"].args == {"threshold": 0.9}
    assert config.functions["tagger"].environment == {"OMP_NUM_THREADS": "1"}


def test_names_with_other_characters_are_reached_with_underscores(tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_text("version: 1\nfunctions: {my-model.v2: {model: m}}\n")
    config = load(path, GSLICE_FUNCTIONS__MY_MODEL_V2__SHARE="5%")
    assert config.functions["my-model.v2"].share.max_percent == 5.0


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("GSLICE_NODE__GRPCC", "x", "node.grpcc: unknown key; did you mean 'grpc'?"),
        ("GSLICE_NODE__FRONTENDS", "x", "node.frontends: must be a whole number, not 'x'"),
        ("GSLICE_NOD__GRPC", "x", "no such setting; did you mean 'node'?"),
        (
            "GSLICE_FUNCTIONS__DETECTR__SHARE",
            "1%",
            "no function 'detectr' in the file; did you mean 'detector'?",
        ),
        ("GSLICE_NODE__", "x", "not a setting; write it as GSLICE_NODE__GRPC"),
        ("GSLICE_NODE__GRPC", "{", "'{' is not valid YAML"),
    ],
)
def test_a_wrong_variable_is_named(node_yaml: Path, variable: str, value: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(node_yaml, **{variable: value})
    assert caught.value.message == f"{variable}: {told}"


def test_two_functions_under_one_variable(tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_text("version: 1\nfunctions: {a-b: {model: m}, a.b: {model: m}}\n")
    with pytest.raises(ConfigError, match=r"A_B could be a-b or a\.b; set it in the file"):
        load(path, GSLICE_FUNCTIONS__A_B__SHARE="5%")


def test_options_win_over_the_environment_and_are_named(node_yaml: Path) -> None:
    option = Override(("node", "grpc"), "5.6.7.8:9", "--grpc")
    config = load_config(node_yaml, overrides=[option], environ={"GSLICE_NODE__GRPC": "a:1"})
    assert config.node.grpc == "5.6.7.8:9"
    with pytest.raises(ConfigError) as caught:
        load_config(node_yaml, overrides=[dataclasses.replace(option, value="x")], environ={})
    assert caught.value.message.startswith("--grpc: node.grpc: 'x' is not an address")


# ---- one model, no file ------------------------------------------------------------------------


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


# ---- the way back ------------------------------------------------------------------------------

shares = st.one_of(
    st.just(ShareBounds()),
    st.floats(0.5, 100).map(lambda p: ShareBounds(p, p, auto=False)),
    st.tuples(st.floats(0.5, 50), st.floats(51, 100)).map(lambda b: ShareBounds(*b, auto=True)),
)
specs = st.builds(
    FunctionSpec,
    name=st.just("f"),
    version=st.integers(1, 99).map(str),
    model=st.sampled_from(["/base/m.onnx", "/base/sub dir/m: x.onnx", "/else/#1.onnx"]),
    share=shares,
    instances=st.integers(1, 64),
    priority=st.sampled_from(["low", "normal", "high"]),
    slo_p99_us=st.integers(0, 10**9),
    batch_max=st.integers(0, 65_536),
    delay_us=st.integers(-1, 10**6),
    queue_max=st.integers(1, 65_536),
    request_max_bytes=st.integers(0, 64 << 20),
    warmup=st.sampled_from(["", "/base/w.npz"]),
    side_effects=st.booleans(),
    threads=st.integers(0, 64),
    lanes=st.integers(1, 8),
    environment=st.dictionaries(
        st.sampled_from(["A", "_B2", "yes"]), st.text(st.characters(codec="ascii"), max_size=8)
    ),
)


@settings(deadline=None, max_examples=60)
@given(specs, st.sampled_from([None, Path("/base")]))
def test_a_function_survives_the_round_trip(spec: FunctionSpec, base: Path | None) -> None:
    text = function_to_yaml(spec, base)
    assert function_from_yaml("f", text, base or Path("/")) == spec


def test_a_python_function_survives_the_round_trip() -> None:
    spec = FunctionSpec(
        "f",
        engine="python",
        python="a:B",
        python_path="/p",
        args={"x": [1, {"y": "0.5"}], "n": None},
    )
    assert function_from_yaml("f", function_to_yaml(spec), Path("/else")) == spec
    assert "python_path" not in function_to_yaml(spec, Path("/p"))


def test_a_configuration_shows_itself_as_a_file_of_the_same_meaning(node_yaml: Path) -> None:
    config = load(node_yaml)
    again = node_yaml.with_name("again.yaml")
    again.write_text(config_to_yaml(config))
    assert dataclasses.replace(load(again), path=config.path) == config


def test_the_text_holds_only_what_is_not_default() -> None:
    assert function_to_yaml(FunctionSpec("f", model="/m.onnx")) == "model: /m.onnx"


def test_differences_name_their_settings(node_yaml: Path) -> None:
    file = load(node_yaml).functions
    running = {
        "detector": dataclasses.replace(
            file["detector"], share=ShareBounds(40.0, 40.0, auto=False), slo_p99_us=0
        ),
        "new": FunctionSpec("new", model="/m.onnx"),
    }
    changes = diff_functions(file, running, node_yaml.parent)
    assert [(c.path, c.file_value, c.running_value) for c in changes] == [
        ("functions.detector.share", "auto", "40%"),
        ("functions.detector.slo.p99", "30ms", "none"),
        ("functions.new", "", "model: /m.onnx"),
        (
            "functions.tagger",
            "python: my_pkg.tagger:Tagger\nargs: {threshold: 0.4}\nshare: 10%\nslo: {p99: 50ms}\n"
            "batch: {max: 16}",
            "",
        ),
    ]


# ---- saving ------------------------------------------------------------------------------------


def test_saving_keeps_comments_and_everything_else(node_yaml: Path) -> None:
    tagger = load(node_yaml).functions["tagger"]
    changed = dataclasses.replace(tagger, share=ShareBounds(20.0, 20.0, auto=False))
    save_functions(node_yaml, {"tagger": changed})
    assert node_yaml.read_text() == NODE.replace("share: 10%}  # fixed", "share: 20%}  # fixed")


def test_saving_what_the_file_says_changes_nothing(node_yaml: Path) -> None:
    before = node_yaml.stat()
    save_functions(node_yaml, load(node_yaml).functions)
    assert node_yaml.read_text() == NODE
    assert node_yaml.stat().st_ino == before.st_ino


def test_removing_a_function_takes_its_comment_along(node_yaml: Path) -> None:
    save_functions(node_yaml, {"tagger": None})
    assert node_yaml.read_text() == NODE[: NODE.index("  # labels pictures")]


def test_what_was_saved_reads_back(node_yaml: Path) -> None:
    file = load(node_yaml).functions
    wanted = {
        # Without the file's own defaults, which the saved text must overrule.
        "new": FunctionSpec("new", model=str(node_yaml.parent / "new.onnx")),
        "tagger": dataclasses.replace(file["tagger"], slo_p99_us=0, args={"other": [1]}, lanes=1),
    }
    save_functions(node_yaml, {**wanted, "detector": None})
    assert load(node_yaml).functions == wanted
    assert "model: ./new.onnx" in node_yaml.read_text()
    assert "# fixed" in node_yaml.read_text()


def test_saving_keeps_block_style_and_indentation(tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    text = (
        "version: 1\n\nfunctions:\n    # the one\n    a:\n        model: m.onnx   # here\n"
        "        share: 10%\n"
    )
    path.write_text(text)
    spec = dataclasses.replace(load(path).functions["a"], lanes=1)
    save_functions(path, {"a": spec})
    assert path.read_text() == text + "        lanes: 1\n"


def test_saving_into_a_file_on_one_line(tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_text("version: 1\nfunctions: {a: {model: m.onnx}, b: {model: n.onnx}}")
    spec = dataclasses.replace(load(path).functions["b"], lanes=1)
    save_functions(path, {"a": None, "b": spec})
    assert path.read_text() == "version: 1\nfunctions: {b: {model: n.onnx, lanes: 1}}\n"


def test_what_follows_the_functions_stays(tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    after = "\n# the node\nnode: {frontends: 1,\n       grpc: 127.0.0.1:1}\n"
    path.write_text("version: 1\nfunctions:\n  a: {model: m.onnx}\n" + after)
    save_functions(path, {"b": FunctionSpec("b", model="/m")})
    assert path.read_text() == (
        "version: 1\nfunctions:\n  a: {model: m.onnx}\n  b:\n    model: /m\n" + after
    )


def test_what_a_merge_key_hides_is_written_out(tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_text("version: 1\nfunctions:\n  a: &a {model: m.onnx, lanes: 1}\n  b:\n    <<: *a\n")
    functions = load(path).functions
    save_functions(path, {"b": dataclasses.replace(functions["b"], lanes=3)})
    assert load(path).functions["b"].lanes == 3
    assert load(path).functions["a"] == functions["a"]


def test_saving_into_a_file_without_functions(tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_text("version: 1\n")
    path.chmod(0o600)
    spec = FunctionSpec("f", model=str(tmp_path / "m.onnx"))
    save_functions(path, {"f": spec})
    assert load(path).functions == {"f": spec}
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["node.yaml"]


def test_saving_follows_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.yaml").write_text("version: 1\n")
    link = tmp_path / "node.yaml"
    link.symlink_to("real.yaml")
    save_functions(link, {"f": FunctionSpec("f", model="/m")})
    assert link.is_symlink()
    assert "f:" in (tmp_path / "real.yaml").read_text()


# ---- schema and cores --------------------------------------------------------------------------


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
