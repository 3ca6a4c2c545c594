"""Reading config.pbtxt: values, lines, and nothing that is passed over."""

from __future__ import annotations

from pathlib import Path

import pytest

from gslice.core.errors import ConfigError
from gslice.triton.pbtxt import ConfigText, Setting, read_config

TEXT = """\
# a comment with { and "quotes
name: "detector"; max_batch_size: 8
input [
  { name: "x", data_type: TYPE_FP32  dims: [ 3, -1, 224 ]
    reshape { shape: [ -1 ] } },
  { name: 'it\\'s' data_type: TYPE_STRING dims: -1 }
]
output { name: "a" "b" dims: 1 data_type: TYPE_INT64 }
optimization < cuda { graphs: true, graph_spec [ { batch_size: 1 } ] } >
[made.up]: 7
parameters: { key: "k" value: { string_value: "v" } }
dynamic_batching { }
"""


def read(folder: Path, text: str) -> ConfigText:
    path = folder / "config.pbtxt"
    path.write_text(text)
    return read_config(path)


def test_values_are_protobufs(tmp_path: Path) -> None:
    config = read(tmp_path, TEXT).config
    assert (config.name, config.max_batch_size, list(config.input[0].dims)) == (
        *("detector", 8),
        [3, -1, 224],
    )
    assert [each.name for each in config.input] == ["x", "it's"]
    assert list(config.input[1].dims) == [-1]
    assert config.output[0].name == "ab"
    assert list(config.input[0].reshape.shape) == [-1]
    assert config.HasField("dynamic_batching")
    assert config.parameters["k"].string_value == "v"


def test_everything_that_is_written_is_listed_with_its_line(tmp_path: Path) -> None:
    text = read(tmp_path, TEXT)
    assert [(setting.path, setting.line) for setting in text.settings] == [
        ("name", 2),
        ("max_batch_size", 2),
        ("input", 3),
        *((f"input.{name}", 4) for name in ("name", "data_type", "dims")),
        ("input.reshape", 5),
        ("input.reshape.shape", 5),
        *((f"input.{name}", 6) for name in ("name", "data_type", "dims")),
        ("output", 8),
        *((f"output.{name}", 8) for name in ("name", "dims", "data_type")),
        ("optimization", 9),
        ("optimization.cuda", 9),
        ("optimization.cuda.graphs", 9),
        ("optimization.cuda.graph_spec", 9),
        ("optimization.cuda.graph_spec.batch_size", 9),
        ("[made.up]", 10),
        ("parameters", 11),
        ("parameters.key", 11),
        ("parameters.value", 11),
        ("parameters.value.string_value", 11),
        ("dynamic_batching", 12),
    ]
    assert Setting("max_batch_size", 2, "8") in text.settings
    assert Setting("output.name", 8, '"ab"') in text.settings
    assert Setting("input.dims", 6, "-1") in text.settings


@pytest.mark.parametrize(
    "unread",
    [
        "made_up: 1",
        "made_up: 1,",
        "made_up { a [ { b: 'x' } ] };",
        "made_up [ 1, 2 ]",
        "made_up: [ { a: 1 } ]",
        "made_up < a: TYPE >",
        "ensemble_scheduling { step [ { model_name: 'a' } ] }",
        "input { made_up { } name: 'x', made_up: 7, dims: 1 }",
    ],
)
def test_what_is_not_read_hides_nothing_else(tmp_path: Path, unread: str) -> None:
    config = read(tmp_path, f"name: 'a'\n{unread} max_batch_size: 7\nbackend: 'b'").config
    assert (config.name, config.max_batch_size, config.backend) == ("a", 7, "b")
    assert [(each.name, list(each.dims)) for each in config.input] in ([], [("x", [1])])


def test_lines_are_found_by_setting_and_value(tmp_path: Path) -> None:
    text = read(tmp_path, 'output { name: "a" }\noutput { name: "b" }\n')
    assert [text.line_of("output.name", name) for name in ("a", "b", "c")] == [1, 2, 1]


def test_no_file_says_nothing(tmp_path: Path) -> None:
    text = read_config(tmp_path / "config.pbtxt")
    assert (text.config.ByteSize(), text.settings) == (0, ())


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("name: 'a'\nmax_batch_size: many\n", 2, "many"),
        ("input {\n  data_type: TYPE_FP31\n}\n", 2, "TYPE_FP31"),
        ("input {\n", 2, "ends in the middle"),
        ("dims: [ 1\n", 2, "ends in the middle"),
        ("made_up: }\nname: 'a'", 1, "'}' stands where a value belongs"),
        ("name: 'a' }", 1, "'}' stands where a name belongs"),
        ("max_batch_size:", 1, "ends in the middle"),
        ("max_batch_size\n: ;", 2, "';' stands where a value belongs"),
        ("max_batch_size: 1\nmax_batch_size: 2\n", 2, "max_batch_size"),
        ("optimization { " * 5000, 1, "nested too deeply"),
    ],
)
def test_what_is_wrong_is_told_by_its_line(
    tmp_path: Path, text: str, line: int, reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        read(tmp_path, text)
    assert caught.value.message.startswith(f"{tmp_path}/config.pbtxt:{line}: ")
    assert "\n" not in caught.value.message


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.pbtxt"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_config(path)
    path.write_bytes(b"#" * (2 << 20))
    with pytest.raises(ConfigError, match="too many"):
        read_config(path)
