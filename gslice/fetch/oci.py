"""Files of an artifact in an OCI registry, by ORAS: its manifest, and the layers that have a title.

Credentials are those of `docker login` and `oras login`: ~/.docker/config.json.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from oras.provider import Registry

from gslice.core.errors import FailedPrecondition, NotFound, PermissionDenied, Unavailable
from gslice.core.sources import is_file_name
from gslice.fetch.remote import RemoteFile, Unseekable

if TYPE_CHECKING:
    from collections.abc import Iterator

    import requests

    from gslice.core.sources import Source

_BLOCK_BYTES = 1 << 20
_MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_TITLE = "org.opencontainers.image.title"
_MODELS = (".onnx", ".pt2", ".plan", ".engine", ".npz")
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


class _Registry(Registry):  # type: ignore[misc]
    """A registry that answers at once: ORAS would try for two minutes, and say nothing."""

    def do_request(self, *args: Any, **settings: Any) -> requests.Response:
        """One request."""
        once = getattr(Registry.do_request, "__wrapped__", Registry.do_request)
        answer: requests.Response = once(self, *args, **settings)
        return answer


class OciRemote:
    """An artifact in a registry.

    Args:
        source: Where it is.
    """

    def __init__(self, source: Source) -> None:
        self._source, self._name = source, source.oci
        host = self._name.registry.rpartition(":")[0] or self._name.registry
        self._registry: Any = _Registry(self._name.registry, insecure=host in _LOOPBACK)
        mark = "@" if self._name.fixed else ":"
        self._container = self._registry.get_container(
            f"{self._name.registry}/{self._name.name}{mark}{self._name.reference}"
        )
        self._registry.auth.load_configs(self._container)
        self._version = ""
        self._layers: dict[str, dict[str, Any]] = {}

    def model(self) -> RemoteFile:
        """See `Remote`."""
        self._read_manifest()
        if wanted := self._name.file:
            return self.beside(wanted)
        models = [title for title in self._layers if title.endswith(_MODELS)]
        if len(models) != 1:
            titles = ", ".join(sorted(self._layers)) or "none"
            raise FailedPrecondition(
                f"{self._source.shown} holds {len(models)} models: say which",
                hint=f"write /FILE after it; files: {titles}",
            )
        return self.beside(models[0])

    def beside(self, name: str) -> RemoteFile:
        """See `Remote`."""
        layer = self._layers.get(name)
        if layer is None:
            titles = ", ".join(sorted(self._layers)) or "none"
            raise NotFound(f"{self._source.shown} has no file {name}", hint=f"files: {titles}")
        digest = str(layer["digest"])
        if not digest.startswith("sha256:"):
            raise FailedPrecondition(f"{self._source.shown}: {digest} is no sha256")
        size = layer.get("size")
        return RemoteFile(
            *(name, size if isinstance(size, int) else None, self._version),
            digest.removeprefix("sha256:"),
        )

    def read(self, file: RemoteFile, start: int) -> Iterator[bytes]:
        """See `Remote`."""
        if start:
            raise Unseekable
        digest = f"sha256:{file.digest}"
        with self._registry.get_blob(self._container, digest, stream=True) as answer:
            self._check(answer, file.name)
            yield from answer.iter_content(_BLOCK_BYTES)

    def _read_manifest(self) -> None:
        url = f"{self._registry.prefix}://{self._container.manifest_url()}"
        headers = {"Accept": ", ".join(_MANIFESTS)}
        answer = self._registry.do_request(url, "GET", headers=headers)
        self._check(answer, "its manifest")
        version = f"sha256:{hashlib.sha256(answer.content).hexdigest()}"
        if self._name.fixed and version != self._name.reference:
            raise FailedPrecondition(f"{self._source.shown}: its manifest came damaged: {version}")
        manifest = json.loads(answer.content)
        if "manifests" in manifest:
            raise FailedPrecondition(
                f"{self._source.shown} is a list of artifacts", hint="name one by its digest"
            )
        titled = ((_title(layer), layer) for layer in manifest.get("layers", ()))
        self._layers = {title: layer for title, layer in titled if is_file_name(title)}
        self._version = version

    def _check(self, answer: requests.Response, what: str) -> None:
        if answer.status_code == 404:
            raise NotFound(f"there is no {self._source.shown}: no {what}")
        if answer.status_code in (401, 403):
            raise PermissionDenied(
                f"{self._source.shown} is not for us: {answer.status_code} {answer.reason}",
                hint=f"docker login {self._name.registry}, or oras login",
            )
        if answer.status_code >= 400:
            text = f"{answer.status_code} {answer.reason}"
            raise Unavailable(f"{self._source.shown} cannot be fetched now: {what}: {text}")


def _title(layer: dict[str, Any]) -> str:
    return str((layer.get("annotations") or {}).get(_TITLE, ""))
