"""Files of S3, Google Cloud Storage, Hugging Face and HTTPS, by fsspec.

Who we are is for the libraries to find out, from their standard variables and files.
"""

from __future__ import annotations

import urllib.parse
from typing import TYPE_CHECKING, Any

import aiohttp
import fsspec

from gslice.core.errors import (
    FailedPrecondition,
    GsliceError,
    NotFound,
    PermissionDenied,
    Unavailable,
)
from gslice.core.sources import redacted
from gslice.fetch.remote import RemoteFile, Unseekable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gslice.core.sources import Source

_BLOCK_BYTES = 8 << 20
_CONNECT_S = 30
_SILENT_S = 60
_VERSIONS = ("VersionId", "generation", "ETag", "etag", "blob_id", "Content-MD5", "Last-Modified")
_WEB = ("https", "http")
_FORBIDDEN = (401, 403, 407)
_CREDENTIALS = {
    "s3": "AWS's variables, files and roles",
    "gs": "Google's application default credentials",
    "hf": "HF_TOKEN, or `hf auth login`",
}


class FilesystemRemote:
    """A file of a file system that fsspec knows.

    Args:
        source: Where it is.

    Raises:
        ImportError: The file system's package is not installed.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        options = _http_options() if source.scheme in _WEB else {}
        self._fs: Any = fsspec.filesystem(source.scheme, **options)

    def model(self) -> RemoteFile:
        """See `Remote`."""
        return self._file(self._source.url, self._source.name)

    def beside(self, name: str) -> RemoteFile:
        """See `Remote`."""
        return self._file(self._url(name), name)

    def read(self, file: RemoteFile, start: int) -> Iterator[bytes]:
        """See `Remote`."""
        path = self._path(self._url(file.name))
        with self._fs.open(path, "rb", block_size=_BLOCK_BYTES, cache_type="none") as stream:
            if start:
                try:
                    stream.seek(start)
                except ValueError as error:
                    raise Unseekable from error
            while data := stream.read(_BLOCK_BYTES):
                yield data

    def _url(self, name: str) -> str:
        return self._source.url if name == self._source.name else self._source.beside(name)

    def _path(self, url: str) -> Any:
        return self._fs._strip_protocol(_unquoted(url, self._source.scheme))

    def _file(self, url: str, name: str) -> RemoteFile:
        try:
            info = self._fs.info(self._path(url))
        except Exception as error:
            raise explained(error, redacted(url), self._source.scheme) from error
        if info.get("type") != "file":
            raise NotFound(f"{redacted(url)} is no file")
        version = next((str(info[key]) for key in _VERSIONS if info.get(key)), "")
        lfs = info.get("lfs") or {}
        return RemoteFile(name, info.get("size"), version, lfs.get("sha256", ""))


def explained(error: Exception, url: str, scheme: str) -> Exception:
    """What an error of the libraries means: `error` itself, where another try may help."""
    if scheme in _WEB and isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        error = _as_exception(error.__cause__)  # fsspec says so whatever happened
    if isinstance(error, GsliceError):
        return error
    text = redacted(f"{type(error).__name__}: {error}".partition("\n")[0])
    status = _status_of(error)
    if isinstance(error, FileNotFoundError) or status == 404:
        return NotFound(f"there is no {url}, or none that we may see")
    if isinstance(error, ImportError):
        return error
    names = {each.__name__ for each in type(error).__mro__}
    refused = names & {"PermissionError", "NoCredentialsError", "RefreshError", "GoogleAuthError"}
    if refused or status in _FORBIDDEN:
        where = _CREDENTIALS.get(scheme)
        hint = f"credentials come from {where}" if where else ""
        return PermissionDenied(f"{url} is not for us: {text}", hint=hint)
    if isinstance(error, aiohttp.InvalidURL):
        return FailedPrecondition(f"{url} cannot be fetched: {text}")
    return Unavailable(f"{url} cannot be fetched now: {text}")


def _status_of(error: Exception) -> object:
    """What HTTP said, wherever the library keeps it."""
    for holder in (error, getattr(error, "response", None)):
        for name in ("status", "status_code", "code"):
            if status := getattr(holder, name, None):
                return status
    return None


def _as_exception(error: BaseException) -> Exception:
    return error if isinstance(error, Exception) else Unavailable(str(error))


def _unquoted(url: str, scheme: str) -> str:
    """As the file system takes it: HTTP has URLs, all others have names."""
    return url if scheme in _WEB else urllib.parse.unquote(url)


def _http_options() -> dict[str, Any]:
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_SILENT_S)
    return {
        "get_client": _http_client,
        "client_kwargs": {
            "timeout": timeout,
            "trust_env": True,  # proxies, and who we are by ~/.netrc
            "headers": {"Accept-Encoding": "identity"},
        },
        "encoded": True,
    }


async def _http_client(**settings: Any) -> aiohttp.ClientSession:
    """A session that does not leave encryption for plain HTTP."""

    async def check(
        _session: Any, _context: Any, params: aiohttp.TraceRequestRedirectParams
    ) -> None:
        location = params.response.headers.get("Location", "")
        target = params.url.join(type(params.url)(location))
        if params.url.scheme == "https" and target.scheme != "https":
            raise PermissionDenied(
                f"{redacted(str(params.url))} sends us to {redacted(str(target))},"
                " which is not encrypted"
            )

    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(check)
    return aiohttp.ClientSession(trace_configs=[trace], **settings)
