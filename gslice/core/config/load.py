"""Reading the desired state: node.yaml, one model file, or one function's text."""

from __future__ import annotations

import copy
import dataclasses
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from gslice.core.config.build import Builder, share_bounds
from gslice.core.config.document import Document, KeyPath, Problem, parse_document
from gslice.core.config.model import Defaults, Function, FunctionName, NodeFile
from gslice.core.config.overrides import environment_overrides
from gslice.core.config.policy import refusal
from gslice.core.config.problems import problems_of
from gslice.core.config.ranges import Share
from gslice.core.config.types import Config, Override
from gslice.core.errors import ConfigError, NotFound
from gslice.core.sources import is_remote, plain_path
from gslice.core.types import FunctionSpec, ShareBounds

FUNCTION_TEXT_MAX = 1 << 16  # clients may send one, and reading it takes the daemon's time

FindGpus = Callable[[], Sequence[str]]

_Model = TypeVar("_Model", bound=BaseModel)


def no_gpus() -> Sequence[str]:
    """Finds none."""
    return ()


def load_config(
    path: Path | None,
    *,
    additions: Iterable[Override] = (),
    overrides: Iterable[Override] = (),
    environ: Mapping[str, str] | None = None,
    find_gpus: FindGpus = no_gpus,
) -> Config:
    """Reads and checks node.yaml.

    Args:
        path: The file; None: defaults, environment and `overrides` alone.
        additions: What else is in the file, so to speak: the environment may change it.
        overrides: Settings of the command line; they win over the environment, and that over the
            file.
        environ: Stands in for `os.environ`.
        find_gpus: Names the GPUs that `devices: auto` stands for.

    Raises:
        ConfigError: everything that is wrong, a line each: `node.yaml:12: functions.a.shar: ...`.
        NotFound: no such file.
    """
    environ = os.environ if environ is None else environ
    document = read_document(path) if path is not None else _empty_document()
    for addition in additions:
        document.override(addition)
    for override in (*environment_overrides(environ, document.data), *overrides):
        document.override(override)
    gpus = find_gpus() if document.data.get("devices", "auto") == "auto" else ()
    return _built(document, path, environ, gpus)


def load_config_text(text: str, path: Path, gpus: Sequence[str] = ()) -> Config:
    """What a node.yaml with this text would say, with nothing of the environment in it.

    Args:
        text: The YAML.
        path: Where it is, or will be.
        gpus: Names of the GPUs that `devices: auto` stands for.

    Raises:
        ConfigError: as of `load_config`.
    """
    return _built(parse_document(text, str(path)), path, {}, gpus)


def state_dir_of(path: Path | None, environ: Mapping[str, str] | None = None) -> Path:
    """The state directory that a node.yaml names, whatever else may be wrong with it.

    Args:
        path: The file; None: the environment alone.
        environ: Stands in for `os.environ`.

    Raises:
        ConfigError: the file is not YAML, or its `node` is wrong.
        NotFound: no such file.
    """
    environ = os.environ if environ is None else environ
    document = read_document(path) if path is not None else _empty_document()
    wanted = {"GSLICE_NODE__STATE_DIR"} & environ.keys()
    for override in environment_overrides({name: environ[name] for name in wanted}, document.data):
        document.override(override)
    node = document.data.get("node", {})
    if isinstance(node, dict):  # who asks for the directory need not be able to read keys
        node = {key: value for key, value in node.items() if key not in ("tls", "access")}
    document.data = {"version": 1, "node": node}
    return _built(document, path, environ).node.state_dir


def config_for_model(
    model: Path | str,
    *,
    name: str | None = None,
    settings: Mapping[str, Any] | None = None,
    overrides: Iterable[Override] = (),
    environ: Mapping[str, str] | None = None,
    find_gpus: FindGpus = no_gpus,
) -> Config:
    """The configuration of `gslice serve model.onnx`, with no YAML.

    Args:
        model: The model file, or its URL; it is looked at only when it is loaded.
        name: The function's name; None: the file's, with what a name cannot hold as `-`.
        settings: Further keys of the function as YAML would give them, such as `share`.
        overrides: As of `load_config`.
        environ: As of `load_config`.
        find_gpus: As of `load_config`.

    Raises:
        ConfigError: an option is wrong.
    """
    path = str(model) if is_remote(str(model)) else str(Path(model).absolute())
    name = name or name_of_model(Path(plain_path(path)))
    body = {"model": path, **(settings or {})}
    function = Override(("functions", name), body, origin="command line")
    return load_config(None, overrides=(function, *overrides), environ=environ, find_gpus=find_gpus)


def name_of_model(model: Path) -> str:
    """The name under which a model file is served."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", model.stem).lstrip("._-")[:64] or "model"


def function_from_yaml(
    name: str, text: str, base_dir: Path, *, config: Config | None = None
) -> FunctionSpec:
    """One function from the body under `functions.<name>`.

    Args:
        name: The function's.
        text: YAML or JSON.
        base_dir: Directory that relative paths start from.
        config: The node it is for: its devices, its limits and its file's defaults.

    Raises:
        ConfigError: everything that is wrong, a line each.
    """
    if len(text) > FUNCTION_TEXT_MAX:
        raise ConfigError(f"functions.{name}: more than {FUNCTION_TEXT_MAX} characters")
    document = parse_document(text, name, prefix=("functions", name))
    # The name is checked as a key would be, and its problems are told like a key's.
    checked = _validated(_Named, Document(name, {"name": name}))
    function = _validated(Function, document)
    builder = Builder(base_dir.absolute(), os.environ, [])
    devices = config.devices if config is not None else builder.devices({})
    request_max_bytes = config.node.request_max_bytes if config is not None else 2**63
    defaults = Defaults.model_validate(config.defaults if config is not None else {})
    spec = builder.function(checked.name, function, defaults, devices, request_max_bytes)
    inner = (Problem(problem.path[2:], problem.text) for problem in builder.problems)
    _refuse(document, list(inner))
    return spec


def share_from_yaml(name: str, text: str) -> ShareBounds:
    """A share as it stands under `functions.<name>.share`.

    Raises:
        ConfigError: it is none.
    """
    document = parse_document(f"share: {text}", name, prefix=("functions", name))
    return share_bounds(_validated(_Shared, document).share)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of node.yaml."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **NodeFile.model_json_schema(mode="serialization"),  # which has defaults as written
        "title": "gslice node.yaml",
    }


def read_document(path: Path) -> Document:
    """The parsed file.

    Raises:
        NotFound: no such file, or it cannot be read.
        ConfigError: it is not YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise NotFound(
            f"{path}: {error.strerror or error}", hint="`gslice init` writes a node.yaml"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}:1: not UTF-8 text") from error
    return parse_document(text, str(path))


class _Named(BaseModel):
    name: FunctionName


class _Shared(BaseModel):
    model_config = ConfigDict(extra="forbid")
    share: Share


def _empty_document() -> Document:
    return Document("command line", {"version": 1})


def _built(
    document: Document, path: Path | None, environ: Mapping[str, str], gpus: Sequence[str] = ()
) -> Config:
    base = path.absolute().parent if path is not None else Path.cwd()
    builder = Builder(base, environ, [], gpus)
    try:
        file = NodeFile.model_validate(document.data)
    except ValidationError as error:
        problems = problems_of(error, NodeFile, document.data)
        raise document.error([*problems, *_further(document, problems, builder)]) from error
    config = builder.config(file, path.absolute() if path is not None else None)
    for spec in config.functions.values():
        if text := refusal(spec, config.node):
            builder.problems.append(Problem(("functions", spec.name), text))
    _refuse(document, builder.problems)
    return dataclasses.replace(config, defaults=document.data.get("defaults", {}))


def _further(document: Document, problems: list[Problem], builder: Builder) -> list[Problem]:
    """What would be wrong still if the problems were not there, so that one run tells all."""
    if any(problem.path[:1] == ("devices",) for problem in problems):
        return []  # without its devices, much would look wrong that is not
    data = {**copy.deepcopy(document.data), "version": 1}
    for depth in (3, 2):  # first the keys that are wrong, then the functions that need them
        for problem in problems:
            _remove(data, problem.path[:depth])
        try:
            builder.config(NodeFile.model_validate(data), None)
        except ValidationError as error:
            problems = problems_of(error, NodeFile, data)
        else:
            return builder.problems
    return []


def _remove(data: Any, path: KeyPath) -> None:
    for part in path[:-1]:
        data = data.get(part) if isinstance(data, dict) else None
    if isinstance(data, dict):
        data.pop(path[-1], None)


def _validated(model: type[_Model], document: Document) -> _Model:
    try:
        return model.model_validate(document.data)
    except ValidationError as error:
        raise document.error(problems_of(error, model, document.data)) from error


def _refuse(document: Document, problems: list[Problem]) -> None:
    if problems:
        raise document.error(problems)
