"""Repositories as a node: what is served beside what, and `gslice import triton`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gslice.core.config import Config, load_config
from gslice.core.config.policy import refusal
from gslice.core.errors import ConfigError, FailedPrecondition, InvalidArgument, NotFound
from gslice.triton.node import Repositories, node_config
from tests.cli import failing, gslice
from tests.triton_repository import empty_file, put

pytestmark = pytest.mark.usefixtures("here")

SAMPLE = (
    'model_warmup { inputs { key: "x" value { data_type: TYPE_FP32 dims: 8 random_data: true } } }'
)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two models that are served, one with a setting that is lost, and two that are not."""
    root = tmp_path / "models"
    put(root, "plain", make=empty_file, versions=(2, 3))
    put(root, "full", f"max_batch_size: 1\nmetric_tags {{ }}\n{SAMPLE}", make=empty_file)
    put(root, "both", "ensemble_scheduling { }", versions=())
    put(root, "a model", make=empty_file)
    return root


def configured(
    *roots: Path, path: Path | None = None, environ: Mapping[str, str] | None = None
) -> tuple[Config, Repositories]:
    where = {"XDG_STATE_HOME": os.environ["XDG_STATE_HOME"]}
    places = list(map(str, roots))
    return node_config(places, path, find_gpus=tuple, environ={**where, **(environ or {})})


def test_samples_of_models_in_the_roots_are_taken(repository: Path, tmp_path: Path) -> None:
    node = tmp_path / "node.yaml"
    node.write_text("version: 1\nnode: {model_roots: [./models]}\n")
    config, _ = configured(repository, path=node)
    sample = config.functions["full"].warmup
    assert sample == str(config.node.samples_dir / "full.npz")
    assert not refusal(config.functions["full"], config.node)
    Path(sample).unlink()
    Path(sample).symlink_to("/etc/passwd")
    assert "warmup" in refusal(config.functions["full"], config.node)
    node.write_text("version: 1\nnode: {model_roots: [./elsewhere]}\n")
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(ConfigError, match=r"model .* is not in node\.model_roots"):
        configured(repository, path=node)


def test_each_model_is_a_function(repository: Path, state_dir: Path) -> None:
    config, read = configured(repository)
    assert list(config.functions) == ["full", "plain"]
    plain, full = config.functions["plain"], config.functions["full"]
    assert plain.model == str(repository / "plain/3/model.onnx")
    assert (plain.versions.number, full.versions.number) == (3, 1)
    assert (full.batch_max, full.args) == (1, {"batched": True})
    assert full.warmup == str(state_dir / "warmup/full.npz")
    assert Path(full.warmup).is_file()
    assert state_dir.stat().st_mode & 0o777 == 0o700
    assert [str(note).partition(": not")[0] for note in read.notes] == [
        "full/config.pbtxt:2: metric_tags"
    ]
    assert [refusal.model for refusal in read.refused] == ["a model", "both"]
    assert "'a model' cannot be a function's name" in read.refused[0].reason


def test_a_node_yaml_beside_it(repository: Path, tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_text(
        "version: 1\nnode: {state_dir: ./s}\ndefaults: {slo: {p99: 40ms}}\n"
        "functions: {full: {model: ./mine.onnx}}\n"
    )
    config, read = configured(repository, path=path)
    assert config.functions["full"].model == str(tmp_path / "mine.onnx")
    assert config.functions["plain"].slo_p99_us == 40_000
    assert config.path == path
    assert "node.yaml has a function of that name" in read.refused[2].reason


def test_two_repositories(repository: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    put(other, "plain", make=empty_file)
    put(other, "more", make=empty_file)
    config, read = configured(repository, other)
    assert sorted(config.functions) == ["full", "more", "plain"]
    assert config.functions["plain"].versions.number == 3
    assert "another repository has a function of that name" in read.refused[-1].reason


def test_the_environment_changes_what_a_repository_says(repository: Path) -> None:
    environ = {"GSLICE_FUNCTIONS__PLAIN__SHARE": "40%", "GSLICE_NODE__SPARES": "0"}
    config, _ = configured(repository, environ=environ)
    assert config.functions["plain"].share.max_percent == 40
    assert config.node.spares == 0
    with pytest.raises(ConfigError, match="GSLICE_FUNCTIONS__PLAINE__SHARE: no function"):
        configured(repository, environ={"GSLICE_FUNCTIONS__PLAINE__SHARE": "40%"})


def test_what_is_no_repository(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no directory"):
        configured(tmp_path / "none")
    for folder in ("plain", "full"):
        with pytest.raises(InvalidArgument, match="one model's directory"):
            configured(repository / folder)
    empty = tmp_path / "empty"
    put(empty, "both", "ensemble_scheduling { }", versions=())
    with pytest.raises(FailedPrecondition, match=r"no model can be served\nboth is not served"):
        configured(empty)


# ---- commands ------------------------------------------------------------------------------------


def test_import_writes_what_serve_would_serve(repository: Path, here: Path) -> None:
    shown = gslice("import", "triton", str(repository)).stdout
    assert shown.splitlines()[-1] == "wrote node.yaml with 2 functions"
    assert "both is not served: it is an ensemble" in shown
    (row,) = (line for line in shown.splitlines() if "metric_tags" in line)
    assert row.startswith("full/config.pbtxt:2  metric_tags  not honoured: ")
    text = (here / "node.yaml").read_text()
    assert "  # full/config.pbtxt:2: metric_tags: not honoured" in text
    assert "./models/plain/3/model.onnx" in text
    written = load_config(here / "node.yaml", environ={}).functions
    served = configured(repository)[0].functions
    assert written["plain"] == served["plain"]
    assert written["full"].warmup == str(here / "warmup/full.npz")
    assert Path(written["full"].warmup).read_bytes() == Path(served["full"].warmup).read_bytes()


def test_import_does_not_overwrite(repository: Path, here: Path) -> None:
    (here / "node.yaml").write_text("mine")
    assert failing("import", "triton", str(repository)) == [
        "error: node.yaml exists already",
        "hint: --force replaces it",
    ]
    assert gslice("import", "triton", str(repository), "--dry-run").stdout.endswith(
        "would write 2 functions\n"
    )
    assert (here / "node.yaml").read_text() == "mine"
    assert not (here / "warmup").exists()
    gslice("import", "triton", str(repository), "--force")
    assert load_config(here / "node.yaml", environ={}).functions.keys() == {"plain", "full"}


def test_import_as_json(repository: Path, here: Path) -> None:
    told: dict[str, Any] = json.loads(
        gslice("import", "triton", str(repository), "-o", "served.yaml", "--json").stdout
    )
    assert told["written"] == "served.yaml"
    assert told["functions"]["plain"]["versions"] == {"number": 3}
    assert told["not_honoured"] == [
        {
            "model": "full",
            "place": "full/config.pbtxt:2",
            "setting": "metric_tags",
            "text": "not honoured: metrics have the function as their label",
        }
    ]
    assert [(each["model"], bool(each["hint"])) for each in told["refused"]] == [
        ("a model", False),
        ("both", True),
    ]


def test_serve_warns_of_what_is_lost(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[Config] = []
    monkeypatch.setattr("gslice.daemon.main.run", lambda wanted, **_: served.append(wanted))
    result = gslice("serve", "--model-repository", str(repository), "--grpc", "127.0.0.1:0")
    (config,) = served
    assert sorted(config.functions) == ["full", "plain"]
    assert config.node.grpc == "127.0.0.1:0"
    assert result.stderr.startswith("warning: full/config.pbtxt:2: metric_tags: not honoured")
    assert "warning: both is not served: it is an ensemble" in result.stderr


def test_a_model_and_a_repository_exclude_each_other(repository: Path) -> None:
    lines = failing("serve", "m.onnx", "--model-repository", str(repository))
    assert lines[0] == "error: MODEL and --model-repository exclude each other"
