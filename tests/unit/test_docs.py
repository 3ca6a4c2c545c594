"""The documentation says what the code does: links, messages, settings."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from gslice.core.config import json_schema

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page
    for page in (ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/**/*.md"))
    if "reference" not in page.parts and "_build" not in page.parts
)
GENERATED = {"docs/reference/configuration.md", "docs/reference/commands.md"}
LINK = re.compile(r"(?<!`)\[[^\]\n]*\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """As GitHub and MyST make them of headings."""
    headings = re.findall(r"^#+ +(.*)$", page.read_text(), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", each)).strip().lower().replace(" ", "-")
        for each in headings
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if str(there.relative_to(ROOT)) in GENERATED:
            continue
        assert there.exists(), target
        if anchor:
            assert anchor in anchors(there), target


def test_messages_that_are_explained_exist() -> None:
    source = "\n".join(
        path.read_text()
        for folder in ("gslice", "native")
        for path in sorted((ROOT / folder).rglob("*"))
        if path.suffix in (".py", ".cpp", ".hpp")
    )
    source = re.sub(r'"\s*\n\s*f?"', "", source)  # what is written in several lines
    page = (ROOT / "docs/troubleshooting.md").read_text()
    told = re.findall(r"^### (.*)$", page, re.MULTILINE)
    parts = [
        part.strip(" ,;:=%")
        for heading in told
        for code in re.findall(r"`([^`]+)`", heading)
        for part in code.split("…")
    ]
    long = [part for part in parts if len(part) >= 6]
    assert len(long) > 25
    assert [part for part in long if part not in source] == []


def test_every_setting_is_described() -> None:
    schema = json_schema()
    sections = {**schema["$defs"], "": schema}
    assert [
        f"{section}.{key}"
        for section, body in sections.items()
        for key, field in body.get("properties", {}).items()
        if not field.get("description")
    ] == []


def test_pages_are_built_without_a_warning(tmp_path: Path) -> None:
    html = tmp_path / "html"
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", tmp_path / "trees"]
    done = subprocess.run([*command, ROOT / "docs", html], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = (html / "reference/configuration.html").read_text()
    assert "node.client_memory" in page
    assert "gslice resize" in (html / "reference/commands.html").read_text()


def test_defaults_are_shown_as_they_are_written() -> None:
    node = json_schema()["$defs"]["Node"]["properties"]
    shown = {key: node[key]["default"] for key in ("orphan_grace", "request_max", "spares")}
    assert shown == {"orphan_grace": "1m", "request_max": "64MiB", "spares": "auto"}
