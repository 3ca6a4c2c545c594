"""docs/security.md names a test for each promise; each of them is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_test_that_is_named_is_there() -> None:
    table = (ROOT / "docs/security.md").read_text().split("## Promises and their tests")[1]
    rows = [row for row in table.splitlines() if row.startswith("| ")][1:]
    assert len(rows) > 15
    for row in rows:
        promise, tests = row.strip("|").split(" | ", 1)
        file = ""
        named = re.findall(r"`([^`]+)`", tests)
        assert named, promise
        for name in named:
            path, _, function = name.partition("::")
            file = path or file
            text = (ROOT / file).read_text()
            assert not function or f"def {function}(" in text, name
