"""What a place must offer from which files are fetched; and which is which, by URL."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from gslice.core.errors import FailedPrecondition
from gslice.core.sources import EXTRAS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gslice.core.sources import Source


@dataclass(frozen=True)
class RemoteFile:
    """A file as it is there now.

    Attributes:
        name: That it gets here.
        size_bytes: None: nobody says.
        version: Changes with its content: an etag, a commit, a digest; empty: nobody says.
        digest: SHA-256 of its content, if the place promises one; empty: it does not.
    """

    name: str
    size_bytes: int | None
    version: str
    digest: str = ""


class Remote(Protocol):
    """Where files are."""

    def model(self) -> RemoteFile:
        """The file that the URL names.

        Raises:
            NotFound: it is not there.
            PermissionDenied: it is not for us.
        """

    def beside(self, name: str) -> RemoteFile:
        """A file in the same place. Raises as `model`."""

    def read(self, file: RemoteFile, start: int) -> Iterator[bytes]:
        """Its content from a place on.

        Raises:
            Unseekable: it can be read from its beginning only.
        """


class Unseekable(Exception):
    """A file can be read from its beginning only."""


def open_remote(source: Source) -> Remote:
    """Where a file is.

    Raises:
        FailedPrecondition: what fetches from there is not installed.
    """
    with needed(source.scheme):
        if source.scheme == "oci":
            from gslice.fetch.oci import OciRemote

            return OciRemote(source)
        from gslice.fetch.filesystem import FilesystemRemote

        return FilesystemRemote(source)


@contextlib.contextmanager
def needed(scheme: str) -> Iterator[None]:
    """Inside, what is imported is what a scheme needs.

    Raises:
        FailedPrecondition: it is not installed.
    """
    try:
        yield
    except ImportError as error:
        missing = f"the package {error.name}" if error.name else "a package"
        raise FailedPrecondition(
            f"{scheme}:// needs {missing}", hint=f"pip install 'gslice[{EXTRAS[scheme]}]'"
        ) from error
