"""Which number a model gets, which one served before, and what a version brings back.

A version is a model: what decides what is computed. How it is served, such as its share, its
batches and its queue, is the function's and changes without a new version.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gslice.core.types import FunctionSpec

LATEST = "latest"

# Of FunctionSpec: what decides what is computed; and what goes with that and decides nothing.
_MODEL = (
    *("engine", "model", "python", "python_path", "args", "environment"),
    *("precision", "channels_last"),
)
_WITH_MODEL = ("device", "devices", "also_on", "warmup", "warmup_count", "program", "sources")


@dataclass(frozen=True)
class Version:
    """A version of a function that has served.

    Attributes:
        number: Ascends with every new model; never given again.
        spec: The function as it was when the version last began to serve.
        fingerprint: Of its model: settings, and content of files.
        first_served_s: When it first served, in seconds since the epoch.
        served_s: When it last began to.
    """

    number: int
    spec: FunctionSpec
    fingerprint: str
    first_served_s: float
    served_s: float


def model_settings(spec: FunctionSpec) -> dict[str, Any]:
    """The settings of a function's model that are not default."""
    default, declared = FunctionSpec(spec.name), spec.as_declared
    given = {key: getattr(declared, key) for key in _MODEL}
    settings = {key: value for key, value in given.items() if value != getattr(default, key)}
    if spec.program is not None:
        settings["program"] = [*spec.program.command, spec.program.directory]
    return settings


def number_of(fingerprint: str, recorded: Sequence[Version], declared: int = 0) -> int:
    """The number of a model: its old one, or the next.

    Args:
        fingerprint: The model's.
        recorded: What has served.
        declared: The number that it should have, which it gets unless another model has it; 0: any.
    """
    if declared and all(v.number != declared or v.fingerprint == fingerprint for v in recorded):
        return declared
    for version in by_service(recorded):
        if version.fingerprint == fingerprint:
            return version.number
    return max((version.number for version in recorded), default=0) + 1


def likely(spec: FunctionSpec, recorded: Sequence[Version]) -> Version | None:
    """What a function's declared model most likely is, without a look at its files."""
    settings = model_settings(spec)
    return next((v for v in by_service(recorded) if model_settings(v.spec) == settings), None)


def before(recorded: Sequence[Version], serving: int) -> Version | None:
    """The version that served before the one that serves."""
    return next((v for v in by_service(recorded) if v.number != serving), None)


def by_service(recorded: Sequence[Version]) -> list[Version]:
    """Versions, the one that served last first."""
    return sorted(recorded, key=lambda version: (version.served_s, version.number), reverse=True)


def numbered(spec: FunctionSpec, number: int) -> FunctionSpec:
    """A function whose model has got its number."""
    return dataclasses.replace(spec, version=str(number))


def as_fetched(spec: FunctionSpec, before: FunctionSpec) -> FunctionSpec:
    """A function with the files that were fetched before for the URLs that it names."""
    declared = spec.as_declared
    same = {key: url for key, url in before.sources.items() if getattr(declared, key) == url}
    files: dict[str, Any] = {key: getattr(before, key) for key in same}
    return dataclasses.replace(declared, sources=same, **files) if same else spec


def restored(spec: FunctionSpec, version: Version) -> FunctionSpec:
    """A function with the model of a version, served as it is declared."""
    model = {key: getattr(version.spec, key) for key in (*_MODEL, *_WITH_MODEL)}
    return numbered(dataclasses.replace(spec, **model), version.number)


def is_served_as(spec: FunctionSpec, wanted: FunctionSpec) -> bool:
    """Whether what was loaded as one can serve as the other: a worker knows no difference.

    Where replicas are is nothing that a worker knows, as long as one of them can stay.
    """
    stays = not set(spec.placed).isdisjoint(wanted.placed)
    there = spec.placed_on(wanted.placed) if stays else spec
    return unknown_to_workers(there, wanted) == wanted


def unknown_to_workers(spec: FunctionSpec, other: FunctionSpec) -> FunctionSpec:
    """The one with those settings of the other that a worker need not know of."""
    return dataclasses.replace(
        spec,
        devices=other.devices,
        replicas=other.replicas,
        share=other.share,
        residency=other.residency,
        idle_after_us=other.idle_after_us,
        versions=other.versions,
    )


def where_it_is(wanted: FunctionSpec, running: FunctionSpec) -> FunctionSpec:
    """A function as wanted, on the devices on which it runs if it may."""
    if not set(running.placed) <= set(wanted.devices):
        return wanted
    return wanted.placed_on(running.placed)


def surplus(kept: Sequence[str], serving: str, keep: int) -> list[int]:
    """Which of the versions kept warm must go.

    Args:
        kept: Their numbers, the one that served last first.
        serving: The number of the one that serves.
        keep: How many may be warm, the one that serves included.

    Returns:
        Places in `kept`.
    """
    seen, places = {serving}, []
    for place, number in enumerate(kept):
        if number in seen or len(seen) >= keep:
            places.append(place)
        seen.add(number)
    return places
