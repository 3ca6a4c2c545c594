"""The layout of a model repository: `<model>/config.pbtxt` and `<model>/<version>/model.onnx`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gslice.core.errors import FailedPrecondition, InvalidArgument, NotFound, Unimplemented

CONFIG_NAME = "config.pbtxt"
_VERSION = re.compile(r"[1-9][0-9]{0,17}")  # Triton passes over names that begin with a zero

# Of Triton's backends: the name of a model's file, and the files that gslice's engines take.
_FILES = {
    "onnxruntime": ("model.onnx",),
    "pytorch": ("model.pt2",),
    "python": ("model.py",),
}
_PLATFORMS = {
    "onnxruntime_onnx": "onnxruntime",
    "pytorch_libtorch": "pytorch",
    "torch_aoti": "pytorch",
    "tensorrt_plan": "tensorrt",
}
_SUFFIXES = (".onnx", ".pt2", ".py")
_EXPORT = "export it to ONNX as model.onnx, or with torch.export.save as model.pt2"
_FOREIGN = {  # what else may lie in a version's directory
    "model.plan": ("a TensorRT engine", "put the ONNX model there that it was built from"),
    "model.pt": ("TorchScript", "export the module with torch.export.save as model.pt2"),
    "model.savedmodel": ("a TensorFlow SavedModel", _EXPORT),
    "model.graphdef": ("a TensorFlow graph", _EXPORT),
    "model.xml": ("an OpenVINO model", _EXPORT),
    "model.dali": ("a DALI pipeline", "do its work in the client, or in a Python class"),
    "checkpoint.tl": ("a tree model of FIL", _EXPORT),
    "model.json": ("a model of vLLM or FIL", "run an LLM server as a `command` beside gslice"),
}


@dataclass(frozen=True)
class ModelDir:
    """One model of a repository.

    Attributes:
        name: Its directory's, which is the model's.
        path: Its directory; absolute.
        versions: Directories of its versions by number.
        url: Of its directory, if `path` is an outline of that; empty: it is what it is.
    """

    name: str
    path: Path
    versions: dict[int, Path]
    url: str = ""

    def location(self, path: Path) -> str:
        """Where a file of it is, for a function to name: its path, or its URL."""
        if not self.url:
            return str(path)
        return f"{self.url}/{quote(path.relative_to(self.path).as_posix())}"

    @property
    def config_path(self) -> Path:
        """Where its configuration is, if it has one."""
        return self.path / CONFIG_NAME

    def place(self, line: int) -> str:
        """A line of its configuration, for people."""
        return f"{self.name}/{CONFIG_NAME}:{line}"


@dataclass(frozen=True)
class Root:
    """A repository.

    Attributes:
        path: Its directory, or one with an outline of it: see `outline`.
        url: Where it is, in the latter case.
    """

    path: Path
    url: str = ""

    def __str__(self) -> str:
        return self.url or str(self.path)

    def told(self, text: str) -> str:
        """A text about it, as people know it."""
        return text.replace(str(self.path.absolute()), self.url) if self.url else text


def models_of(repository: Root) -> list[ModelDir]:
    """The models of a repository by name; hidden directories are left out.

    Raises:
        NotFound: there is no such directory.
        InvalidArgument: it is the directory of one model.
    """
    root = repository.path
    if not root.is_dir():
        raise NotFound(f"there is no directory {root}", hint="a repository holds models' ones")
    if (root / CONFIG_NAME).exists() or _versions(root):
        text = f"{repository} is one model's directory"
        raise InvalidArgument(text, hint="give the one above it")
    folders = sorted(path for path in root.absolute().iterdir() if path.is_dir())
    return [
        ModelDir(
            path.name,
            path,
            _versions(path),
            f"{repository.url}/{quote(path.name)}" if repository.url else "",
        )
        for path in folders
        if path.name[0] != "."
    ]


def wanted_versions(config: Any, there: Sequence[int]) -> list[int]:
    """The versions that a policy serves of those that there are, the newest first.

    Args:
        config: An `inference.ModelConfig`.
        there: Their numbers.
    """
    policy = config.version_policy
    ordered = sorted(there, reverse=True)
    if policy.HasField("all"):
        return ordered
    if policy.HasField("specific"):
        return [number for number in ordered if number in policy.specific.versions]
    return ordered[: max(1, policy.latest.num_versions)]


def backend_of(config: Any) -> str:
    """Triton's backend that a configuration names; empty: none."""
    return str(config.backend or _PLATFORMS.get(config.platform, config.platform))


def model_file(config: Any, version: Path) -> Path:
    """The file that is served of a version.

    Raises:
        Unimplemented: gslice has no engine for it.
        NotFound: it is not there.
        InvalidArgument: its name is that of no file in that directory.
    """
    backend = backend_of(config)
    if backend and backend not in _FILES:
        raise Unimplemented(f"gslice has no backend {backend!r}", hint=_hint_for(version))
    named = config.default_model_filename
    if named and Path(named).name != named:
        raise InvalidArgument(f"default_model_filename: {named!r} is no name of a file")
    names = (named,) if named else _FILES.get(backend) or sum(_FILES.values(), ())
    found = next((version / name for name in names if (version / name).exists()), None)
    if found is None:
        _refuse_foreign(version)
        raise NotFound(f"there is no {' or '.join(names)} in {version}")
    if found.is_dir():  # a model with files of its own
        found = found / found.name
        if not found.is_file():
            raise NotFound(f"there is no {found}")
    if found.suffix not in _SUFFIXES:
        raise Unimplemented(f"gslice serves no {found.suffix or found.name} files", hint=_EXPORT)
    return found


def check_schedulable(config: Any) -> None:
    """Refuses models that are more than one function that answers each request once.

    Raises:
        Unimplemented: why.
    """
    if config.HasField("ensemble_scheduling") or config.platform == "ensemble":
        raise Unimplemented(
            "it is an ensemble", hint="call its models one after the other from the client"
        )
    if config.HasField("sequence_batching"):
        raise Unimplemented(
            "it is a sequence model: its answers depend on the requests before",
            hint="pass the state along, as inputs and outputs",
        )
    if config.model_transaction_policy.decoupled:
        raise Unimplemented(
            "it is decoupled, and gslice gives one answer to each request",
            hint="give all that belongs to a request in one answer",
        )
    if (
        config.batch_input
        or config.batch_output
        or any(each.allow_ragged_batch for each in config.input)
    ):
        raise Unimplemented(
            "it wants ragged batches, and gslice batches requests of one shape only",
            hint="pad its inputs, or set max_batch_size: 0",
        )


def check_versions(model: ModelDir) -> None:
    """Raises FailedPrecondition for a directory without a version."""
    if not model.versions:
        raise FailedPrecondition(
            f"{model.path} has no version, such as {model.path.name}/1/model.onnx",
            hint="put its file there; directories that are no models belong elsewhere",
        )


def _versions(path: Path) -> dict[int, Path]:
    return {
        int(entry.name): entry
        for entry in path.iterdir()
        if _VERSION.fullmatch(entry.name) and entry.is_dir()
    }


def _hint_for(version: Path) -> str:
    there = next((hint for name, (_, hint) in _FOREIGN.items() if (version / name).exists()), "")
    return there or f"{_EXPORT}; or write a Python class"


def _refuse_foreign(version: Path) -> None:
    for name, (what, hint) in _FOREIGN.items():
        if (version / name).exists():
            raise Unimplemented(
                f"{version / name} is {what}, which gslice does not serve", hint=hint
            )
