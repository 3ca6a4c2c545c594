"""One short text for a model, which changes with its settings and with the content of its files.

Covered are the model file, the files beside it in which an ONNX model keeps its initializers, and
the file of a Python class or factory. What that imports or reads by itself is not.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from gslice.control.versions import model_settings
from gslice.core.digests import digest_of
from gslice.core.onnx_files import external_files
from gslice.core.plans import LIBRARIES, is_plan
from gslice.daemon.events import forgiving
from gslice.supervise.recall import code_file, file_state

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gslice.core.types import FunctionSpec
    from gslice.daemon.store import Store

_READ_ONNX = ("onnxruntime", *LIBRARIES)


class Fingerprints:
    """Reads files of models, each content once.

    Args:
        store: Remembers digests, by what the file system says of a file.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    async def of(self, spec: FunctionSpec) -> str:
        """The fingerprint of a function's model; a file that is missing counts as empty."""
        settings = json.dumps(model_settings(spec), sort_keys=True)
        together = hashlib.sha256(f"{settings}\n".encode())
        for name, path in await asyncio.to_thread(lambda: list(_files(spec))):
            together.update(f"{name}={await self._digest(path)}\n".encode())
        return together.hexdigest()

    async def _digest(self, path: Path) -> str:
        try:
            state = file_state(path)
        except OSError:  # the load will say so
            return ""
        with forgiving("digests of files cannot be read"):
            if known := self._store.digest(state):
                return known
        try:
            digest = await asyncio.to_thread(digest_of, path)
            changed = file_state(path) != state  # while it was read: the digest is of no content
        except OSError:
            return ""
        if not changed:
            with forgiving():
                self._store.put_digest(state, digest)
        return digest


def _files(spec: FunctionSpec) -> Iterator[tuple[str, Path]]:
    """The files of a function's model, by the part that each has in it."""
    if spec.model:
        model = Path(spec.model)
        yield "model", model
        if spec.engine in _READ_ONNX and not is_plan(spec.model):
            for name in external_files(model):
                yield f"data {name}", model.parent / name
    if spec.python:
        yield "code", code_file(spec)
