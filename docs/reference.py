"""A Sphinx extension: the pages of `reference/`, written from the code that they describe."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from sphinx.application import Sphinx

from gslice.cli.main import app as commands
from gslice.core.config import json_schema

_SECTIONS = {  # in the order in which one writes a node.yaml
    "Node": "node",
    "Tls": "node.tls",
    "ClientMemory": "node.client_memory",
    "Device": "devices.NAME",
    "Limits": "devices.NAME.limits",
    "Defaults": "defaults",
    "Function": "functions.NAME",
}
_INTRODUCTION = """# Every setting of node.yaml

Written from the models that check the file. `gslice config schema` prints the same as a JSON
Schema, `gslice config check` names every mistake by its line, and
[configs/node.yaml](../../configs/node.yaml) shows all settings in one file.

Durations carry units (`us`, `ms`, `s`, `m`, `h`), sizes too (`KB` is 1000 bytes, `KiB` 1024), and
shares are percentages of a device. Paths start from the file's directory. Every setting can come
from the environment, as in `GSLICE_FUNCTIONS__DETECTOR__SHARE=40%`.
"""


def configuration() -> str:
    """`reference/configuration.md`."""
    schema = json_schema()
    definitions = schema["$defs"]
    known = [name for name in _SECTIONS if name in definitions]
    rest = [name for name in definitions if name not in _SECTIONS]
    lines = [_INTRODUCTION, "## The file", "", *_table(schema)]
    for name in known + rest:
        title = _SECTIONS.get(name, "")
        about = definitions[name].get("description", "").removeprefix(f"`{title}`: ")
        about = about[:1].upper() + about[1:]
        lines += ["", f"({_anchor(name)})=", f"## {f'`{title}`' if title else name}", ""]
        lines += [about, "", *_table(definitions[name])]
    return "\n".join(lines) + "\n"


def _anchor(name: str) -> str:
    return f"setting-{name.lower()}"


def _table(section: dict[str, Any]) -> Iterator[str]:
    yield "| key | takes | default | |"
    yield "|---|---|---|---|"
    required = section.get("required", ())
    for key, field in section.get("properties", {}).items():
        default = "required" if key in required else _default(field.get("default"))
        about = field.get("description", "").replace("|", "\\|")
        yield f"| `{key}` | {_takes(field)} | {default} | {about} |"


def _default(value: Any) -> str:
    if value in (None, "", {}, []) or isinstance(value, dict):
        return ""
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _takes(field: dict[str, Any]) -> str:
    """What may be written, in words."""
    if reference := field.get("$ref"):
        name = reference.rpartition("/")[2]
        return f"[{_SECTIONS.get(name, name)}](#{_anchor(name)})"
    if "anyOf" in field:
        kinds = [_takes(kind) for kind in field["anyOf"] if kind.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return " ".join(f"`{word}`" for word in field["enum"])
    if examples := field.get("examples"):
        return f"as in {', '.join(f'`{example}`' for example in examples)}"
    if "properties" in field:
        return f"`{{{', '.join(f'{key}: ...' for key in field['properties'])}}}`"
    return _of_type(field)


def _of_type(field: dict[str, Any]) -> str:
    kind = field.get("type", "")
    if isinstance(kind, list):
        return " or ".join(_of_type({**field, "type": each}) for each in kind)
    if kind == "array":
        return f"list of {_takes(field.get('items', {}))}"
    if kind == "object" and isinstance(field.get("additionalProperties"), dict):
        return f"by name: {_takes(field['additionalProperties'])}"
    low, high = field.get("minimum"), field.get("maximum")
    bounds = f", {low} to {high}" if high is not None else f", {low} or more" if low else ""
    words = {
        "integer": "number",
        "string": "text",
        "boolean": "`true` `false`",
        "object": "mapping",
    }
    return words.get(kind, kind) + bounds


def command_pages() -> str:
    """`reference/commands.md`."""
    lines = ["# Every command", "", "As `--help` shows them.", ""]
    for path, command in _leaves("gslice", typer.main.get_command(commands)):
        context = command.make_context(path, [], resilient_parsing=True)
        lines += [f"## `{path}`", "", "```text", command.get_help(context), "```", ""]
    return "\n".join(lines)


def _leaves(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    """Commands that are no groups, in the order of `--help`."""
    group = getattr(command, "commands", None)
    if group is None:
        yield path, command
        return
    for name, entry in group.items():
        if not entry.hidden:
            yield from _leaves(f"{path} {name}", entry)


def _write(app: Sphinx) -> None:
    folder = Path(app.srcdir) / "reference"
    folder.mkdir(exist_ok=True)
    for name, text in (("configuration", configuration()), ("commands", command_pages())):
        page = folder / f"{name}.md"
        if not page.exists() or page.read_text() != text:
            page.write_text(text)


def setup(app: Sphinx) -> dict[str, bool]:
    """What Sphinx calls."""
    app.connect("builder-inited", _write)
    return {"parallel_read_safe": True}
