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
from gslice.triton.model import Body, read_model
from gslice.triton.report import Note, Refusal
from gslice.triton.repository import ModelDir, models_of
from gslice.triton.warmup import Sample, write_sample

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
    """

    functions: dict[str, Body] = field(default_factory=dict)
    samples: dict[str, Sample] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)

    def write_samples(self, folder: Path) -> None:
        """Writes the samples into a directory, and has the functions name them."""
        for name, sample in self.samples.items():
            path = folder.absolute() / f"{name}.npz"
            write_sample(path, sample)
            self.functions[name]["warmup"] = str(path)


def read_repositories(roots: Sequence[Path], config: Config) -> Repositories:
    """Reads every model of some repositories, each by itself: one that is wrong harms no other.

    Args:
        roots: Their directories.
        config: The node for which they are.

    Raises:
        NotFound, InvalidArgument: one of the directories is no repository.
        FailedPrecondition: nothing at all can be served.
    """
    read = Repositories()
    for model in [model for root in roots for model in models_of(root)]:
        try:
            _take(read, model, config)
        except GsliceError as error:
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
    roots: Sequence[Path],
    path: Path | None,
    *,
    overrides: Iterable[Override] = (),
    find_gpus: FindGpus,
    environ: Mapping[str, str] | None = None,
) -> tuple[Config, Repositories]:
    """The configuration of a node that serves repositories, beside what its node.yaml has.

    Samples go into its state directory.

    Args:
        roots: The repositories.
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
    read = read_repositories(roots, bare)
    if read.samples:
        bare.node.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)  # as the daemon would
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
    if found.sample is not None:
        read.samples[model.name] = found.sample
