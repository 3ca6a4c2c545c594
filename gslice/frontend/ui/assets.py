"""The files of the page, as they are in the package: no build step, nothing from elsewhere."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_FOLDER = Path(__file__).parent / "static"
_KINDS = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True)
class Asset:
    """One file.

    Attributes:
        body: Its content.
        kind: Content-Type.
        tag: ETag: another content has another one.
    """

    body: bytes
    kind: str
    tag: str


@cache
def assets() -> dict[str, Asset]:
    """All of them, by name; read once, when somebody looks for the first time."""
    return {path.name: _read(path) for path in sorted(_FOLDER.iterdir()) if path.suffix in _KINDS}


def _read(path: Path) -> Asset:
    body = path.read_bytes()
    tag = hashlib.sha256(body).hexdigest()[:20]
    return Asset(body, _KINDS[path.suffix], f'"{tag}"')
