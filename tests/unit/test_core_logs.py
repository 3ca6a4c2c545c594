from __future__ import annotations

import argparse
import io
import json
import logging
from collections.abc import Iterator

import pytest

from gslice.core.logs import JsonLines, LogStyle
from gslice.supervise.logs import last_line


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger; what a test does to it is undone."""
    root, ours = logging.getLogger(), logging.getLogger("gslice")
    handlers, levels = list(root.handlers), (root.level, ours.level)
    yield root
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


def test_a_line_of_json_says_what_is_known(root: logging.Logger) -> None:
    stream = io.StringIO()
    formatter = LogStyle("json").set_up("worker", "%(message)s", stream)
    assert isinstance(formatter, JsonLines)
    formatter.function = "detector"
    log = logging.getLogger("gslice.worker")
    log.debug("not written")
    log.warning("two\nlines of %s", "text", extra={"request_id": "7", "trace_id": "", "code": 13})
    try:
        raise ValueError("wrong")
    except ValueError:
        log.exception("failed", extra={"function": "other"})
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert first["message"] == "two\nlines of text"
    assert (first["level"], first["process"], first["function"]) == (
        *("warning", "worker"),
        "detector",
    )
    assert (first["request_id"], first["code"]) == ("7", 13)
    assert "trace_id" not in first
    assert first["time"].endswith("Z")
    assert second["function"] == "other"
    assert "ValueError: wrong" in second["error"]


def test_text_stays_text_and_levels_are_ours(root: logging.Logger) -> None:
    stream = io.StringIO()
    LogStyle("text", "debug").set_up("worker", "%(levelname)s %(message)s", stream)
    logging.getLogger("gslice.worker").debug("seen")
    logging.getLogger("somebody.else").debug("not seen")
    assert stream.getvalue() == "DEBUG seen\n"
    LogStyle("text", "error").apply()
    logging.getLogger("gslice").warning("not seen")
    logging.getLogger("somebody.else").warning("not seen")
    assert stream.getvalue() == "DEBUG seen\n"


def test_children_are_told_and_say_so() -> None:
    style = LogStyle("json", "warning")
    parser = argparse.ArgumentParser()
    LogStyle.options(parser)
    assert LogStyle.of(parser.parse_args(style.arguments)) == style
    assert LogStyle.of(parser.parse_args([])) == LogStyle()
    assert style.words != LogStyle().words


def test_a_reason_is_the_message_of_a_line_of_json(tmp_path) -> None:
    log = tmp_path / "f.log"
    log.write_text('plain\n{"message": "no such model", "level": "error"}\n')
    assert last_line(log) == "no such model"
    log.write_text('{"message": cut off')
    assert last_line(log) == '{"message": cut off'
