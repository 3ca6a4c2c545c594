"""`command` in node.yaml: what it takes, what it refuses, and the way back."""

from __future__ import annotations

from pathlib import Path

import pytest

from gslice.core.config import (
    Config,
    config_to_yaml,
    function_from_yaml,
    function_to_yaml,
    json_schema,
    load_config,
    save_functions,
)
from gslice.core.errors import ConfigError, PermissionDenied
from gslice.core.types import FunctionSpec, ProgramSpec, ShareBounds
from gslice.daemon.overrides import refuse_other_code

NODE = """\
version: 1
devices: {cpu: {}, cuda:0: {}}
defaults: {slo: {p99: 50ms}, residency: cold, batch: {max: 4}}
functions:
  llm:
    command: [vllm, serve, some/model, --port, 9000]
    device: cuda:0
    share: 30%
    memory: 20GiB
    health: http://127.0.0.1:9000/health
    environment: {HF_HOME: /models}
    stop: {signal: SIGINT, timeout: 20s}
  trainer: {command: [./train.sh], directory: jobs, share: 10%}
"""


def loaded(tmp_path: Path, text: str = NODE) -> Config:
    path = tmp_path / "node.yaml"
    path.write_text(text)
    return load_config(path, environ={})


def test_all_its_settings(tmp_path: Path) -> None:
    functions = loaded(tmp_path).functions
    assert functions["llm"] == FunctionSpec(
        "llm",
        engine="command",
        device="cuda:0",
        share=ShareBounds(30, 30, auto=False),
        environment={"HF_HOME": "/models"},
        residency="pinned",
        program=ProgramSpec(
            ("vllm", "serve", "some/model", "--port", "9000"),
            str(tmp_path),
            20 << 30,
            "http://127.0.0.1:9000/health",
            stop_signal="SIGINT",
            stop_timeout_us=20_000_000,
        ),
    )
    assert functions["trainer"].program == ProgramSpec(("./train.sh",), f"{tmp_path}/jobs")


def test_how_it_is_asked(tmp_path: Path) -> None:
    health = "{url: 'https://a.b/c?d=1', period: 100ms, timeout: 1s}"
    body = f"{{command: [a], share: 5%, health: {health}}}"
    program = function_from_yaml("a", body, tmp_path).program
    assert program == ProgramSpec(("a",), str(tmp_path), 0, "https://a.b/c?d=1", 100_000, 1_000_000)


@pytest.mark.parametrize("base_is_known", [True, False])
def test_the_way_back(tmp_path: Path, base_is_known: bool) -> None:
    config = loaded(tmp_path)
    for name, spec in config.functions.items():
        text = function_to_yaml(spec, tmp_path if base_is_known else None)
        assert function_from_yaml(name, text, tmp_path, config=config) == spec
    shown = config_to_yaml(config)
    assert loaded(tmp_path, shown).functions == config.functions


def test_a_change_is_saved_where_it_stands(tmp_path: Path) -> None:
    config = loaded(tmp_path)
    changed = function_from_yaml(
        "llm", "{command: [vllm], share: 20%, device: cuda:0}", tmp_path, config=config
    )
    save_functions(tmp_path / "node.yaml", {"llm": changed})
    assert load_config(tmp_path / "node.yaml", environ={}).functions["llm"] == changed
    model = function_from_yaml("llm", "{model: a.onnx, batch: {max: 2}}", tmp_path, config=config)
    save_functions(tmp_path / "node.yaml", {"llm": model})
    assert load_config(tmp_path / "node.yaml", environ={}).functions["llm"] == model
    save_functions(tmp_path / "node.yaml", {"llm": config.functions["llm"]})
    assert load_config(tmp_path / "node.yaml", environ={}).functions == config.functions


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("{command: vllm serve}", "command: must be a list of words, as in [vllm, serve"),
        ("{command: []}", "command: must name a program, as in [vllm, serve]"),
        ("{command: ['']}", "command: its first word is the program, and is empty"),
        ("{command: [a, true]}", "command: True must be text; put it in quotes"),
        ("{command: [a, 0.9]}", "command: 0.9 must be text; put it in quotes, as in ['0.9']"),
        ("{command: [a]}", "a command needs a share of its own, as in share: 30%"),
        ("{command: [a], share: {min: 1%, max: 5%}}", "a command needs a share of its own"),
        ("{command: [a], share: 5%, memory: 5}", "memory: '5' has no unit"),
        ("{command: [a], share: 5%, health: ftp://x}", "health: 'ftp://x' is not a URL"),
        ("{command: [a], share: 5%, health: {period: 1s}}", "health.url: required, but not given"),
        ("{command: [a], share: 5%, health: {url: 'http://a:b/'}}", "'http://a:b/' is not a URL"),
        (
            "{command: [a], share: 5%, health: {url: 'http://a', period: 1ms}}",
            "health.period: must be at least 10ms",
        ),
        (
            "{command: [a], share: 5%, stop: {signal: SIGKILL}}",
            "stop.signal: 'SIGKILL' is not one of 'SIGTERM', 'SIGINT'",
        ),
        ("{command: [a], share: 5%, residency: cold}", "a command is always pinned, never cold"),
        ("{command: [a], model: b.onnx}", "model and command exclude each other; keep one"),
        (
            "{model: b.onnx, memory: 1GiB, stop: {}}",
            "memory and stop go with command only",
        ),
        ("{model: b.onnx, directory: x}", "directory goes with command only"),
        *(
            (f"{{command: [a], share: 5%, {extra}}}", f"{extra.partition(':')[0]} says nothing of")
            for extra in (
                *("instances: 2", "slo: {p99: 1ms}", "batch: {max: 2}", "queue: {max: 2}"),
                *("versions: {keep: 2}", "warmup: a.npz", "side_effects: true", "threads: 2"),
                *("lanes: 1", "precision: fp16", "channels_last: true", "args: {a: 1}"),
                *("python_path: src", "idle_after: 1s"),
            )
        ),
        (
            "{command: [a], share: 5%, lanes: 1, slo: {p99: 1ms}}",
            "slo and lanes say nothing of a command, which is not ours",
        ),
    ],
)
def test_what_it_refuses(tmp_path: Path, body: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        function_from_yaml("f", body, tmp_path)
    assert told in caught.value.message
    assert caught.value.message.count("\n") == 0


def test_the_schema_knows_it() -> None:
    kinds = json_schema()["$defs"]
    keys = kinds["Function"]["properties"]
    assert keys["command"]["items"] == {"type": ["string", "integer"]}
    assert keys["command"]["minItems"] == 1
    assert {"$ref": "#/$defs/Health"} in keys["health"]["anyOf"]
    assert {"type": "string"} in keys["health"]["anyOf"]
    assert kinds["Health"]["required"] == ["url"]
    assert "SIGINT" in kinds["Stop"]["properties"]["signal"]["enum"]
    assert {"directory", "memory"} <= keys.keys()


def test_no_client_may_have_another_program_run() -> None:
    declared = FunctionSpec("f", engine="command", program=ProgramSpec(("a",)))
    asked = FunctionSpec("f", engine="command", program=ProgramSpec(("b",)))
    refuse_other_code(declared, declared)
    with pytest.raises(PermissionDenied, match="clients may not change its program"):
        refuse_other_code(asked, declared)
