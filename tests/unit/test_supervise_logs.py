from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gslice.supervise.logs import TEXT_MAX_CHARS, follow, last_line, last_lines, rotate


def test_last_lines_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    assert last_lines(log, 3) == []
    assert last_line(log) == ""
    log.write_text("one\ntwo\nthree\n\n")
    assert last_lines(log, 2) == ["three", ""]
    assert last_lines(log, 0) == []
    assert last_line(log) == "three"


def test_a_long_log_is_cut_under_its_writer(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"x" * 900 + b"\n")
        assert not rotate(log, max_bytes=1000)
        writer.write(b"y" * 200 + b"\n")
        assert rotate(log, max_bytes=1000)
        writer.write(b"after\n")
    assert log.read_bytes() == b"after\n"
    old = tmp_path / "a.log.1"
    assert old.stat().st_size == 1000
    assert old.read_bytes().endswith(b"y\n")


def test_as_many_old_ones_are_kept_as_wanted(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    for text in ("first", "second", "third", "fourth"):
        log.write_text(text * 100)
        assert rotate(log, max_bytes=400, keep=3)
    log.write_text("x" * 500)
    (tmp_path / "a.log.2").unlink()  # somebody tidied up
    assert rotate(log, max_bytes=400, keep=3)
    found = {path.name: path.read_text()[-5:] for path in tmp_path.iterdir()}
    assert found == {"a.log": "", "a.log.1": "xxxxx", "a.log.2": "ourth", "a.log.3": "econd"}


def test_a_log_that_cannot_be_moved_is_cut_all_the_same(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(b"x" * 2000)
    (tmp_path / "a.log.1").mkdir()
    with pytest.raises(IsADirectoryError):
        rotate(log, max_bytes=1000)
    assert log.stat().st_size == 0


def test_a_last_line_without_end_is_shortened(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("x" * 50_000)
    assert last_line(log) == "x" * (TEXT_MAX_CHARS - 4) + " ..."


def test_following_shows_the_last_lines_then_new_ones_across_a_cut(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("old\nlast\nunfin")

    async def scenario() -> list[str]:
        lines = follow(log, 1)
        seen = [await anext(lines)]
        with log.open("a") as writer:
            writer.write("ished\nhal")
        seen.append(await anext(lines))
        with log.open("a") as writer:
            writer.write("f\n")
        seen.append(await anext(lines))
        log.write_text("cut\n")
        seen.append(await anext(lines))
        await lines.aclose()
        return seen

    assert asyncio.run(asyncio.wait_for(scenario(), 10)) == ["last", "unfinished", "half", "cut"]
