"""A node whose gRPC port changes what speaks on it, or is encrypted, while it serves."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gslice import Tls, _native
from gslice.client import Client
from gslice.core.errors import Unavailable
from tests.cli import failing, gslice
from tests.node import ANY_PORT, WAIT_S, Node
from tests.process.traffic import Traffic

needs_native = pytest.mark.skipif(
    not _native.GRPC_SERVER, reason="this build has no native front-end"
)
AGE = {"connection_age": "500ms"}


def restart(node: Node, functions: dict[str, Any], **settings: Any) -> None:
    """The daemon dies, and the next one finds other settings."""
    node.kill_daemon()
    usual = {"grpc": node.grpc_address, "http": "off", "metrics": ANY_PORT, **AGE}
    node.write_config(functions, {**usual, "state_dir": "./state", "spares": 0, **settings})
    node.start()


def wait_frontends(node: Node, *kinds: tuple[str, bool]) -> Any:
    """Waits until the front-ends are of these kinds, encrypted or not, and serve."""
    wanted = [("SERVING", *kind) for kind in kinds]
    return node.wait_status(lambda s: [(f.state, f.kind, f.tls) for f in s.frontends] == wanted)


@needs_native
@pytest.mark.parametrize(("before", "after"), [("python", "native"), ("native", "python")])
def test_another_kind_takes_over(start_node, zoo, before: str, after: str) -> None:
    functions = {"echo": zoo("Echo")}
    node = start_node(functions, node={"frontend": before, **AGE})
    old = wait_frontends(node, (before, False)).frontends[0].pid
    with Traffic(node, "echo", clients=4) as traffic:
        traffic.wait_answers(50)
        restart(node, functions, frontend=after)
        new = wait_frontends(node, (after, False)).frontends[0].pid
        traffic.wait_answers(50)
    traffic.assert_each_answered_once()
    assert new != old


def test_the_same_kind_stays(start_node, identity) -> None:
    node = start_node({"same": identity}, node={"frontend": "python", "frontends": 2, **AGE})
    before = node.frontend_pids()
    restart(node, {"same": identity}, frontend="python", frontends=2)
    assert node.frontend_pids() == before


def test_a_port_becomes_encrypted_and_its_certificates_change(
    start_node, identity, authority, tmp_path
) -> None:
    functions = {"same": identity}
    node = start_node(functions, node={"frontend": "python", "frontends": 2, **AGE})
    files = {"certificate": tmp_path / "server.pem", "key": tmp_path / "server.key"}
    tls = {name: str(path) for name, path in files.items()}

    def put(name: str) -> None:
        made = authority.issue(name)
        for key, path in files.items():
            path.write_bytes(getattr(made, key).read_bytes())

    put("first")
    restart(node, functions, frontend="python", frontends=2, tls=tls)
    first = wait_frontends(node, ("python", True), ("python", True))
    trusted = Tls(authority=authority.certificate)
    with Client(node.grpc_address, timeout_s=WAIT_S, tls=trusted) as client:
        assert client.ready("same")
    with Client(node.grpc_address, timeout_s=5) as client, pytest.raises(Unavailable):
        client.index()
    where = ("--state-dir", str(node.state_dir))
    told = " ".join(failing("infer", "same", "[[7]]", *where))
    assert f"{node.grpc_address} is encrypted" in told
    ca = ("--tls-ca", str(authority.certificate))
    assert "7" in gslice("infer", "same", "[[7]]", *where, *ca).stdout

    put("second")
    gslice("upgrade", *where)
    after = wait_frontends(node, ("python", True), ("python", True))
    assert not {f.pid for f in after.frontends} & {f.pid for f in first.frontends}


def test_a_node_that_knows_its_clients(start_node, identity, authority, monkeypatch) -> None:
    server, user = authority.issue("server"), authority.issue("user")
    tls = {"certificate": server.certificate, "key": server.key}
    tls["client_authority"] = authority.certificate
    tls = {name: str(path) for name, path in tls.items()}
    node = start_node({"same": identity}, node={"frontend": "python", "tls": tls})
    where = ("--state-dir", str(node.state_dir))
    monkeypatch.setenv("GSLICE_TLS_CA", str(authority.certificate))
    failing("infer", "same", "[[7]]", *where, "--timeout", "5s")
    monkeypatch.setenv("GSLICE_TLS_CERT", str(user.certificate))
    monkeypatch.setenv("GSLICE_TLS_KEY", str(user.key))
    assert "7" in gslice("infer", "same", "[[7]]", *where).stdout
    bench = ("bench", "same", "--concurrency", "2", "--duration", "200ms", "--shape", "x=1,1")
    report = json.loads(gslice(*bench, *where, "--json").stdout)
    assert (report["errors"], report["ok"] > 0) == ({}, True)
    monkeypatch.delenv("GSLICE_TLS_KEY")
    assert "go together" in " ".join(failing("infer", "same", "[[7]]", *where))
