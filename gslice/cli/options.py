"""Options that several commands share, and where they look for a daemon."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gslice.core.errors import ConfigError, FailedPrecondition, GsliceError, Unavailable

if TYPE_CHECKING:
    from gslice.client import Tls
    from gslice.client.control import Control

NODE_FILE = Path("node.yaml")

StateDir = Annotated[
    Path | None,
    typer.Option(
        "--state-dir",
        help="The daemon's state directory. Default: as node.yaml here says, else the user's.",
        metavar="DIR",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]
Address = Annotated[
    str,
    typer.Option(
        "--grpc",
        help="Where the functions are served. Default: what the daemon here says.",
        metavar="HOST:PORT",
    ),
]
UseTls = Annotated[
    bool,
    typer.Option(
        "--tls",
        envvar="GSLICE_TLS",
        help="Use TLS; the server's certificate is from a public authority.",
    ),
]
TlsAuthority = Annotated[
    Path | None,
    typer.Option(
        "--tls-ca",
        envvar="GSLICE_TLS_CA",
        help="Use TLS; the server's certificate is signed by the authority in this PEM file.",
        metavar="FILE",
    ),
]
TlsCertificate = Annotated[
    Path | None,
    typer.Option(
        "--tls-cert",
        envvar="GSLICE_TLS_CERT",
        help="PEM file to show to a server that asks for one.",
        metavar="FILE",
    ),
]
TlsKey = Annotated[
    Path | None,
    typer.Option(
        "--tls-key",
        envvar="GSLICE_TLS_KEY",
        help="PEM file with the key of --tls-cert.",
        metavar="FILE",
    ),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        envvar="GSLICE_API_KEY",
        help="For a server that asks who calls. Others can read command lines: use the variable.",
        metavar="KEY",
        show_envvar=True,
    ),
]


def complete_function(context: typer.Context, incomplete: str) -> list[str]:
    """For the shell: the functions whose names begin like that; none where no daemon answers."""
    try:
        with connect(context.params.get("state_dir")) as control:
            names = [function.name for function in control.status().functions]
    except GsliceError:
        return []
    return [name for name in names if name.startswith(incomplete)]


FunctionName = Annotated[
    str,
    typer.Argument(help="The function.", metavar="NAME", autocompletion=complete_function),
]


def connect(state_dir: Path | None) -> Control:
    """The control client of the daemon that the options point to.

    Raises:
        Unavailable: no daemon answers there.
    """
    from gslice.client.control import Control

    return Control(find_state_dir(state_dir))


def find_state_dir(given: Path | None) -> Path:
    """The state directory of the daemon meant: named, of the node.yaml here, or the user's.

    The first of these with a daemon wins, so that `gslice ps` finds what `gslice serve` started in
    the same directory, with a node.yaml or without.
    """
    if given is not None:
        return given.absolute()
    candidates = list(_usual_state_dirs())
    live = (path for path in candidates if (path / "control.sock").is_socket())
    return next(live, candidates[0])


def client_tls(
    use: bool, authority: Path | None, certificate: Path | None, key: Path | None
) -> Tls | bool:
    """What the options say to a client; any file means that the connection is encrypted."""
    from gslice.client import Tls

    if authority is None and certificate is None and key is None:
        return use
    return Tls(authority or "", certificate or "", key or "")


def serving_address(given: str, state_dir: Path | None, tls: Tls | bool = False) -> str:
    """host:port of KServe v2: as given, or as the daemon says.

    Args:
        given: By an option; empty: not.
        state_dir: Of the daemon.
        tls: What the client is going to use.

    Raises:
        Unavailable: neither is known.
        FailedPrecondition: the daemon's port is encrypted, and the client does not know of it.
    """
    if given:
        return given
    with connect(state_dir) as control:
        status = control.status()
    if not tls and any(frontend.tls for frontend in status.frontends):
        raise FailedPrecondition(
            f"{status.grpc_address} is encrypted", hint="give --tls-ca FILE, or --tls"
        )
    address = str(status.grpc_address)
    if not address:
        raise Unavailable(
            "the daemon serves no requests yet", hint="see its state with `gslice status`"
        )
    return address


def _usual_state_dirs() -> Iterator[Path]:
    from gslice.core.config import default_state_dir, state_dir_of

    if NODE_FILE.is_file() or "GSLICE_NODE__STATE_DIR" in os.environ:
        path = NODE_FILE if NODE_FILE.is_file() else None
        # A node.yaml that is being edited must not hide the daemon that runs.
        with contextlib.suppress(ConfigError):
            yield state_dir_of(path)
    yield default_state_dir(os.environ)
