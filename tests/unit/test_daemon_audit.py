"""The audit log: who ordered what, and what that changed."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import stat
from collections.abc import Callable
from concurrent import futures
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

import gslice
from gslice.core import audit
from gslice.core.errors import NotFound
from gslice.core.types import FunctionSpec
from gslice.daemon.audit import DETAIL_MAX_CHARS, AuditLog, look
from gslice.daemon.peers import Peer, identify, peers

WHO = {"name": "ann", "via": "data port"}


class Subject:
    """Whose share the tests change."""

    def __init__(self) -> None:
        self.share = 10

    def look(self, subject: str) -> dict[str, Any]:
        return {"subject": subject, "share": self.share}


@pytest.fixture
def subject() -> Subject:
    return Subject()


@pytest.fixture
def log(tmp_path: Path, subject: Subject):
    opened = AuditLog(tmp_path, subject.look, ("gslice", "serve"))
    yield opened
    opened.close()


def act(log: AuditLog, *order: Any, does: Callable[[], None] = lambda: None) -> None:
    async def action() -> None:
        async with log.action(*order):
            does()

    asyncio.run(action())


def test_an_action_has_a_line_with_what_it_changed(tmp_path, log, subject):
    def resize() -> None:
        subject.share = 40
        assert audit.newest(tmp_path, 10) == []  # it has not ended

    act(log, WHO, "resize", "detector", "40%", does=resize)
    (entry,) = audit.newest(tmp_path, 10)
    assert entry.pop("at").endswith("+00:00")
    assert entry == {
        "who": WHO,
        "what": "resize",
        "subject": "detector",
        "detail": "40%",
        "before": {"subject": "detector", "share": 10},
        "after": {"subject": "detector", "share": 40},
        "outcome": "done",
    }
    assert audit.changes(entry) == {"share": (10, 40)}


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (NotFound("no such device"), "failed: no such device"),
        (RuntimeError("oops"), "failed: RuntimeError: oops"),
        (asyncio.CancelledError(), "interrupted"),
    ],
)
def test_an_action_that_fails_has_its_line_too(tmp_path, log, error, outcome):
    def fail() -> None:
        raise error

    with pytest.raises(type(error)):
        act(log, WHO, "drain", "cpu", does=fail)
    (entry,) = audit.newest(tmp_path, 10)
    assert entry["outcome"] == outcome


def test_the_daemon_notes_its_own_start(tmp_path, log):
    log.own("start")
    (entry,) = audit.newest(tmp_path, 1)
    assert (entry["who"]["uid"], entry["subject"]) == (os.getuid(), "daemon")
    assert entry["detail"] == "gslice serve"


def test_lines_are_only_added_and_are_the_owners_alone(tmp_path, log, subject):
    path = tmp_path / audit.FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    log.own("start")
    first = path.read_bytes()
    again = AuditLog(tmp_path, subject.look)
    again.own("start")
    again.close()
    log.own("stops")
    assert path.read_bytes().startswith(first)
    assert [entry["what"] for entry in audit.newest(tmp_path, 9)] == ["start", "start", "stops"]


def test_files_are_bounded_and_the_newest_lines_stay(tmp_path, subject):
    log = AuditLog(tmp_path, subject.look, file_max_bytes=1000)
    for number in range(60):
        log.own(str(number))
    log.close()
    found = [path for path in audit.files(tmp_path) if path.exists()]
    assert len(found) == 1 + audit.KEPT
    assert all(path.stat().st_size <= 1000 for path in found)
    told = [int(entry["what"]) for entry in audit.newest(tmp_path, 1000)]
    assert told == list(range(told[0], 60))
    assert audit.newest(tmp_path, 2)[0]["what"] == "58"


def test_a_link_in_its_place_is_not_followed(tmp_path, subject):
    (tmp_path / audit.FILE).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        AuditLog(tmp_path, subject.look)


def test_a_line_that_was_cut_off_hides_no_other(tmp_path, log):
    log.own("start")
    with (tmp_path / audit.FILE).open("ab") as stream:
        stream.write(b'{"at": "2026-')
    again = AuditLog(tmp_path, lambda _subject: {})
    again.own("stops")
    again.close()
    assert [entry.get("what") for entry in audit.newest(tmp_path, 9)] == ["start", None, "stops"]


def test_what_cannot_be_written_is_logged(tmp_path, subject, caplog):
    log = AuditLog(tmp_path, subject.look)
    log.close()
    log.own("start")
    assert "the audit log lacks a line" in caplog.text


def test_a_file_that_cannot_be_put_aside_costs_a_line_and_no_other_file(
    tmp_path, subject, caplog, monkeypatch
):
    log = AuditLog(tmp_path, subject.look, file_max_bytes=300)
    log.own("first")
    with monkeypatch.context() as short:
        short.setattr(os, "open", failing_open)
        log.own("lost")
    assert "the audit log lacks a line, for [Errno 24]" in caplog.text
    other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)  # it may get the same number
    log.own("last")
    log.close()
    assert os.pread(other, 1, 0) == b""
    os.close(other)
    assert [entry["what"] for entry in audit.newest(tmp_path, 9)] == ["first", "last"]


def failing_open(*args: Any) -> int:
    raise OSError(errno.EMFILE, "too many open files")


def test_what_is_secret_or_without_end_is_not_told(tmp_path, log):
    act(log, WHO, "load", "x", "https://ann:pw@h/m.onnx?sig=abc " + "y" * 100_000)
    (entry,) = audit.newest(tmp_path, 1)
    assert entry["detail"].startswith("https://...@h/m.onnx?... yyy")
    assert len(entry["detail"]) == DETAIL_MAX_CHARS
    spec = FunctionSpec("x", model="/m", sources={"model": "https://h/m.onnx?sig=abc"})
    desired = SimpleNamespace(declared=lambda name: spec, changed=[])
    running = SimpleNamespace(functions={})
    daemon: Any = SimpleNamespace(
        desired=desired, supervisor=running, node=SimpleNamespace(devices={})
    )
    told = look(daemon, "x")["function"]
    assert ("https://h/m.onnx?..." in told, "abc" in told) == (True, False)


# ---- who ---------------------------------------------------------------------------------------


def test_a_caller_is_who_the_kernel_says():
    own = Peer(7, os.getuid())
    assert identify({own, Peer(8, 12345)}, 7)["uid"] == os.getuid()
    assert identify({own, Peer(8, 12345)}, 8) == {
        "name": "uid 12345",
        "uid": 12345,
        "pid": 8,
        "via": "control socket",
    }
    assert identify({own, Peer(9, os.getuid())}, 99)["uid"] == os.getuid()  # whichever it is
    assert "pid" not in identify({own}, 99)
    assert identify({own, Peer(8, 12345)}, 99)["name"] == f"one of uids [{os.getuid()}, 12345]"
    assert identify(set(), 7)["name"] == "unknown"
    assert identify({Peer(0, 5)}, 0) == {
        "name": identify({Peer(0, 5)}, 0)["name"],
        "uid": 5,
        "via": "control socket",
    }


def test_the_connections_of_a_grpc_server_have_peers(tmp_path):
    path = tmp_path / "s"
    server = grpc.server(futures.ThreadPoolExecutor(1))
    server.add_insecure_port(f"unix:{path}")
    server.start()
    try:
        assert peers(path) == set()
        with grpc.insecure_channel(f"unix:{path}") as channel:
            grpc.channel_ready_future(channel).result(20)
            assert peers(path) == {Peer(os.getpid(), os.getuid())}
            assert peers(tmp_path / "other") == set()
    finally:
        server.stop(0).wait()


def test_entries_are_one_line_each(tmp_path, log):
    act(log, {"name": "a\nb"}, "load", "x", "two\nlines")
    (line,) = (tmp_path / audit.FILE).read_text().splitlines()
    assert json.loads(line)["detail"] == "two\nlines"


def test_the_names_of_who_calls_are_in_one_place() -> None:
    package = Path(gslice.__file__).parent
    texts = {path: path.read_text() for path in package.rglob("*.py")}
    for header in (audit.PID_HEADER, audit.FOR_HEADER):
        naming = [path for path, text in texts.items() if f'"{header}"' in text]
        assert naming == [package / "core/audit.py"]
