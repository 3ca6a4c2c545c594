"""Counters of a function over its segments, its versions and its daemons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gslice._native import Segment
from gslice.core.types import FunctionSpec
from gslice.supervise.ledger import VERSIONS_MAX, Ledgers, total
from gslice.supervise.run_dir import RunDir

V1, V2 = (FunctionSpec("f", version=version, slo_p99_us=1000) for version in "12")


class Counting:
    """A segment in which requests are counted by hand."""

    name = "f"

    def __init__(self, generation: int, answered: int = 0) -> None:
        self.generation = generation
        self.answered = answered

    def stats(self) -> dict[str, Any]:
        stats = Segment.create("f", [(4096, 1)], 4096, 1).stats()
        stats["outcome"]["ok"] = self.answered
        stats["stage"]["total"]["bins"][20] = self.answered
        return stats


class Told(list[str]):
    """Events."""

    def __call__(self, subject: str, kind: str, text: str) -> None:
        self.append(f"{subject}: {text}")


def ledgers(tmp_path: Path, *living: Any, orphans: tuple[Any, ...] = (), told: Any = None) -> Any:
    """Those of a daemon that starts and finds some segments."""
    made = Ledgers(RunDir(tmp_path / "run"), Told() if told is None else told)
    made.adopt(living, orphans)
    return made


def answered(made: Ledgers, version: str = "") -> int:
    parts = [p for p in made.read("f") if version in ("", p.key.version)]
    stats = total(part.stats for part in parts)
    assert stats is not None
    assert stats["stage"]["total"]["bins"].sum() == stats["outcome"]["ok"]
    return int(stats["outcome"]["ok"])


def test_a_kept_version_that_serves_again_goes_on_from_what_all_have_counted(
    tmp_path: Path,
) -> None:
    made, first, second = ledgers(tmp_path), Counting(1), Counting(2)
    made.open(first, V1)
    first.answered = 1000
    made.open(second, V2)
    assert answered(made) == 1000  # the swap is no end of anything
    second.answered = 30
    assert answered(made) == 1030
    first.answered += 1  # back to the first
    made.close("f", second)
    assert (answered(made), answered(made, "1"), answered(made, "2")) == (1031, 1001, 30)
    third = Counting(3, 5)
    made.open(third, V2)
    assert (answered(made), answered(made, "2")) == (1036, 35)


@pytest.mark.parametrize("noted", [False, True])
def test_the_next_daemon_goes_on_whatever_died_with_the_last_one(
    tmp_path: Path, noted: bool
) -> None:
    made = ledgers(tmp_path)
    gone, kept, serving = Counting(1, 100), Counting(2, 20), Counting(3, 3)
    for segment, spec in ((gone, V1), (kept, V1), (serving, V2)):
        made.open(segment, spec)
    made.close("f", gone)
    kept.answered, serving.answered = 21, 4
    if noted:
        made.note("f")
    serving.answered = 7
    after = ledgers(tmp_path, kept, serving)
    after.open(serving, V2)
    after.open(kept, V1)
    assert (answered(after), answered(after, "1")) == (128, 121)
    alone = ledgers(tmp_path, serving)  # what was kept died
    alone.open(serving, V2)
    assert answered(alone) == 128
    serving.answered = 9
    cold = ledgers(tmp_path, orphans=(serving,))  # front-ends alone hold what rests
    again = Counting(4)
    cold.open(again, V2)
    assert (answered(cold), answered(cold, "2")) == (130, 9)


def test_without_adoption_and_after_an_unload_counters_begin_anew(tmp_path: Path) -> None:
    made, segment = ledgers(tmp_path), Counting(1, 10)
    made.open(segment, V1)
    ledgers(tmp_path)
    assert not list((tmp_path / "run").iterdir())
    made.note("f")
    made.close("f", segment)
    assert made.read("f") == []
    assert not list((tmp_path / "run").iterdir())


def test_what_cannot_be_read_or_written_is_told(tmp_path: Path) -> None:
    told, segment = Told(), Counting(1, 10)
    made = ledgers(tmp_path, told=told)
    (tmp_path / "run/f.counters").write_text("{")
    after = ledgers(tmp_path, segment, told=told)
    after.open(segment, V1)
    assert answered(after) == 10
    (tmp_path / "run/f.counters").unlink()
    (tmp_path / "run/f.counters").mkdir()
    made.open(segment, V1)
    assert [text.split(":")[1] for text in told] == [
        " what it had counted cannot be read, and begins anew",
        " the next daemon will not know what it has counted",
    ]


def test_of_many_versions_the_oldest_are_told_apart_no_more(tmp_path: Path) -> None:
    made = ledgers(tmp_path)
    serving = Counting(0)
    made.open(serving, FunctionSpec("f", version="0"))
    for number in range(1, VERSIONS_MAX + 5):
        segment = Counting(number, 1)
        made.open(segment, FunctionSpec("f", version=str(number)))
        made.close("f", segment)
    assert answered(made) == VERSIONS_MAX + 4
    assert len(made.read("f")) <= VERSIONS_MAX + 1
    assert np.all([part.stats["rows"] == 0 for part in made.read("f")])
