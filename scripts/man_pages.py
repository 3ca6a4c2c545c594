"""Writes a man page for each command, from what the command line says of itself.

python scripts/man_pages.py build/man
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from gslice import __version__
from gslice.cli.main import app

_ENVIRONMENT = {
    "GSLICE_STATE_DIR": "Where the daemon keeps its state if no node.yaml says.",
    "GSLICE_NODE__GRPC, ...": "Every setting of node.yaml: sections and keys in upper case, two"
    " underscores between them.",
    "GSLICE_TLS, GSLICE_TLS_CA, GSLICE_TLS_CERT, GSLICE_TLS_KEY": "As the options of infer and"
    " bench.",
    "NO_COLOR": "No colours.",
}
_FILES = {
    "node.yaml": "What a node serves: gslice config schema, and configs/node.yaml of the source.",
    "~/.local/state/gslice": "State of a daemon that was started without a node.yaml.",
}
_STATUS = {
    "0": "It is done.",
    "1": "It failed; the reason is on standard error.",
    "2": "The command line is wrong; or, with --dry-run of gslice apply, something differs.",
    "130": "Ctrl-C ended it.",
}


def commands() -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with its words, `gslice` first, and itself as the first one."""
    yield from _below(("gslice",), typer.main.get_command(app))


def page(words: tuple[str, ...], command: Any) -> str:
    """The page of a command, as roff."""
    context = typer.Context(command, info_name=" ".join(words))
    about = _paragraphs(command.help or "")
    summary = command.get_short_help_str(limit=200).rstrip(".") or " ".join(words)
    lines = [
        f'.TH "{"-".join(words).upper()}" 1 "" "gslice {__version__}" "gslice"',
        *_section("NAME", [f"{_text('-'.join(words))} \\- {_text(summary)}"]),
        *_section("SYNOPSIS", [f".B {_text(' '.join(words))}", *_pieces(command, context)]),
        *_section("DESCRIPTION", [line for text in about for line in (".PP", _text(text))]),
    ]
    records = [param.get_help_record(context) for param in command.params]
    lines += _list("OPTIONS", dict(filter(None, records)))
    if below := getattr(command, "commands", {}):
        helps = {name: each.get_short_help_str(limit=200) for name, each in below.items()}
        lines += _list("COMMANDS", helps)
    if len(words) == 1:
        lines += _list("ENVIRONMENT", _ENVIRONMENT) + _list("FILES", _FILES)
        lines += _list("EXIT STATUS", _STATUS)
    return "\n".join([*lines, *_section("SEE ALSO", [_related(words, below)])]) + "\n"


def write(directory: Path) -> list[Path]:
    """Writes all pages, and returns their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for words, command in commands():
        path = directory / f"{'-'.join(words)}.1"
        path.write_text(page(words, command), encoding="utf-8")
        written.append(path)
    return written


def _below(words: tuple[str, ...], command: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield words, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from _below((*words, name), inner)


def _section(title: str, lines: list[str]) -> list[str]:
    return [f'.SH "{title}"', *lines] if lines else []


def _list(title: str, entries: dict[str, str]) -> list[str]:
    tagged = [
        line
        for name, told in entries.items()
        for line in (".TP", f"\\fB{_text(name)}\\fR", _text(told))
    ]
    return _section(title, tagged)


def _pieces(command: Any, context: Any) -> list[str]:
    return [_text(" ".join(command.collect_usage_pieces(context)))]


def _related(words: tuple[str, ...], below: dict[str, Any]) -> str:
    names = ["-".join((*words, name)) for name in below]
    if len(words) > 1:
        names.insert(0, "-".join(words[:-1]))
    return ", ".join(f"\\fB{_text(name)}\\fR(1)" for name in names)


def _paragraphs(text: str) -> list[str]:
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n", text.strip()) if part.strip()]


def _text(text: str) -> str:
    """Plain text in roff: no escapes of its own, and no line that begins with a request."""
    safe = " ".join(text.split()).replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{safe}" if safe[:1] in (".", "'") else safe


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    print(f"{len(write(parser.parse_args().directory))} pages")
