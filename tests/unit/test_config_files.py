"""Files that are no configuration at all, or too much of one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gslice.core.config import function_from_yaml, load_config
from gslice.core.errors import ConfigError, NotFound
from tests.unit.test_config_errors import problems


def test_a_functions_text_is_bounded() -> None:
    with pytest.raises(ConfigError, match="more than 65536 characters"):
        function_from_yaml("f", "model: " + "m" * 70_000, Path("/"))


@pytest.mark.parametrize("text", ["[" * 5000, "- " * 5000, "a: " + "{b: " * 100 + "1" + "}" * 100])
def test_endless_nesting_is_refused(tmp_path: Path, text: str) -> None:
    (line,) = problems(tmp_path / "node.yaml", text)
    assert "nested more than" in line


def test_a_file_that_swells_is_refused(tmp_path: Path) -> None:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    (line,) = problems(tmp_path / "node.yaml", "\n".join(rows))
    assert "more than 100000 values" in line


@given(text=st.text(max_size=80) | st.text(alphabet="{}[]:,&*!|>-# \n\tab1%", max_size=60))
def test_any_text_is_good_or_told_to_be_wrong(tmp_path_factory, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        function_from_yaml("f", text, Path("/"))
    assert all(line.startswith("f:") for line in caught.value.message.splitlines())


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(NotFound) as caught:
        load_config(tmp_path / "node.yaml", environ={})
    assert "No such file" in caught.value.message
    assert "gslice init" in caught.value.hint


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8 text"):
        load_config(path, environ={})
