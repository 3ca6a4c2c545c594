"""Certificates for tests, made by the `openssl` program when they are needed."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

_CONFIG = "[req]\ndistinguished_name = dn\n[dn]\n"
_HERE = "subjectAltName=IP:127.0.0.1,DNS:localhost"
_MAKES_OTHERS = "basicConstraints=critical,CA:TRUE"
_MAKES_NONE = "basicConstraints=critical,CA:FALSE"


@dataclass(frozen=True)
class Identity:
    """A certificate and its key.

    Attributes:
        certificate: PEM file.
        key: Likewise.
    """

    certificate: Path
    key: Path


class Authority:
    """Signs certificates.

    Args:
        folder: For all files; made.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        (folder / "openssl.cnf").write_text(_CONFIG)
        self._own = self._make("authority", _MAKES_OTHERS)

    @property
    def certificate(self) -> Path:
        """Its own, by which what it has signed is known."""
        return self._own.certificate

    def issue(self, name: str) -> Identity:
        """A certificate for this machine, or for a client of that name."""
        signed = ("-CA", str(self._own.certificate), "-CAkey", str(self._own.key))
        return self._make(name, _MAKES_NONE, _HERE, options=signed)

    def _make(self, name: str, *extensions: str, options: tuple[str, ...] = ()) -> Identity:
        made = Identity(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        added = [word for extension in extensions for word in ("-addext", extension)]
        openssl(
            *("req", "-x509", "-config", str(self._folder / "openssl.cnf"), "-days", "2"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc"),
            *("-subj", f"/CN={name}", "-keyout", str(made.key), "-out", str(made.certificate)),
            *(*added, *options),
        )
        return made


def openssl(*arguments: str) -> None:
    """Runs the program."""
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
