"""A node that serves model repositories: what it is configured as, and what cannot be served."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from gslice.core.config import Override, function_from_yaml, load_config
from gslice.core.config.overrides import without_functions
from gslice.core.errors import AlreadyExists, FailedPrecondition, GsliceError
from gslice.core.sources import is_remote
from gslice.triton.model import Body, read_model
from gslice.triton.outline import opened
from gslice.triton.report import Note, Refusal
from gslice.triton.repository import ModelDir, models_of
from gslice.triton.warmup import Sample, write_samples

if TYPE_CHECKING:
    from gslice.core.config import Config
    from gslice.core.config.load import FindGpus


@dataclass
class Repositories:
    """What was read of one or several.

    Attributes:
        functions: What stands under `functions` for each model that is served, less `warmup`.
        samples: What some of them are warmed up with.
        notes: Settings that are not honoured.
        refused: Models that are not served.
        stale: Repositories that could not be looked at, and are as they were.
    """

    functions: dict[str, Body] = field(default_factory=dict)
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)

    def write_samples(self, folder: Path) -> None:
        """Writes the samples into a directory, and has the functions name them."""
        for name, samples in self.samples.items():
            path = folder.absolute() / f"{name}.npz"
            write_samples(path, samples)
            self.functions[name]["warmup"] = str(path)


def read_repositories(places: Sequence[str], config: Config, outlines: Path) -> Repositories:
    """Reads every model of some repositories, each by itself: one that is wrong harms no other.

    Args:
        places: Their directories, or URLs.
        config: The node for which they are.
        outlines: Where those of repositories at URLs are kept.

    Raises:
        NotFound, InvalidArgument: one of the directories is no repository.
        GsliceError: One that is at a URL was never seen.
        FailedPrecondition: nothing at all can be served.
    """
    read = Repositories()
    roots = [opened(place, outlines, read.stale.append) for place in places]
    found = [(root, model) for root in roots for model in models_of(root)]
    for root, model in found:
        try:
            _take(read, model, config)
        except GsliceError as error:
            error.message = root.told(error.message)
            read.refused.append(Refusal.of(model.name, error))
    if not read.functions and not config.functions:
        where = ", ".join(map(str, roots))
        told = "\n".join(map(str, read.refused))
        raise FailedPrecondition(
            f"{where}: no model can be served" + (f"\n{told}" if told else ""),
            hint="a repository holds <model>/<version>/model.onnx",
        )
    return read


def node_config(
    places: Sequence[str],
    path: Path | None,
    *,
    overrides: Iterable[Override] = (),
    find_gpus: FindGpus,
    environ: Mapping[str, str] | None = None,
) -> tuple[Config, Repositories]:
    """The configuration of a node that serves repositories, beside what its node.yaml has.

    Samples go into its state directory, as do outlines of what is at a URL.

    Args:
        places: The repositories.
        path: Its node.yaml, if it has one.
        overrides: As of `load_config`.
        find_gpus: As of `load_config`.
        environ: As of `load_config`.

    Raises:
        ConfigError: as of `load_config`.
        GsliceError: as of `read_repositories`.
    """
    environ = os.environ if environ is None else environ
    given = list(overrides)
    bare = load_config(
        path, overrides=given, environ=without_functions(environ), find_gpus=find_gpus
    )
    state_dir = bare.node.state_dir
    if any(map(is_remote, places)):
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)  # as the daemon would
    read = read_repositories(places, bare, state_dir / "repositories")
    if read.samples:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        read.write_samples(bare.node.samples_dir)
    additions = [
        Override(("functions", name), body, f"the repository's {name}")
        for name, body in read.functions.items()
    ]
    config = load_config(
        path, additions=additions, overrides=given, environ=environ, find_gpus=lambda: bare.gpus
    )
    return config, read


def _take(read: Repositories, model: ModelDir, config: Config) -> None:
    if model.name in read.functions or model.name in config.functions:
        where = "node.yaml" if model.name in config.functions else "another repository"
        raise AlreadyExists(f"{where} has a function of that name", hint="rename one of them")
    found = read_model(model, config.devices)
    function_from_yaml(model.name, json.dumps(found.body), model.path, config=config)
    read.functions[model.name] = found.body
    read.notes += found.notes
    if found.samples:
        read.samples[model.name] = found.samples
