"""What should run: node.yaml under a named overlay of run-time changes.

The overlay outlives the daemon. Where both the file and the overlay changed a function, the file
wins and an event says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gslice.core.config import diff_functions, function_from_yaml, load_config, save_functions
from gslice.core.config.devices import anywhere, suitable_devices
from gslice.core.errors import FailedPrecondition, NotFound
from gslice.core.events import EventKind
from gslice.daemon.store import OverlayEntry

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gslice.core.config import Config, DeviceConfig, SettingChange
    from gslice.core.events import Record
    from gslice.core.types import FunctionSpec
    from gslice.daemon.store import Store

_EDITED = "node.yaml changed it after it was changed at run time; node.yaml wins"
_ASKED = "dropped what was changed at run time: the command line names it"


def conflicts(
    file: Mapping[str, FunctionSpec],
    overlay: Mapping[str, OverlayEntry],
    devices: Mapping[str, DeviceConfig],
) -> list[str]:
    """Functions of the overlay about which the file says something else than when they changed.

    Args:
        file: The file's functions.
        overlay: Of run-time changes.
        devices: That the file's functions have the choice of.
    """
    return [name for name, e in overlay.items() if not _alike(file.get(name), e.base, devices)]


def merge(
    file: Mapping[str, FunctionSpec], overlay: Mapping[str, OverlayEntry]
) -> dict[str, FunctionSpec]:
    """The functions wanted: the file's, with the overlay's changes, in the order of the file."""
    merged = dict(file)
    for name, entry in overlay.items():
        if entry.spec is None:
            merged.pop(name, None)
        else:
            merged[name] = entry.spec
    return merged


def _alike(
    file: FunctionSpec | None, base: FunctionSpec | None, devices: Mapping[str, DeviceConfig]
) -> bool:
    """Whether both say the same; `device: auto` does, whatever devices there were."""
    if file is None or base is None or not (file.devices or base.devices):
        return file == base
    only = suitable_devices(file.engine, devices) == (file.device,)  # where auto is no choice
    auto = (file.devices or only) and (base.devices or base.device in file.devices)
    return bool(auto) and replace(base, device=file.device, devices=file.devices) == file


def _here(entry: OverlayEntry, file: FunctionSpec | None, config: Config) -> OverlayEntry:
    """A change for the devices that there are now, where it leaves the choice to the node."""
    spec, base = entry.spec, entry.base
    if spec is None:
        return entry
    untouched = base is not None and (spec.device, spec.devices) == (base.device, base.devices)
    auto = spec.devices or (untouched and file is not None and file.devices)
    return OverlayEntry(anywhere(spec, config.devices), base) if auto else entry


@dataclass(frozen=True)
class Saved:
    """What became of the overlay.

    Attributes:
        path: The node.yaml; None without.
        changes: What was written into it, or dropped.
        overruled: Functions that somebody edited there after they were changed at run time.
    """

    path: Path | None
    changes: list[SettingChange]
    overruled: list[str] = field(default_factory=list)


class Desired:
    """The desired state of the node's functions.

    Args:
        config: node.yaml as read.
        store: Keeps the overlay.
        event: Told where the file wins over the overlay.
    """

    def __init__(self, config: Config, store: Store, event: Record) -> None:
        self._config = config
        self._path = config.path
        self._gpus = config.gpus
        self._file = dict(config.functions)
        self._store = store
        self._event = event
        self._overlay = store.overlay()
        self._overrule(conflicts(self._file, self._overlay, config.devices), _EDITED)
        self._overlay = {
            name: _here(entry, self._file.get(name), config)
            for name, entry in self._overlay.items()
        }
        if self._path is None:  # somebody asks for it now, and cannot have saved what was before
            self._overrule(self._overlay.keys() & self._file.keys(), _ASKED)

    @property
    def functions(self) -> dict[str, FunctionSpec]:
        """The functions wanted, by name."""
        return merge(self._file, self._overlay)

    @property
    def path(self) -> Path | None:
        """The node.yaml; None when the node was started without."""
        return self._path

    @property
    def changed(self) -> list[str]:
        """Functions that were changed at run time, oldest first."""
        return list(self._overlay)

    @property
    def config(self) -> Config:
        """node.yaml as it is followed."""
        return self._config

    def under(self, config: Config) -> tuple[dict[str, FunctionSpec], list[str]]:
        """The functions wanted if node.yaml were this, and whom of the overlay it overrules."""
        overruled = conflicts(config.functions, self._overlay, config.devices)
        kept = {name: e for name, e in self._overlay.items() if name not in overruled}
        return merge(config.functions, kept), overruled

    def follow(self, config: Config) -> None:
        """Takes node.yaml as it is by now; where it and the overlay both changed, it wins."""
        _, overruled = self.under(config)
        self._overrule(overruled, _EDITED)
        self._config, self._file = config, dict(config.functions)

    def source(self, name: str) -> str:
        """Where the wish for a function comes from: `file` or `overlay`."""
        return "overlay" if name in self._overlay else "file"

    def declared(self, name: str) -> FunctionSpec:
        """A function as it is wanted, or as the file has it if it was unloaded.

        Raises:
            NotFound: neither knows it.
        """
        entry = self._overlay.get(name)
        spec = (entry.spec if entry else None) or self._file.get(name)
        if spec is None:
            known = ", ".join(sorted({*self._file, *self._overlay})) or "none"
            raise NotFound(f"no function {name} is declared", hint=f"declared: {known}")
        return spec

    def read(self, name: str, body: str, base_dir: str = "") -> FunctionSpec:
        """The function that an order is about.

        Args:
            name: The function's.
            body: YAML or JSON of what stands under functions.<name>; empty: as declared.
            base_dir: Where relative paths in it start; empty: where node.yaml is.

        Raises:
            GsliceError: what is wrong with it, or that none is declared.
        """
        if not body.strip():
            return self.declared(name)
        usual_dir = self._path.parent if self._path is not None else self._config.node.state_dir
        return function_from_yaml(name, body, Path(base_dir or usual_dir), config=self._config)

    def put(self, spec: FunctionSpec) -> None:
        """A function is wanted like this from now on."""
        self._change(spec.name, spec)

    def remove(self, name: str) -> None:
        """A function is not wanted any more."""
        self._change(name, None)

    def diff(self) -> list[SettingChange]:
        """Every setting in which what is wanted differs from the file."""
        return diff_functions(self._file, self.functions, self._base_dir)

    def save(self) -> Saved:
        """Writes the overlay into node.yaml and empties it.

        The file is read again: a function that was edited there meanwhile is wanted as edited.

        Raises:
            FailedPrecondition: the node was started without a node.yaml, or it cannot be written.
            NotFound: it cannot be read.
            ConfigError: it is wrong. In each case, nothing was changed.
        """
        if self._path is None:
            raise FailedPrecondition(
                "the node was started without a node.yaml, so there is nothing to save to",
                hint="write one with `gslice init` and start with it",
            )
        config = load_config(self._path, find_gpus=lambda: self._gpus)
        edited = config.functions
        overruled = conflicts(edited, self._overlay, config.devices)
        kept = {
            name: _here(entry, edited.get(name), config)
            for name, entry in self._overlay.items()
            if name not in overruled
        }
        changes = diff_functions(edited, merge(edited, kept), self._base_dir)
        changed = {name: entry.spec for name, entry in kept.items()}
        save_functions(self._path, changed, self._gpus)
        self._overrule(overruled, _EDITED)
        # Other functions that were edited there are wanted so when the node starts again.
        as_edited = {name: OverlayEntry(edited.get(name), None) for name in overruled}
        self._file = merge(self._file, {**kept, **as_edited})
        self._forget_overlay()
        return Saved(self._path, changes, overruled)

    def discard(self) -> Saved:
        """Drops the overlay: the file's functions are wanted again."""
        changes = self.diff()
        self._forget_overlay()
        return Saved(self._path, changes)

    def _change(self, name: str, spec: FunctionSpec | None) -> None:
        base = self._file.get(name)
        if spec == base:
            self._store.drop_overlay(name)
            self._overlay.pop(name, None)
            return
        entry = OverlayEntry(spec, base)
        self._store.put_overlay(name, entry)
        self._overlay[name] = entry

    def _overrule(self, names: Iterable[str], why: str) -> None:
        for name in names:
            self._store.drop_overlay(name)
            del self._overlay[name]
            self._event(name, EventKind.CONFIG, why)

    def _forget_overlay(self) -> None:
        for name in self._overlay:
            self._store.drop_overlay(name)
        self._overlay = {}

    @property
    def _base_dir(self) -> Path | None:
        return self._path.parent if self._path is not None else None
