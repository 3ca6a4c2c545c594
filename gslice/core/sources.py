"""Where a file comes from that is not on this machine: a URL, and what its content must be.

`s3://bucket/key`, `gs://bucket/key`, `hf://org/repo[@revision]/file`,
`oci://registry/name[:tag|@sha256:...][/file]` and `https://host/path`, each with
`#sha256=<64 digits>` after it or not. `http://` is for this machine only.
"""

from __future__ import annotations

import hashlib
import re
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

from gslice.core.errors import InvalidArgument

EXTRAS = {"s3": "s3", "gs": "gcs", "hf": "hf", "oci": "oci", "https": "https", "http": "https"}
"""What can be fetched, by scheme, and the extra that brings its library."""

_REMOTE = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_PIN = re.compile(r"sha256=([0-9a-f]{64})")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_OCI = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9._/-]*)(?::(?P<tag>[\w.-]+)|@(?P<digest>sha256:[0-9a-f]{64}))?"
    r"(?:/(?P<file>[^/]+))?"
)
_QUERY = re.compile(r"\?[^\s'\")#]+")
_USER = re.compile(r"://[^/\s@]*@")


def is_remote(path: str | None) -> bool:
    """Whether a path is a URL."""
    return path is not None and _REMOTE.match(path) is not None


def plain_path(path: str) -> str:
    """A path that ends in the name of its file, also where it is a URL."""
    return path.partition("#")[0].partition("?")[0] if is_remote(path) else path


def redacted(text: str) -> str:
    """A text without what may be secret in the URLs in it: users, passwords and queries."""
    return _QUERY.sub("?...", _USER.sub("://...@", text))


@dataclass(frozen=True)
class OciName:
    """What an `oci://` URL names.

    Attributes:
        registry: host[:port].
        name: Of the repository there.
        reference: A tag, or the digest of a manifest.
        file: Title of one of its layers; empty: the only one.
    """

    registry: str
    name: str
    reference: str
    file: str

    @property
    def fixed(self) -> bool:
        """Whether the reference names one content for all time."""
        return self.reference.startswith("sha256:")


@dataclass(frozen=True)
class Source:
    """Where a file comes from.

    Attributes:
        url: Without the pin.
        digest: SHA-256 of its content, see `content_digest`; empty: not pinned.
    """

    url: str
    digest: str = ""

    @classmethod
    def parse(cls, text: str) -> Source:
        """A URL as it is written.

        Raises:
            InvalidArgument: it names nothing that can be fetched, or holds credentials.
        """
        shown = redacted(text)
        url, _, pin = text.partition("#")
        found = _PIN.fullmatch(pin)
        if pin and found is None:
            raise InvalidArgument(f"{shown}: a pin is #sha256= and 64 digits of 0-9 and a-f")
        try:
            parts = urllib.parse.urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError as error:
            raise InvalidArgument(f"{shown} is no URL: {error}") from error
        del port  # that it is a number is enough
        if parts.scheme not in EXTRAS:
            raise InvalidArgument(f"{shown}: nothing is fetched from there; use {_schemes()}")
        is_hf = parts.scheme == "hf"  # its @ is a revision's
        if "@" in parts.netloc and not is_hf:
            raise InvalidArgument(
                f"{shown} holds credentials, which belong into the environment or into the files"
                " that the service's own tools read"
            )
        if re.search(r"[\s\x00-\x1f]", text):
            raise InvalidArgument(f"{shown!r} holds blanks; write %20")
        if parts.scheme == "http" and host not in _LOOPBACK:
            raise InvalidArgument(f"{shown}: http is not encrypted; use https")
        if parts.query and parts.scheme not in ("https", "http"):
            raise InvalidArgument(f"{shown}: a query goes with https only")
        source = cls(url, found[1] if found else "")
        source._check_path(parts.path, host)
        return source

    @property
    def scheme(self) -> str:
        """Such as `s3`."""
        return self.url.partition("://")[0]

    @property
    def shown(self) -> str:
        """For people and logs."""
        return redacted(self.url)

    @property
    def key(self) -> str:
        """The same for the same URL, and none of its secrets in it."""
        return hashlib.sha256(self.url.encode()).hexdigest()[:32]

    @property
    def oci(self) -> OciName:
        """What an `oci://` URL names.

        Raises:
            InvalidArgument: it names nothing.
        """
        registry, _, rest = self.url.partition("://")[2].partition("/")
        found = _OCI.fullmatch(rest)
        if found is None:
            raise InvalidArgument(
                f"{self.shown}: write it as oci://registry/name@sha256:..., or with a :tag, and"
                " /file where there are several"
            )
        reference = found["digest"] or found["tag"] or "latest"
        return OciName(registry, found["name"], reference, found["file"] or "")

    @property
    def name(self) -> str:
        """The file's; of an `oci://` URL it may be empty."""
        if self.scheme == "oci":
            return self.oci.file
        path = plain_path(self.url)
        return urllib.parse.unquote(path.rpartition("/")[2])

    def beside(self, name: str) -> str:
        """The URL of another file in the same place."""
        path, mark, query = self.url.partition("?")
        return f"{path.rpartition('/')[0]}/{urllib.parse.quote(name)}{mark}{query}"

    def _check_path(self, path: str, host: str) -> None:
        if self.scheme == "oci":
            del path
            _ = self.oci
        elif not host or path.strip("/") == "" or path.endswith("/"):
            raise InvalidArgument(f"{self.shown} names no file")
        elif self.scheme == "hf" and path.strip("/").count("/") < 1:
            raise InvalidArgument(f"{self.shown}: write it as hf://org/repo/file.onnx")
        if self.name and not is_file_name(self.name):
            raise InvalidArgument(f"{self.shown}: {self.name!r} cannot be the name of a file")


def is_file_name(name: str) -> bool:
    """Whether a name can be a file's in a directory of its own, and no other's."""
    parts = Path(name).parts
    inside = bool(parts) and not name.startswith("/") and ".." not in parts
    return inside and "\0" not in name and "\\" not in name and not name.startswith(".")


def content_digest(digests: dict[str, str]) -> str:
    """What a pin says of files: of one file its SHA-256, of several that of their list.

    That list is what `sha256sum MODEL DATA...` prints of them: the model first, then the others by
    name.

    Args:
        digests: SHA-256 of each file by its name, the model first.
    """
    if len(digests) == 1:
        return next(iter(digests.values()))
    model, *others = digests
    lines = (f"{digests[name]}  {name}\n" for name in (model, *sorted(others)))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _schemes() -> str:
    return ", ".join(f"{scheme}://" for scheme in EXTRAS if scheme != "http")
