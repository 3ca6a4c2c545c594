"""The documentation says what the code does: links, messages, settings."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from gslice.cli.main import app
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


def commands_told(page: Path) -> list[str]:
    """What follows `gslice` where a page has it in backticks, or as a line of a console."""
    text = page.read_text()
    inline = re.findall(r"`gslice ([a-z][^`]*)`", re.sub(r"\s*\n\s*", " ", text))
    typed = re.findall(r"^ *\$ gslice (.*)$", text, re.MULTILINE)
    return [*inline, *(line.partition("  #")[0] for line in typed)]


def test_commands_and_their_options_exist() -> None:
    every = typer.main.get_command(app)
    told_anywhere = [told for page in PAGES for told in commands_told(page)]
    assert len(told_anywhere) > 100
    for told in told_anywhere:
        command: Any = every
        words = told.split()
        while hasattr(command, "commands") and words and not words[0].startswith("-"):
            assert words[0] in command.commands, f"gslice {told}"
            command = command.commands[words.pop(0)]
        known = {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
        given = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert given - {"--help"} <= known, f"gslice {told}"


def test_settings_of_the_node_that_pages_name_exist() -> None:
    known = set(json_schema()["$defs"]["Node"]["properties"])
    told = {key for page in PAGES for key in re.findall(r"`node\.([a-z_]+)", page.read_text())}
    told.remove("yaml")
    assert len(told) > 20
    assert told - known == set()


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
