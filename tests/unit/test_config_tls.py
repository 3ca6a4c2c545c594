"""`node.tls` and `node.frontend`: which files are good, and what a build must be able to do."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from gslice import _native
from gslice.core.config import NodeConfig, config_to_yaml, load_config, state_dir_of
from gslice.core.errors import ConfigError
from gslice.core.tls import TlsContent, TlsFiles
from gslice.supervise.frontend_launch import kind_of, launch_of
from tests.certificates import Authority, Identity, openssl


@pytest.fixture(scope="module")
def server(authority: Authority) -> Identity:
    return authority.issue("server")


def node_of(folder: Path, tls: str, more: str = "") -> NodeConfig:
    path = folder / "node.yaml"
    path.write_text(f"version: 1\nnode:\n  state_dir: ./state\n  tls: {tls}\n{more}")
    return load_config(path, environ={}).node


def problem(folder: Path, tls: str) -> str:
    with pytest.raises(ConfigError) as caught:
        node_of(folder, tls)
    return caught.value.message.replace(f"{folder}/", "")


# ---- files -------------------------------------------------------------------------------------


def test_paths_start_from_the_file(tmp_path: Path, authority: Authority, server: Identity) -> None:
    for name, path in (("s.pem", server.certificate), ("s.key", server.key)):
        (tmp_path / name).write_bytes(path.read_bytes())
    (tmp_path / "tls").mkdir()
    (tmp_path / "tls/ca.pem").write_bytes(authority.certificate.read_bytes())
    node = node_of(tmp_path, "{certificate: s.pem, key: ./s.key, client_authority: tls/ca.pem}")
    files = (str(tmp_path / name) for name in ("s.pem", "s.key", "tls/ca.pem"))
    assert node.tls == TlsFiles(*files)
    assert node_of(tmp_path, "{certificate: s.pem, key: s.key}").tls is not None


def test_it_is_shown(tmp_path: Path, server: Identity) -> None:
    node_of(tmp_path, f"{{certificate: {server.certificate}, key: {server.key}}}")
    shown = config_to_yaml(load_config(tmp_path / "node.yaml", environ={}))
    assert f"tls: {{certificate: {server.certificate}, key: {server.key}}}" in shown
    (tmp_path / "again.yaml").write_text(shown)
    again = load_config(tmp_path / "again.yaml", environ={})
    assert again.node == load_config(tmp_path / "node.yaml", environ={}).node


def test_files_that_are_no_good(tmp_path: Path, authority: Authority, server: Identity) -> None:
    other = authority.issue("other")
    sealed, empty = tmp_path / "sealed.key", tmp_path / "empty.pem"
    passphrase = ("-aes256", "-passout", "pass:secret")
    openssl("pkey", "-in", str(server.key), "-out", str(sealed), *passphrase)
    empty.touch()
    good, key = server.certificate, server.key
    for certificate, its_key, clients, told in (
        ("none.pem", key, good, "certificate: cannot read none.pem: No such file or directory"),
        (good, tmp_path, good, f"key: cannot read {tmp_path}: Is a directory"),
        (good, key, "none.pem", "client_authority: cannot read none.pem: No such file or"),
        (empty, key, good, "certificate: empty.pem holds no certificate in PEM"),
        (key, key, good, f"certificate: {key} holds no certificate in PEM"),
        (good, key, empty, "client_authority: empty.pem holds no certificate in PEM"),
        (good, good, good, f"key: {good} holds no private key in PEM"),
        (good, other.key, good, f"key: {other.key} is not the key of {good}"),
        (good, sealed, good, "key: sealed.key is encrypted, and nobody is there to type its"),
    ):
        tls = f"{{certificate: {certificate}, key: {its_key}, client_authority: {clients}}}"
        assert problem(tmp_path, tls).startswith(f"node.yaml:4: node.tls.{told}")


def test_weak_certificates_are_refused(tmp_path: Path) -> None:
    certificate, key = tmp_path / "weak.pem", tmp_path / "weak.key"
    subject = ("-subj", "/CN=weak", "-keyout", str(key), "-out", str(certificate))
    openssl("req", "-x509", "-newkey", "rsa:512", "-noenc", *subject)
    told = problem(tmp_path, f"{{certificate: {certificate}, key: {key}}}")
    assert "refused by OpenSSL: ee key too small" in told


def test_the_state_dir_is_known_to_who_may_not_read_the_key(tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_text("version: 1\nnode: {state_dir: s, tls: {certificate: a, key: b}}\n")
    assert state_dir_of(path, {}) == tmp_path / "s"


def test_other_files_have_another_digest(authority: Authority, server: Identity) -> None:
    files = TlsFiles(str(server.certificate), str(server.key))
    content = files.read()
    assert content.digest == files.read().digest
    ca = authority.certificate.read_bytes()
    others = {
        content.digest,
        dataclasses.replace(content, client_authority=ca).digest,
        dataclasses.replace(content, key=content.key + b"\n").digest,
        TlsContent(content.certificate + content.key[:1], content.key[1:]).digest,
    }
    assert len(others) == 4
    assert "PRIVATE" not in repr(content)


# ---- what speaks gRPC --------------------------------------------------------------------------


def plain(frontend: str) -> NodeConfig:
    return load_config(None, environ={"GSLICE_NODE__FRONTEND": frontend}).node


@pytest.mark.parametrize(
    ("frontend", "native", "native_tls", "kind"),
    [
        ("auto", True, True, "native"),
        ("auto", True, False, "native"),
        ("auto", False, False, "python"),
        ("native", True, False, "native"),
        ("python", True, True, "python"),
    ],
)
def test_what_speaks(frontend: str, native: bool, native_tls: bool, kind: str) -> None:
    assert plain(frontend).frontend_kind(native=native, native_tls=native_tls) == kind


def test_tls_needs_a_build_with_it(tmp_path: Path, server: Identity) -> None:
    files = f"{{certificate: {server.certificate}, key: {server.key}}}"
    node = node_of(tmp_path, files)
    assert node.frontend_kind(native=True, native_tls=False) == "python"
    assert node.frontend_kind(native=True, native_tls=True) == "native"
    asked = node_of(tmp_path, files, "  frontend: native\n")
    with pytest.raises(ConfigError, match=r"without TLS and API keys in it .install libssl-dev"):
        asked.frontend_kind(native=True, native_tls=False)


def test_what_was_not_built_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        plain("native").frontend_kind(native=False, native_tls=False)
    assert str(caught.value) == (
        "node.frontend: native, but this gslice was built without it"
        " (install libnghttp2-dev and rebuild, or write frontend: python)"
    )


def test_how_it_is_started(tmp_path: Path, authority: Authority, server: Identity) -> None:
    files = f"certificate: {server.certificate}, key: {server.key}"
    node = node_of(
        tmp_path, f"{{{files}, client_authority: {authority.certificate}}}", "  frontend: python\n"
    )
    arguments = list(launch_of(node, "python", 3, tmp_path / "log").arguments)
    options = dict(zip(arguments[::2], arguments[1::2], strict=True))
    assert options == {
        "--index": "3",
        "--kind": "python",
        "--orphan-grace-us": "60000000",
        "--request-max-bytes": str(64 << 20),
        "--connection-age-us": "30000000",
        "--memory-max-bytes": str(256 << 20),
        "--certificate": str(server.certificate),
        "--key": str(server.key),
        "--client-authority": str(authority.certificate),
        "--log-format": "text",
        "--log-level": "info",
    }


def test_memory_has_room_for_one_message() -> None:
    large = load_config(None, environ={"GSLICE_NODE__REQUEST_MAX": "1GiB"}).node
    assert large.frontend_memory_bytes == 1 << 30
    assert kind_of(plain("auto")) == ("native" if _native.GRPC_SERVER else "python")
