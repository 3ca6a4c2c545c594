"""The direction of imports, and the size of files: docs/architecture.md, "Layers and imports"."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# What each layer may import of gslice besides itself. `core` is free to all, and `gslice` itself
# (its version) too.
LAYERS: dict[str, set[str]] = {
    "__init__": {"client", "aio", "errors"},
    "__main__": {"cli"},
    "aio": {"client"},
    # The last three only inside the commands that are about them: serve, demo, doctor.
    "cli": {"client", "protos", "triton", "daemon", "demo", "device", "_native"},
    "client": {"protos"},
    "control": set(),
    "core": set(),
    "daemon": {"control", "device", "ipc", "protos", "supervise", "telemetry", "_native"},
    "demo": {"client", "protos"},
    "device": set(),
    "errors": set(),
    "fetch": {"ipc"},
    "frontend": {"ipc", "protos", "_native"},
    "ipc": {"_native"},
    "protos": set(),
    "supervise": {"control", "device", "ipc", "_native"},
    "telemetry": set(),
    "triton": {"protos"},
    "worker": {"device", "ipc", "_native"},
}

# What may not be reached from a package, through whatever it imports.
LIGHT: dict[str, set[str]] = {
    "worker": {"asyncio", "pydantic", "typer", "rich", "ruamel", "grpc", "google"},
    "frontend": {"pydantic", "typer", "rich", "ruamel"},
    "client": {"pydantic", "typer", "rich", "ruamel", "onnxruntime", "gslice._native"},
    "control": {"asyncio", "grpc", "os", "random", "socket", "threading", "time"},
    "core.types": {"pydantic", "numpy", "grpc"},
}

NATIVE: dict[str, set[str]] = {
    "base": set(),
    "segment": {"base"},
    "wire": {"base"},
    "turns": {"base", "segment"},
    "access": {"base", "segment", "wire"},
    "pump": {"base", "segment", "turns"},
    "cuda": {"base", "pump"},
    "frontend": {"base", "segment", "wire", "access"},
    "grpc": {"base", "segment", "wire", "access", "frontend"},
    "bind": {*("base", "segment", "turns", "wire", "access", "pump", "cuda", "frontend", "grpc")},
}

LINES_MAX = {"gslice": 400, "native": 400, "benchmarks": 400, "protos": 400, "tests": 500}
LONGER = {  # path: why it holds one idea all the same
    "gslice/_native.pyi": "the border between Python and C++, which is one module",
    "gslice/ipc/messages.py": "the control protocol, and what it means",
}


@dataclass(frozen=True)
class Import:
    """One import: which module, where, and whether only a type checker sees it."""

    module: str
    line: int
    typing_only: bool


def source_files() -> list[Path]:
    return sorted((ROOT / "gslice").rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").exists() or path.with_suffix(".pyi").exists()


@cache
def imports_of(path: Path) -> list[Import]:
    """Every import of a file, those inside functions too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    return [
        Import(name, node.lineno, id(node) in guarded)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in _named(node, path)
    ]


def _named(node: ast.Import | ast.ImportFrom, path: Path) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    assert node.level == 0, f"{path}:{node.lineno}: relative import"
    for alias in node.names:
        inner = f"{node.module}.{alias.name}"
        is_ours = (node.module or "").split(".")[0] == "gslice"
        yield inner if is_ours and is_module(inner) else str(node.module)


def layer_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


@pytest.mark.parametrize("typing_only", [False, True], ids=["run time", "type checking"])
def test_imports_point_one_way(typing_only: bool) -> None:
    wrong = []
    for path in source_files():
        layer = layer_of(module_name(path))
        allowed = {layer, "core", "__init__", *LAYERS[layer]}
        wrong += [
            f"{path.relative_to(ROOT)}:{found.line}: {layer} imports {found.module}"
            for found in imports_of(path)
            if found.typing_only == typing_only
            and found.module.split(".")[0] == "gslice"
            and layer_of(found.module) not in allowed
        ]
    assert wrong == []


def test_every_layer_is_known() -> None:
    layers = {layer_of(module_name(path)) for path in source_files()}
    assert layers <= LAYERS.keys()


def test_heavy_parts_of_the_command_line_wait_for_their_command() -> None:
    heavy = {"daemon", "demo", "device", "_native", "client", "protos", "triton"}
    slow = {"asyncio", "grpc", "numpy", "pydantic", "rich", "ruamel"}
    wrong = []
    for path in files_behind_help():
        for found in top_imports_of(path):
            is_ours = found.module.startswith("gslice.")
            if (
                found.module.startswith("gslice.core.config")
                or (is_ours and layer_of(found.module) in heavy)
                or found.module.split(".")[0] in slow
            ):
                wrong.append(f"{path.name}:{found.line}: {found.module}")
    assert wrong == []


def files_behind_help() -> list[Path]:
    """What `gslice --help` imports of the command line."""
    seen, waiting = set(), [ROOT / "gslice/cli/main.py"]
    while waiting:
        path = waiting.pop()
        seen.add(path)
        for found in top_imports_of(path):
            imported = ROOT.joinpath(*found.module.split(".")).with_suffix(".py")
            if found.module.startswith("gslice.cli.") and imported not in seen:
                waiting.append(imported)
    return sorted(seen)


def top_imports_of(path: Path) -> list[Import]:
    """The imports that run when a file is imported."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    top = {node.lineno for node in body if isinstance(node, ast.Import | ast.ImportFrom)}
    return [found for found in imports_of(path) if found.line in top]


def reached_from(package: str) -> dict[str, str]:
    """Every module that running code of a package can import, and one way to it."""
    start = [p for p in source_files() if f"{module_name(p)}.".startswith(f"gslice.{package}.")]
    ways = {module_name(path): module_name(path) for path in start}
    files = {module_name(path): path for path in source_files()}
    waiting = list(ways)
    while waiting:
        module = waiting.pop()
        if module not in files:
            continue
        for found in imports_of(files[module]):
            if not found.typing_only and found.module not in ways:
                ways[found.module] = f"{ways[module]} > {found.module}"
                waiting.append(found.module)
    return ways


@pytest.mark.parametrize("package", LIGHT)
def test_light_parts_reach_nothing_heavy(package: str) -> None:
    ways = reached_from(package)
    assert ways, f"there is no gslice.{package}"
    wrong = [
        way
        for module, way in ways.items()
        if module in LIGHT[package] or module.split(".")[0] in LIGHT[package]
    ]
    assert wrong == []


def test_importing_gslice_imports_nothing_else() -> None:
    code = (
        "import sys, gslice; heavy = {'grpc', 'numpy', 'google', 'pydantic', 'typer', 'rich',"
        " 'ruamel', 'asyncio', 'threading'}; print(sorted(heavy & sys.modules.keys() - base))"
    )
    code = f"import sys; base = set(sys.modules); {code}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"


# ---- native ------------------------------------------------------------------------------------


def native_files() -> list[Path]:
    return sorted(p for p in (ROOT / "native").rglob("*") if p.suffix in {".cpp", ".hpp"})


def includes_of(path: Path) -> list[str]:
    return re.findall(r'^\s*#\s*include\s*["<]([^">]+)[">]', path.read_text(), re.MULTILINE)


def test_python_is_known_in_bind_only() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}: {include}"
        for path in native_files()
        for include in includes_of(path)
        if (include == "Python.h" or include.startswith(("nanobind/", "pybind11/")))
        and path.parent.name != "bind"
    ]
    assert wrong == []


def test_native_includes_point_one_way() -> None:
    wrong = []
    for path in native_files():
        folder = path.relative_to(ROOT / "native").parts[0]
        wrong += [
            f"{path.relative_to(ROOT)}: {include}"
            for include in includes_of(path)
            if include.split("/")[0] in NATIVE
            and include.split("/")[0] not in {folder, *NATIVE[folder]}
        ]
    assert wrong == []


# ---- size --------------------------------------------------------------------------------------


def test_files_hold_one_idea() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for folder in LINES_MAX
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".pyi", ".cpp", ".hpp"}
    }
    assert lengths, "no files were found"
    long = {path: n for path, n in lengths.items() if n > LINES_MAX[path.split("/")[0]]}
    assert long.keys() == LONGER.keys(), "split these, or tell in LONGER why not"


# ---- these tests can fail ----------------------------------------------------------------------


def test_imports_are_found_wherever_they_are(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text(
        "from typing import TYPE_CHECKING\n"
        "import gslice.ipc\n"
        "if TYPE_CHECKING:\n    from gslice.core import types\n"
        "def f():\n    from gslice import _native, __version__\n"
    )
    found = {(found.module, found.typing_only) for found in imports_of(path)}
    assert found == {
        ("typing", False),
        ("gslice.ipc", False),
        ("gslice.core.types", True),
        ("gslice._native", False),
        ("gslice", False),
    }


def test_the_command_line_is_known_to_reach_what_it_may() -> None:
    packages = {module.split(".")[0] for module in reached_from("cli")}
    assert {"pydantic", "typer", "rich", "ruamel", "grpc"} <= packages
