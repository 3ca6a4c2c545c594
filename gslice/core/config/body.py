"""A function as the text under `functions.<name>`: the way back from `FunctionSpec` to YAML."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from gslice.core.config.document import new_yaml
from gslice.core.config.engines import engine_of
from gslice.core.config.tensors import ModelTensors
from gslice.core.config.types import SettingChange
from gslice.core.sources import is_remote
from gslice.core.types import (
    INSTANCES_MAX,
    FunctionSpec,
    ProgramSpec,
    ReplicaBounds,
    ShareBounds,
)
from gslice.core.units import format_duration, format_percent, format_size

Leaves = dict[tuple[str, ...], Any]

# Text that ruamel may write without quotes; it would leave them out where YAML needs them, too.
_PLAIN = re.compile(r"|[A-Za-z0-9_./][A-Za-z0-9_./%+@-]*([ :][A-Za-z0-9_./%+@-]+)*")


def function_to_yaml(spec: FunctionSpec, base_dir: Path | None = None) -> str:
    """The body under `functions.<name>`, without what is default anyway.

    Args:
        spec: The function.
        base_dir: Paths inside it are written relative to it; None: all are absolute.
    """
    return to_text(compact_body(spec, base_dir))


def diff_functions(
    file: Mapping[str, FunctionSpec],
    running: Mapping[str, FunctionSpec],
    base_dir: Path | None = None,
) -> list[SettingChange]:
    """Every setting in which two sets of functions differ, ordered by path.

    Args:
        file: As node.yaml has them.
        running: As they are served.
        base_dir: As of `function_to_yaml`.
    """
    changes = []
    for name in sorted({*file, *running}):
        old, new, path = file.get(name), running.get(name), f"functions.{name}"
        if old is not None and new is not None:
            changes += _changed_settings(path, leaves(old, base_dir), leaves(new, base_dir))
        elif old is not None:
            changes.append(SettingChange(path, function_to_yaml(old, base_dir), ""))
        elif new is not None:
            changes.append(SettingChange(path, "", function_to_yaml(new, base_dir)))
    return changes


def leaves(spec: FunctionSpec, base_dir: Path | None) -> Leaves:
    """Every setting of a function by its keys, defaults too."""
    if spec.program is not None:
        return _command(spec, spec.program, base_dir)
    spec = spec.as_declared
    settings: Leaves = {**_source(spec, base_dir)}
    serve = spec.versions.serve
    settings[("versions", "keep")] = spec.versions.keep
    settings[("versions", "serve")] = serve if serve == "latest" else int(serve)
    settings[("versions", "number")] = spec.versions.number
    settings[("device",)] = "auto" if spec.devices else spec.device
    settings[("replicas",)] = _replicas(spec.replicas)
    settings[("isolation",)] = spec.isolation
    settings[("share",)] = _share(spec.share)
    settings[("instances",)] = spec.instances
    settings[("residency",)] = spec.residency
    settings[("idle_after",)] = format_duration(spec.idle_after_us)
    settings[("priority",)] = spec.priority
    settings[("slo", "p99")] = format_duration(spec.slo_p99_us) if spec.slo_p99_us else "none"
    settings[("batch", "max")] = spec.batch_max or "auto"
    settings[("batch", "delay")] = format_duration(spec.delay_us) if spec.delay_us >= 0 else "auto"
    settings[("queue", "max")] = spec.queue_max
    settings[("queue", "request_max")] = format_size(spec.request_max_bytes)
    samples = relative_path(spec.warmup, base_dir)
    count = spec.warmup_count
    settings[("warmup",)] = {"samples": samples, "count": count} if count else samples
    settings[("side_effects",)] = spec.side_effects
    settings[("threads",)] = spec.threads or "auto"
    settings[("lanes",)] = spec.lanes
    settings[("precision",)] = spec.precision
    settings[("channels_last",)] = spec.channels_last
    for key, value in spec.environment.items():
        settings[("environment", key)] = value
    return settings


def compact_body(spec: FunctionSpec, base_dir: Path | None) -> CommentedMap:
    """The settings that differ from the defaults, as a mapping ready to be written."""
    settings = leaves(spec, base_dir)
    if spec.program is None:
        usual = leaves(FunctionSpec(spec.name, devices=spec.devices), None)
        source = _source(spec.as_declared, base_dir)
    else:
        default = FunctionSpec(spec.name, devices=spec.devices, program=ProgramSpec(()))
        usual = leaves(default, None)
        usual[("directory",)] = "." if base_dir is None else relative_path(str(base_dir), base_dir)
        source = {("command",): spec.program.command}
    return nested(
        {
            path: value
            for path, value in settings.items()
            if path in source or path not in usual or usual[path] != value
        }
    )


def nested(settings: Leaves) -> CommentedMap:
    """Settings as a mapping: the top in block style, what is inside in flow style."""
    body = CommentedMap()
    for path, value in settings.items():
        here = body
        for key in path[:-1]:
            here = here.setdefault(key, flow(CommentedMap()))
        here[as_written(path[-1])] = as_written(value)
    return body


def as_written(value: Any) -> Any:
    """A plain value as ruamel writes it inline."""
    if isinstance(value, Mapping):
        entries = {as_written(key): as_written(entry) for key, entry in value.items()}
        return flow(CommentedMap(entries))
    if isinstance(value, (list, tuple)):
        return flow(CommentedSeq([as_written(entry) for entry in value]))
    if isinstance(value, str) and not _PLAIN.fullmatch(value):
        return DoubleQuotedScalarString(value)
    return value


def flow(collection: Any) -> Any:
    """The collection, to be written as `{...}` or `[...]`."""
    collection.fa.set_flow_style()
    return collection


def to_text(value: Any) -> str:
    """YAML of a value, without a closing newline; scalars and lists on one line."""
    stream = io.StringIO()
    if isinstance(value, CommentedMap):
        new_yaml().dump(value, stream)
        return stream.getvalue().rstrip("\n")
    new_yaml().dump(flow(CommentedSeq([as_written(value)])), stream)
    return stream.getvalue().strip()[1:-1]  # a list of one, less its brackets


def _changed_settings(path: str, old: Leaves, new: Leaves) -> list[SettingChange]:
    def text(settings: Leaves, key: tuple[str, ...]) -> str:
        return to_text(settings[key]) if key in settings else ""

    return [
        SettingChange(".".join((path, *key)), text(old, key), text(new, key))
        for key in sorted({*old, *new})
        if (key in old) != (key in new) or old.get(key) != new.get(key)
    ]


def _command(spec: FunctionSpec, program: ProgramSpec, base_dir: Path | None) -> Leaves:
    memory = program.memory_bytes
    settings: Leaves = {("command",): list(program.command)}
    settings[("directory",)] = relative_path(program.directory, base_dir)
    settings[("device",)] = spec.device
    settings[("isolation",)] = spec.isolation
    settings[("share",)] = _share(spec.share)
    settings[("memory",)] = format_size(memory) if memory else "none"
    settings[("priority",)] = spec.priority
    if program.health_url:
        settings[("health",)] = {
            "url": program.health_url,
            "period": format_duration(program.health_period_us),
            "timeout": format_duration(program.health_timeout_us),
        }
    settings[("stop", "signal")] = program.stop_signal
    settings[("stop", "timeout")] = format_duration(program.stop_timeout_us)
    for key, value in spec.environment.items():
        settings[("environment", key)] = value
    return settings


def _source(spec: FunctionSpec, base_dir: Path | None) -> Leaves:
    if spec.engine == "identity":
        tensors = dict(spec.args)
        if tensors.get("outputs") == tensors.get("inputs"):
            tensors.pop("outputs", None)
        return {("identity",): tensors}
    args = dict(spec.args)
    if spec.model or spec.engine == "onnxruntime":
        source: Leaves = {("model",): relative_path(spec.model, base_dir)}
        if spec.engine != engine_of(spec.model):
            source[("engine",)] = spec.engine
        for name, shapes in args.pop("shapes", {}).items():
            source[("shapes", name)] = shapes
        if tensors := {key: args.pop(key) for key in ModelTensors.model_fields if key in args}:
            source[("tensors",)] = tensors
    else:
        source = {(spec.engine,): spec.python}
        if base_dir is None or Path(spec.python_path) != base_dir.absolute():
            source[("python_path",)] = relative_path(spec.python_path, base_dir)
    for key, value in args.items():
        source[("args", key)] = value
    return source


def _share(share: ShareBounds) -> Any:
    if share == ShareBounds():
        return "auto"
    if share.min_percent == share.max_percent:
        return format_percent(share.min_percent)
    return {"min": format_percent(share.min_percent), "max": format_percent(share.max_percent)}


def _replicas(replicas: ReplicaBounds) -> Any:
    low, high = replicas.min_count, replicas.max_count
    if low == high:
        return low
    return "auto" if (low, high) == (1, INSTANCES_MAX) else {"min": low, "max": high}


def relative_path(path: str, base_dir: Path | None) -> str:
    """A path as it is written into a file of that directory: relative if it is below."""
    if base_dir is None or not path or is_remote(path):
        return path
    relative = os.path.relpath(path, base_dir.absolute())
    return path if relative.startswith("..") else f"./{relative}"
