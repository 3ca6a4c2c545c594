"""Settings of the environment and of the command line, which win over the file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from gslice.core.config import Override, load_config
from gslice.core.errors import ConfigError
from gslice.core.types import ShareBounds
from tests.unit.conftest import load


def test_the_environment_overrides_the_file(node_yaml: Path) -> None:
    config = load(
        node_yaml,
        GSLICE_NODE__GRPC="127.2.3.4:5",
        GSLICE_NODE__FRONTENDS="2",
        GSLICE_DEVICES__CPU__LIMITS__SHARE="50%",
        GSLICE_DEFAULTS__BATCH__MAX="4",
        GSLICE_FUNCTIONS__DETECTOR__SHARE="{min: 5%, max: 10%}",
        GSLICE_FUNCTIONS__TAGGER__ARGS__THRESHOLD="0.9",
        GSLICE_FUNCTIONS__TAGGER__ENVIRONMENT__OMP_NUM_THREADS="1",
        GSLICE_STATE_DIR="/ignored",
        UNRELATED__X="1",
    )
    assert config.node.grpc == "127.2.3.4:5"
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
        ("GSLICE_NODE__GRPC", "2024-13-45", "'2024-13-45' is not valid YAML"),
        ("GSLICE_NODE__GRPC", "[" * 500, f"'{'[' * 57}...' is not valid YAML"),
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
    option = Override(("node", "grpc"), "127.6.7.8:9", "--grpc")
    config = load_config(node_yaml, overrides=[option], environ={"GSLICE_NODE__GRPC": "a:1"})
    assert config.node.grpc == "127.6.7.8:9"
    with pytest.raises(ConfigError) as caught:
        load_config(node_yaml, overrides=[dataclasses.replace(option, value="x")], environ={})
    assert caught.value.message.startswith("--grpc: node.grpc: 'x' is not an address")
