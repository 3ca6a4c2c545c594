"""What happened on the node: kept, read page by page, followed, and shown to those who watch."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path

import pytest

from gslice.core.errors import InvalidArgument, NotFound, Unavailable
from gslice.core.events import EventKind
from gslice.daemon import events as events_module
from gslice.daemon.control_api import Servicer
from gslice.daemon.events import EventLog
from gslice.daemon.store import ALL_EVENTS, Event, EventFilter, Store

VERSION_1 = """
CREATE TABLE overlay (
  name TEXT PRIMARY KEY, spec TEXT, base TEXT, changed_at REAL NOT NULL) STRICT;
CREATE TABLE observation (
  id INTEGER PRIMARY KEY, at REAL NOT NULL, function TEXT NOT NULL, what TEXT NOT NULL) STRICT;
CREATE INDEX observation_of ON observation (function, id);
CREATE TABLE event (
  id INTEGER PRIMARY KEY, at REAL NOT NULL, subject TEXT NOT NULL, text TEXT NOT NULL) STRICT;
PRAGMA user_version = 1;
INSERT INTO overlay VALUES ('gone', NULL, NULL, 1.0);
INSERT INTO event VALUES (6, 1700000000.5, 'a', 'a worker killed by SIGKILL');
INSERT INTO event VALUES (7, 1700000001.5, 'daemon', '1 change(s) saved to node.yaml');
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "gslice.db") as store:
        yield store


@pytest.fixture
def log(store: Store) -> EventLog:
    return EventLog(store)


def run(scenario: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 30))


async def texts(events: AsyncIterator[Event]) -> list[str]:
    return [event.text async for event in events]


def add(store: Store, *texts: str, subject: str = "a", kind: EventKind = EventKind.LOAD) -> None:
    for text in texts:
        store.add_event(subject, kind, text)


# ---- the store -----------------------------------------------------------------------------------


def test_a_database_of_the_first_schema_keeps_what_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    database = sqlite3.connect(path)
    database.executescript(VERSION_1)
    database.close()
    for _ in range(2):  # the second time it is of this schema already
        with Store(path) as store:
            assert store.events(0, 2) == [
                Event(6, 1700000000.5, 0, "a", "other", "a worker killed by SIGKILL"),
                Event(7, 1700000001.5, 0, "daemon", "other", "1 change(s) saved to node.yaml"),
            ]
            assert list(store.overlay()) == ["gone"]
            store.add_event("a", EventKind.CRASH, "worker 8 exited with code 1")
            assert store.events(7, 1)[0].id == 8


def test_an_event_has_both_clocks(store: Store) -> None:
    before_us, before_s = time.monotonic_ns() // 1000, time.time()
    add(store, "1")
    (event,) = store.events(0, 10)
    assert before_us <= event.monotonic_us <= time.monotonic_ns() // 1000
    assert before_s <= event.at_s <= time.time()
    assert (event.subject, event.kind, event.text) == ("a", "load", "1")


def test_events_are_found_by_subject_and_kind(store: Store) -> None:
    add(store, "1", "2")
    add(store, "3", kind=EventKind.CRASH)
    add(store, "4", subject="b", kind=EventKind.CRASH)
    add(store, "5", subject="b", kind=EventKind.RESTART)

    def found(subject: str, *kinds: str) -> list[str]:
        return [event.text for event in store.events(0, 10, EventFilter(subject, kinds))]

    assert found("a") == ["1", "2", "3"]
    assert found("", "crash") == ["3", "4"]
    assert found("b", "crash", "restart") == ["4", "5"]
    assert found("c") == found("a", "restart") == []


def test_the_newest_events_are_counted_from_the_end(store: Store) -> None:
    assert store.before_newest_events(3) == 0
    add(store, "1", "2", "3")
    add(store, "4", kind=EventKind.CRASH)
    assert [store.before_newest_events(count) for count in (0, 1, 3, 4, 5)] == [4, 3, 1, 0, 0]
    assert store.before_newest_events(1, EventFilter(kinds=("load",))) == 2


# ---- readers -------------------------------------------------------------------------------------


def test_a_reader_gets_the_newest_oldest_first(log: EventLog, store: Store) -> None:
    add(store, "1", "2", "3")

    async def scenario() -> None:
        assert await texts(log.read(ALL_EVENTS, 2)) == ["2", "3"]
        assert await texts(log.read(ALL_EVENTS, 0)) == []
        assert await texts(log.read(EventFilter("b"), 9)) == []

    run(scenario)


def test_a_reader_never_holds_more_than_a_page(
    log: EventLog, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_module, "_PAGE", 3)
    asked: list[tuple[int, int]] = []
    read = store.events

    def counted(after: int, limit: int, wanted: EventFilter) -> list[Event]:
        asked.append((after, limit))
        return read(after, limit, wanted)

    monkeypatch.setattr(store, "events", counted)
    add(store, *map(str, range(7)))

    async def scenario() -> None:
        assert await texts(log.read(ALL_EVENTS, 100)) == [str(number) for number in range(7)]

    run(scenario)
    assert asked == [(0, 3), (3, 3), (6, 3)]


def test_followers_lose_nothing_and_hear_nothing_twice(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events come before a reader begins, while it is between two of them, and while it waits."""
    monkeypatch.setattr(events_module, "_PAGE", 2)

    def happens(number: int) -> None:
        log.record("a", EventKind.LOAD, str(number))

    async def scenario() -> None:
        for number in range(3):
            happens(number)
        slow = log.read(ALL_EVENTS, 10, follow=True)
        assert (await anext(slow)).text == "0"
        quick = asyncio.create_task(texts(log.read(ALL_EVENTS, 1, follow=True)))
        for number in range(3, 8):
            happens(number)
            await asyncio.sleep(0)
        assert [(await anext(slow)).text for _ in range(7)] == [str(n) for n in range(1, 8)]
        waiting = asyncio.ensure_future(anext(slow))
        await asyncio.sleep(0)
        assert not waiting.done()
        happens(8)
        assert (await waiting).text == "8"
        happens(9)
        log.close()
        assert await texts(slow) == ["9"]
        assert await quick == [str(number) for number in range(3, 10)]

    run(scenario)


def test_a_reader_that_lags_too_far_behind_goes_on_with_what_is_kept(
    log: EventLog, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gslice.daemon.store.EVENTS_MAX", 3)
    monkeypatch.setattr(events_module, "_PAGE", 1)

    async def scenario() -> None:
        add(store, "0")
        slow = log.read(ALL_EVENTS, 10)
        assert (await anext(slow)).text == "0"
        add(store, *map(str, range(1, 9)))
        assert await texts(slow) == ["6", "7", "8"]

    run(scenario)


def test_who_watches_gets_the_newest_few_then_the_new_ones(
    log: EventLog, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_module, "_FIRST", 2)
    monkeypatch.setattr(events_module, "_PAGE", 3)
    add(store, "1", "2", "3")
    watcher = log.watcher()

    def news() -> list[str]:
        return [event.text for event in watcher.news()]

    assert news() == ["2", "3"]
    assert news() == []
    add(store, "4", "5", "6", "7")
    assert [news(), news(), news()] == [["4", "5", "6"], ["7"], []]


def test_all_kinds_are_counted_from_the_start(log: EventLog) -> None:
    assert log.counts == dict.fromkeys(EventKind, 0)
    log.record("a", EventKind.CRASH, "worker 7 killed by SIGKILL")
    log.record("b", EventKind.CRASH, "worker 8 killed by SIGKILL")
    assert (log.counts["crash"], sum(log.counts.values())) == (2, 2)


def test_a_store_that_cannot_be_read_ends_a_reader_and_no_watcher(
    log: EventLog, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise Unavailable("gslice.db: disk I/O error")

    add(store, "1")
    monkeypatch.setattr(store, "events", broken)
    assert log.watcher().news() == []

    async def scenario() -> None:
        with pytest.raises(Unavailable, match="disk I/O error"):
            await texts(log.read(ALL_EVENTS, 1))

    run(scenario)


# ---- what is asked for ---------------------------------------------------------------------------


class NodeOfNobody:
    """As much of a daemon as says which names there are."""

    def __init__(self, log: EventLog) -> None:
        self.events = log
        self.node = self.supervisor = self.desired = self
        self.gpus = {"cuda:0": None}
        self.functions = {"a": None}


def test_what_can_never_be_found_is_refused(log: EventLog, store: Store) -> None:
    servicer = Servicer(NodeOfNobody(log), Path("s"))  # type: ignore[arg-type]
    add(store, "unloaded", subject="gone")
    for subject in ("", "a", "cuda:0", "frontend", "daemon", "gone"):
        servicer._check_filter(EventFilter(subject))
    with pytest.raises(NotFound, match=r"nothing is or was called 'typo' here.*a, cuda:0, daemon"):
        servicer._check_filter(EventFilter("typo"))
    with pytest.raises(InvalidArgument, match=r"no kind of event is 'crashes'.*crash, kill"):
        servicer._check_filter(EventFilter("a", ("crashes",)))


def test_every_kind_is_explained() -> None:
    page = (Path(__file__).parents[2] / "docs/operations.md").read_text()
    table = page.split("## Events")[1].split("\n## ")[0]
    told = [cell.split(" | ")[0] for cell in table.splitlines() if cell.startswith("| `")]
    assert sorted(
        " ".join(told).replace("|", "").replace(",", "").replace("`", "").split()
    ) == sorted(EventKind)
