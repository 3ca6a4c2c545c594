"""One model of a repository as a function: what stands under `functions.<name>`, and what is lost.

Each part of the configuration is read by a function below or in a file beside this one, which gives
keys of the function and notes of what it could not say in them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gslice.core.errors import FailedPrecondition, InvalidArgument, Unimplemented
from gslice.triton.batching import batching
from gslice.triton.instances import placement
from gslice.triton.pbtxt import ConfigText, read_config
from gslice.triton.python_model import served_class
from gslice.triton.report import Note
from gslice.triton.repository import (
    ModelDir,
    check_schedulable,
    check_versions,
    model_file,
    wanted_versions,
)
from gslice.triton.settings import dishonoured
from gslice.triton.tensors import tensors
from gslice.triton.warmup import Sample, samples_of

if TYPE_CHECKING:
    from gslice.core.config import DeviceConfig

Body = dict[str, Any]
_ENGINES = {".onnx": "onnxruntime", ".pt2": "torch", ".py": "python"}
_THREADS = "intra_op_thread_count"


@dataclass
class Reading:
    """A model that is being read.

    Attributes:
        model: Which.
        text: Its configuration.
        engine: Of gslice.
        notes: Of what is not honoured, gathered on the way.
    """

    model: ModelDir
    text: ConfigText
    engine: str = ""
    notes: list[Note] = field(default_factory=list)

    @property
    def config(self) -> Any:
        """Its `inference.ModelConfig`."""
        return self.text.config

    def note(self, setting: str, text: str, value: str = "") -> None:
        """A setting, as it is written with that value, is not honoured."""
        place = self.model.place(self.text.line_of(setting, value))
        self.notes.append(Note(self.model.name, place, setting, text))


@dataclass(frozen=True)
class Read:
    """A model as a function.

    Attributes:
        body: What stands under `functions.<name>`, with absolute paths; less `warmup`.
        notes: What of its configuration is not honoured, in the order of the text.
        samples: What to warm it up with; none: zeros.
    """

    body: Body
    notes: list[Note]
    samples: list[Sample]


def read_model(model: ModelDir, devices: Mapping[str, DeviceConfig]) -> Read:
    """Reads a model's directory.

    Args:
        model: Which.
        devices: Of the node, by name.

    Raises:
        GsliceError: it cannot be served, and why.
    """
    text = read_config(model.config_path)
    _check_name(model, text)
    check_schedulable(text.config)
    check_versions(model)
    reading = Reading(model, text)
    source = _source(reading)
    body = {
        **source,
        **tensors(reading),
        **batching(reading),
        **placement(reading, devices),
    }
    samples = samples_of(reading)
    notes = [*reading.notes, *dishonoured(model, text)]
    return Read(body, sorted(notes, key=lambda note: int(note.place.rpartition(":")[2])), samples)


def _check_name(model: ModelDir, text: ConfigText) -> None:
    """Raises InvalidArgument for the configuration of another model."""
    name = text.config.name
    if name and name != model.name:
        raise InvalidArgument(
            f"{model.place(text.line_of('name'))}: name is {name!r}, not {model.name!r}",
            hint="leave it out, or rename the directory",
        )


def _source(reading: Reading) -> Body:
    """The version that is served, and its file."""
    number = _version(reading)
    path = model_file(reading.config, reading.model.versions[number])
    reading.engine = _ENGINES[path.suffix]
    body: Body = {"versions": {"number": number}}
    parameters = {key: each.string_value for key, each in reading.config.parameters.items()}
    if reading.engine == "python" and reading.model.url:
        raise Unimplemented(
            f"{path} is code, and no code is fetched", hint="copy the repository to this machine"
        )
    if reading.engine == "python":
        arguments = {"args": parameters} if parameters else {}
        return {"python": f"{path}:{served_class(path)}", **arguments, **body}
    threads = parameters.pop(_THREADS, "0") if reading.engine == "onnxruntime" else "0"
    if not re.fullmatch(r"[0-9]{1,9}", threads):
        raise InvalidArgument(f"parameters: {_THREADS} is {threads!r}, no number")
    if int(threads):
        body["threads"] = int(threads)
    for key in parameters:
        reading.note(
            "parameters.key", f"{key}: not honoured: engine {reading.engine} has none", key
        )
    return {"model": reading.model.location(path), **body}


def _version(reading: Reading) -> int:
    """The newest version that the policy serves."""
    there = reading.model.versions
    wanted = wanted_versions(reading.config, list(there))
    if not wanted:
        known = ", ".join(map(str, sorted(there)))
        raise FailedPrecondition(
            f"its version_policy serves none of its versions, which are {known}",
            hint="name one of them under specific",
        )
    if len(wanted) > 1:
        others = ", ".join(map(str, sorted(wanted[1:])))
        reading.note(
            "version_policy",
            f"version {wanted[0]} is served, and not {others}: a function serves one at a time;"
            " serve others under names of their own",
        )
    return wanted[0]
