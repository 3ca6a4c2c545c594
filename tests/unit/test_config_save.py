from __future__ import annotations

import dataclasses
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from gslice.core.config import (
    config_to_yaml,
    diff_functions,
    function_from_yaml,
    function_to_yaml,
    save_functions,
)
from gslice.core.types import FunctionSpec, ReplicaBounds, ShareBounds, VersionPolicy
from tests.unit.conftest import NODE, load

shares = st.one_of(
    st.just(ShareBounds()),
    st.floats(0.5, 100).map(lambda p: ShareBounds(p, p, auto=False)),
    st.tuples(st.floats(0.5, 50), st.floats(51, 100)).map(lambda b: ShareBounds(*b, auto=True)),
)
specs = st.builds(
    FunctionSpec,
    name=st.just("f"),
    versions=st.builds(
        VersionPolicy,
        st.integers(1, 8),
        st.just("latest") | st.integers(1, 10**17).map(str),
        st.integers(0, 10**17),
    ),
    args=st.sampled_from(
        [
            {},
            {"batched": False},
            {
                "inputs": [
                    {"name": "a: b", "dtype": "FP32", "dims": [-1, 4], "model_dims": [-1, 2, 2]}
                ],
                "outputs": [{"name": "y", "dtype": "BYTES", "dims": []}],
            },
        ]
    ),
    model=st.sampled_from(["/base/m.onnx", "/base/sub dir/m: x.onnx", "/else/#1.onnx"]),
    replicas=st.integers(1, 8).map(lambda most: ReplicaBounds(1, most)),
    share=shares,
    instances=st.integers(1, 8),
    priority=st.sampled_from(["low", "normal", "high"]),
    slo_p99_us=st.integers(0, 10**9),
    batch_max=st.integers(0, 65_536),
    delay_us=st.integers(-1, 10**6),
    queue_max=st.integers(1, 1024),
    request_max_bytes=st.integers(1, 64 << 20),
    warmup=st.sampled_from(["", "/base/w.npz"]),
    side_effects=st.booleans(),
    threads=st.integers(0, 64),
    lanes=st.integers(1, 4),
    residency=st.sampled_from(["pinned", "warm", "cold"]),
    idle_after_us=st.integers(100_000, 10**11),
    environment=st.dictionaries(st.sampled_from(["A", "_B2", "yes"]), st.text(max_size=8)),
)


@given(specs, st.sampled_from([None, Path("/base")]))
def test_a_function_survives_the_round_trip(spec: FunctionSpec, base: Path | None) -> None:
    text = function_to_yaml(spec, base)
    assert function_from_yaml("f", text, base or Path("/")) == spec


plain = st.none() | st.booleans() | st.integers() | st.text(max_size=8)
values = st.recursive(
    plain, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=5), v, max_size=3)
)


@given(st.dictionaries(st.text(min_size=1, max_size=5), values, max_size=3))
def test_any_arguments_survive_the_round_trip(args: dict[str, object]) -> None:
    spec = FunctionSpec("f", engine="python", python="a:B", python_path="/p", args=args)
    assert function_from_yaml("f", function_to_yaml(spec), Path("/")) == spec


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


def test_torch_functions_survive_the_round_trip() -> None:
    made = FunctionSpec(
        "f", engine="torch", python="a:b", python_path="/p", args={"x": 1}, channels_last=True
    )
    exported = FunctionSpec("f", engine="torch", model="/m.pt2", precision="bf16")
    for spec in (made, exported):
        assert function_from_yaml("f", function_to_yaml(spec), Path("/else")) == spec


def test_an_onnx_function_with_arguments_survives_the_round_trip() -> None:
    args = {"batched": False, "cpu_nodes": True, "arena": "2GiB"}
    spec = FunctionSpec("f", model="/m.onnx", args=args)
    assert function_from_yaml("f", function_to_yaml(spec), Path("/else")) == spec


def test_tensorrt_functions_survive_the_round_trip() -> None:
    shapes = {"ids": {"min": [-1, 16], "opt": [-1, 128], "max": [-1, 512]}}
    plan = FunctionSpec("f", engine="tensorrt", model="/m.plan")
    built = FunctionSpec("f", engine="tensorrt_rtx", model="/m.onnx", args={"shapes": shapes})
    for spec in (plan, built):
        text = function_to_yaml(spec)
        again = function_from_yaml("f", text, Path("/else"))
        assert dataclasses.replace(again, device="cpu", devices=()) == spec, text
    assert function_to_yaml(plan) == "model: /m.plan"


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


# ---- saving ------------------------------------------------------------------------------


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
