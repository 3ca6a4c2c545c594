"""The files that a port shows and asks certificates by, all PEM."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from gslice.core.errors import ConfigError


@dataclass(frozen=True)
class TlsContent:
    """What they hold: `TlsFiles` has what each is."""

    certificate: bytes
    key: bytes = field(repr=False)
    client_authority: bytes = b""

    @property
    def digest(self) -> str:
        """Changes with any of it."""
        whole = hashlib.sha256()
        for part in (self.certificate, self.key, self.client_authority):
            whole.update(len(part).to_bytes(8, "little") + part)
        return whole.hexdigest()[:16]


@dataclass(frozen=True)
class TlsFiles:
    """Where they are.

    Attributes:
        certificate: One's own, and those between it and its authority; empty: none.
        key: Its private key, without a passphrase.
        client_authority: The other side must show a certificate that one of these has signed;
            empty: a client need show none.
    """

    certificate: str
    key: str
    client_authority: str = ""

    def read(self) -> TlsContent:
        """What they hold, unchecked.

        Raises:
            ConfigError: one cannot be read.
        """
        content = {}
        for name, path in self._given().items():
            try:
                content[name] = Path(path).read_bytes()
            except OSError as error:
                raise ConfigError(f"cannot read the {name} {path}: {error.strerror}") from error
        return TlsContent(**content)

    def problem(self) -> tuple[str, str] | None:
        """What is wrong: which of the files, and why no server could use it; None: nothing."""
        for name, path in self._given().items():
            try:
                Path(path).read_bytes()
            except OSError as error:
                return name, f"cannot read {path}: {error.strerror}"
        return self._unusable()

    def _given(self) -> dict[str, str]:
        return {name: path for name, path in vars(self).items() if path}

    def _unusable(self) -> tuple[str, str] | None:
        import ssl  # by whoever checks only: front-ends have TLS of their own

        for name in ("certificate", "client_authority"):
            path = getattr(self, name)
            try:
                if path:
                    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(path)
            except ssl.SSLError:
                return name, f"{path} holds no certificate in PEM"

        def refuse() -> str:
            raise _Encrypted

        if not self.certificate:
            return None
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificate, self.key, password=refuse)
        except _Encrypted:
            return "key", f"{self.key} is encrypted, and nobody is there to type its passphrase"
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                return "key", f"{self.key} is not the key of {self.certificate}"
            if error.reason and error.reason.endswith(("TOO_WEAK", "TOO_SMALL")):
                reason = error.reason.lower().replace("_", " ")
                return "certificate", f"{self.certificate} is refused by OpenSSL: {reason}"
            return "key", f"{self.key} holds no private key in PEM"
        return None


class _Encrypted(Exception):
    """A passphrase was asked for."""
