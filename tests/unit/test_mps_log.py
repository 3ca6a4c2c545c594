"""What the server of MPS says, found in what a control daemon prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from gslice.supervise.mps_log import ServerLog

CONTROL = "[2026-01-31 12:00:00.000 Control   300] NEW SERVER 337: Ready\n"
OTHER = "[2026-01-31 12:00:00.000 Other   337] Startup\n"
SERVER = "[2026-01-31 12:00:01.000 Server   337] New client 9 connected\n"


@pytest.fixture
def printed(tmp_path: Path) -> Path:
    return tmp_path / "out.log"


def add(path: Path, *lines: str) -> None:
    with path.open("a") as file:
        file.writelines(lines)


def test_its_lines_in_either_file_and_no_others(printed: Path, tmp_path: Path) -> None:
    log = ServerLog(printed, tmp_path / "server.log")
    assert log.news().lines == []
    add(printed, CONTROL, "to connect, set env CUDA_MPS_PIPE_DIRECTORY\n")
    assert log.news().lines == []
    assert not log.heard
    add(printed, OTHER, CONTROL)
    add(tmp_path / "server.log", SERVER)
    assert log.news().lines == [OTHER.strip(), SERVER.strip()]
    assert log.heard


def test_news_stay_news_until_they_are_read(printed: Path) -> None:
    log = ServerLog(printed)
    add(printed, OTHER)
    news = log.news()
    assert news == log.news()
    assert news.lines == [OTHER.strip()]
    add(printed, SERVER)
    log.news()
    log.read(news)
    assert log.news().lines == [SERVER.strip()]
    log.read(log.news())
    assert log.news().lines == []


def test_a_line_counts_when_it_is_whole(printed: Path) -> None:
    log = ServerLog(printed)
    add(printed, SERVER[:30])
    log.read(log.news())
    add(printed, SERVER[30:])
    assert log.news().lines == [SERVER.strip()]


def test_a_log_that_was_cut_is_read_from_its_start(
    printed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gslice.supervise.logs.rotate.__defaults__", (10, 1))
    log = ServerLog(printed)
    add(printed, OTHER, SERVER)
    log.read(log.news())
    log.bound()
    assert printed.read_bytes() == b""
    add(printed, SERVER)
    assert log.news().lines == [SERVER.strip()]
