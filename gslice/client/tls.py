"""How a client knows an encrypted server, and shows who it is itself."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import grpc

from gslice.core.errors import InvalidArgument
from gslice.core.tls import TlsFiles


@dataclass(frozen=True)
class Tls:
    """Files in PEM; without any, the server is known by the public authorities.

    Attributes:
        authority: Who must have signed the server's certificate; empty: a public authority.
        certificate: The client's own, for servers that ask for one; empty: none.
        key: Its private key, without a passphrase.
    """

    authority: str | os.PathLike[str] = ""
    certificate: str | os.PathLike[str] = ""
    key: str | os.PathLike[str] = ""

    def credentials(self) -> grpc.ChannelCredentials:
        """What gRPC makes of them.

        Raises:
            InvalidArgument: one cannot be read or used, or certificate and key do not fit.
        """
        if bool(self.certificate) != bool(self.key):
            raise InvalidArgument("a client's certificate and its key go together; give both")
        files = TlsFiles(
            os.fspath(self.certificate), os.fspath(self.key), os.fspath(self.authority)
        )
        if problem := files.problem():
            raise InvalidArgument(problem[1])
        return grpc.ssl_channel_credentials(
            _content(files.client_authority), _content(files.key), _content(files.certificate)
        )


def channel_credentials(tls: Tls | bool) -> grpc.ChannelCredentials | None:
    """Those of a client's argument `tls`; None: its connection is not encrypted."""
    if isinstance(tls, Tls):
        return tls.credentials()
    return Tls().credentials() if tls else None


def _content(path: str) -> bytes | None:
    return Path(path).read_bytes() if path else None
