"""What should run: node.yaml under a named overlay of run-time changes.

The overlay outlives the daemon. Where both the file and the overlay changed a function, the file
wins and an event says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gslice.core.config import diff_functions, save_functions
from gslice.core.errors import FailedPrecondition, NotFound
from gslice.daemon.store import OverlayEntry

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from gslice.core.config import Config, SettingChange
    from gslice.core.types import FunctionSpec
    from gslice.daemon.store import Store


def conflicts(file: Mapping[str, FunctionSpec], overlay: Mapping[str, OverlayEntry]) -> list[str]:
    """Functions of the overlay about which the file says something else than when they changed."""
    return [name for name, entry in overlay.items() if file.get(name) != entry.base]


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


class Desired:
    """The desired state of the node's functions.

    Args:
        config: node.yaml as read.
        store: Keeps the overlay.
        event: Told, with subject and text, where the file wins over the overlay.
    """

    def __init__(self, config: Config, store: Store, event: Callable[[str, str], None]) -> None:
        self._path = config.path
        self._file = dict(config.functions)
        self._store = store
        self._overlay = store.overlay()
        for name in conflicts(self._file, self._overlay):
            del self._overlay[name]
            store.drop_overlay(name)
            event(name, "node.yaml changed it after it was changed at run time; node.yaml wins")

    @property
    def functions(self) -> dict[str, FunctionSpec]:
        """The functions wanted, by name."""
        return merge(self._file, self._overlay)

    @property
    def path(self) -> Path | None:
        """The node.yaml; None when the node was started without."""
        return self._path

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

    def put(self, spec: FunctionSpec) -> None:
        """A function is wanted like this from now on."""
        self._change(spec.name, spec)

    def remove(self, name: str) -> None:
        """A function is not wanted any more."""
        self._change(name, None)

    def diff(self) -> list[SettingChange]:
        """Every setting in which what is wanted differs from the file."""
        return diff_functions(self._file, self.functions, self._base_dir)

    def save(self) -> tuple[Path, list[SettingChange]]:
        """Writes the overlay into node.yaml and empties it.

        Raises:
            FailedPrecondition: the node was started without a node.yaml.
            ConfigError: the file cannot be read any more; nothing was changed.
        """
        if self._path is None:
            raise FailedPrecondition(
                "the node was started without a node.yaml, so there is nothing to save to",
                hint="write one with `gslice init` and start with it",
            )
        changes = self.diff()
        save_functions(self._path, {name: entry.spec for name, entry in self._overlay.items()})
        self._file = self.functions
        self._forget_overlay()
        return self._path, changes

    def discard(self) -> list[SettingChange]:
        """Drops the overlay: the file's functions are wanted again."""
        changes = self.diff()
        self._forget_overlay()
        return changes

    def _change(self, name: str, spec: FunctionSpec | None) -> None:
        base = self._file.get(name)
        if spec == base:
            self._store.drop_overlay(name)
            self._overlay.pop(name, None)
            return
        entry = OverlayEntry(spec, base)
        self._store.put_overlay(name, entry)
        self._overlay[name] = entry

    def _forget_overlay(self) -> None:
        for name in self._overlay:
            self._store.drop_overlay(name)
        self._overlay = {}

    @property
    def _base_dir(self) -> Path | None:
        return self._path.parent if self._path is not None else None
