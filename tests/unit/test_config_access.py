"""What node.yaml says of access: `access`, `insecure`, `model_roots`, `python_functions`."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gslice.core.access import ALL, ShareQuota, digest_text
from gslice.core.config import (
    Config,
    config_to_yaml,
    key_to_yaml,
    load_config,
    present_access,
    state_dir_of,
)
from gslice.core.config.policy import check_allowed, refusal
from gslice.core.errors import ConfigError, InvalidArgument, PermissionDenied
from gslice.core.types import FunctionSpec
from gslice.core.units import format_rate, parse_rate
from tests.certificates import Authority

HASH = digest_text("secret")
SHOP = "tenants: {shop: {functions: [a, b-*], rate: 20/m, queue: 4}}"


def written(folder: Path, node: str, rest: str = "") -> Path:
    path = folder / "node.yaml"
    path.write_text(f"version: 1\nnode: {{state_dir: ./state, {node}}}\n{rest}")
    return path


def config_of(folder: Path, node: str, rest: str = "") -> Config:
    return load_config(written(folder, node, rest), environ={})


def problem(folder: Path, node: str, rest: str = "") -> str:
    with pytest.raises(ConfigError) as caught:
        config_of(folder, node, rest)
    return caught.value.message.replace(f"{folder}/", "")


# ---- ports -------------------------------------------------------------------------------------


def test_by_default_nobody_else_reaches_the_node_and_nobody_is_asked(tmp_path: Path) -> None:
    node = config_of(tmp_path, "").node
    assert node.access.access.anonymous == ALL
    assert not node.asks
    for address in (node.grpc, node.http, node.metrics):
        assert address.startswith("127.0.0.1:")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "[::1]", "localhost"])
def test_loopback_needs_nothing(tmp_path: Path, host: str) -> None:
    node = config_of(tmp_path, f"grpc: '{host}:1', http: '{host}:2', metrics: '{host}:3'").node
    assert node.access.access.open


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "10.0.0.7", "gpu-7.example.org"])
def test_a_port_that_others_reach_must_be_encrypted_or_said_to_be_insecure(
    tmp_path: Path, host: str
) -> None:
    for port in ("grpc", "http", "metrics"):
        told = problem(tmp_path, f"{port}: '{host}:7'")
        assert told.startswith(
            f"node.yaml:2: node.{port}: {host}:7 can be reached from other machines"
        )
        assert told.endswith(f"or write node.insecure: [{port}]")
        for insecure in ("true", f"[{port}]"):
            node = config_of(tmp_path, f"{port}: '{host}:7', insecure: {insecure}").node
            assert port in node.insecure
            # Whoever comes from elsewhere without a key changes nothing.
            assert node.access.access.anonymous == ("infer", "view")
            assert node.asks


def test_tls_makes_ports_fit_for_others_but_metrics(tmp_path: Path, authority: Authority) -> None:
    server = authority.issue("server")
    tls = f"tls: {{certificate: {server.certificate}, key: {server.key}}}"
    node = config_of(tmp_path, f"grpc: 0.0.0.0:1, http: 0.0.0.0:2, {tls}").node
    assert node.access.access.anonymous == ("infer", "view")
    assert "node.metrics" in problem(tmp_path, f"metrics: 0.0.0.0:3, {tls}")
    mutual = tls.replace("}", f", client_authority: {authority.certificate}}}")
    node = config_of(tmp_path, f"grpc: 0.0.0.0:1, http: 0.0.0.0:2, {mutual}").node
    assert node.access.access.open  # who shows a certificate of ours is trusted


# ---- keys and tenants --------------------------------------------------------------------------


def test_keys_and_tenants_are_read_and_shown(tmp_path: Path) -> None:
    keys = f"keys: {{ann: {{hash: '{HASH}', roles: [view, infer], tenant: shop}}}}"
    config = config_of(tmp_path, f"access: {{{keys}, {SHOP}}}")
    access = config.node.access.access
    (key,), (tenant,) = access.keys, access.tenants
    assert (key.name, key.digest, key.roles) == ("ann", HASH[7:], ("infer", "view"))
    assert (tenant.functions, tenant.requests_max, tenant.burst) == (("a", "b-*"), 4, 1)
    assert tenant.rate_per_s == pytest.approx(1 / 3)
    assert access.anonymous == ()
    (tmp_path / "again.yaml").write_text(config_to_yaml(config))
    assert load_config(tmp_path / "again.yaml", environ={}).node == config.node


def test_what_may_be_said_of_those_without_a_key(tmp_path: Path) -> None:
    for text, roles in (("none", ()), ("view", ("view",)), ("[admin]", ("admin",))):
        access = config_of(tmp_path, f"access: {{anonymous: {text}}}").node.access.access
        assert access.anonymous == roles


@pytest.mark.parametrize(
    ("access", "told"),
    [
        ("keys: {a: {hash: gslice_secret, roles: infer}}", "keys.a.hash: a key's hash is sha256:"),
        (f"keys: {{a: {{hash: '{HASH}', roles: boss}}}}", "keys.a.roles: 'boss' is no role"),
        (f"keys: {{a: {{hash: '{HASH}', roles: []}}}}", "keys.a.roles: must not be empty"),
        (f"keys: {{a: {{hash: '{HASH}'}}}}", "keys.a.roles: required, but not given"),
        (f"keys: {{anonymous: {{hash: '{HASH}', roles: infer}}}}", "'anonymous' cannot be a name"),
        (
            f"keys: {{a: {{hash: '{HASH}', roles: infer, tenant: shpo}}}}, {SHOP}",
            "keys.a.tenant: 'shpo' is not a tenant; did you mean 'shop'?",
        ),
        (
            f"keys: {{a: {{hash: '{HASH}', roles: infer}}, b: {{hash: '{HASH}', roles: view}}}}",
            "keys.b.hash: is that of 'a', too",
        ),
        ("tenants: {a: {rate: 5}}", "tenants.a.rate: '5' is not a rate; write it as 200/s"),
        ("tenants: {a: {share: 0%}}", "tenants.a.share: '0%' is out of range; write more than 0%"),
        ("tenants: {a: {share: 2}}", "tenants.a.share: '2' has no percent sign; write it as 150%"),
        ("tenants: {a: {functions: ['*x']}}", "'*x' is no function's name"),
        ("anonymous: nobody", "anonymous: 'nobody' is no role"),
        ("key_file: ./none.yaml", "key_file: cannot read none.yaml: No such file"),
    ],
)
def test_what_is_wrong_is_told_and_no_key_is_shown(tmp_path: Path, access: str, told: str) -> None:
    text = problem(tmp_path, f"access: {{{access}}}")
    assert told in text
    assert "gslice_secret" not in text


QUOTA = "access: {tenants: {shop: {functions: [a, b], share: 60%}, lab: {functions: [b, c]}}}"


def shares(**functions: str) -> str:
    bodies = (f"{name}: {{model: ./m.onnx, {body}}}" for name, body in functions.items())
    return f"functions: {{{', '.join(bodies)}}}"


@pytest.mark.parametrize(
    ("functions", "told"),
    [
        ({"a": "share: 60%", "b": "share: 90%"}, ""),  # b is lab's, too
        ({"a": "share: {min: 61%}"}, "a 61% = 61% at the least; raise it, or lower their shares"),
        ({"a": "isolation: exclusive"}, "a 100% = 100% at the least"),
        ({"a": "share: 61%, residency: cold"}, "a 61% = 61% at the least"),
        ({"b": "share: 20%"}, "no function counts for it"),
        ({"c": "share: 90%"}, ""),
    ],
)
def test_a_share_quota_must_be_one_that_can_be_kept(
    tmp_path: Path, functions: dict[str, str], told: str
) -> None:
    if not told:
        assert config_of(tmp_path, QUOTA, shares(**functions)).node.share_quotas
        return
    text = problem(tmp_path, QUOTA, shares(**functions))
    assert "node.access.tenants.shop.share: " in text
    assert told in text


def test_those_that_rest_may_together_ask_for_more(tmp_path: Path) -> None:
    access = "access: {tenants: {shop: {share: 150%}}}"
    cold = "share: 90%, residency: cold"
    config = config_of(tmp_path, access, shares(a=cold, b=cold))
    assert config.node.share_quotas == (ShareQuota("shop", 150.0),)
    (tmp_path / "again.yaml").write_text(config_to_yaml(config))
    assert load_config(tmp_path / "again.yaml", environ={}).node == config.node


def test_too_many_are_refused(tmp_path: Path) -> None:
    tenants = ", ".join(f"t{i}: {{}}" for i in range(65))
    assert "65 tenants; at most 64" in problem(tmp_path, f"access: {{tenants: {{{tenants}}}}}")
    many = ", ".join(f"k{i}: {{hash: '{digest_text(str(i))}', roles: infer}}" for i in range(257))
    assert "257 keys; at most 256" in problem(tmp_path, f"access: {{keys: {{{many}}}}}")


def test_a_file_of_keys_is_read_each_time(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(f"keys: {{ann: {{hash: '{HASH}', roles: infer}}}}\n")
    access = config_of(tmp_path, "access: {key_file: keys.yaml}").node.access
    assert access.key_file == file
    assert [key.name for key in present_access(access).keys] == ["ann"]
    assert present_access(access).anonymous == ()
    file.write_text("keys: {}\n")
    assert present_access(access).keys == ()
    file.write_text("keys: {ann: {roles: infer}}\n")
    with pytest.raises(ConfigError, match=r"keys\.yaml:1: keys\.ann\.hash: required"):
        present_access(access)
    file.chmod(0o606)
    with pytest.raises(ConfigError, match=r"anybody may write to it .*chmod o-w"):
        present_access(access)


def test_who_looks_for_the_daemon_need_not_read_the_keys(tmp_path: Path) -> None:
    path = written(tmp_path, "access: {key_file: ./none.yaml}")
    assert state_dir_of(path, {}) == tmp_path / "state"


def test_the_line_of_a_new_key_is_one_that_is_read(tmp_path: Path) -> None:
    line = key_to_yaml("ann", HASH, ["infer"], "shop")
    node = config_of(tmp_path, f"access: {{keys: {{{line}}}, {SHOP}}}").node
    assert node.access.access.keys[0].tenant == "shop"
    with pytest.raises(ConfigError, match="cannot be a name"):
        key_to_yaml("a b", HASH, ["infer"], "")


@given(st.floats(min_value=1 / 3600, max_value=1e6))
def test_a_rate_is_read_back_as_it_was_written(per_s: float) -> None:
    assert parse_rate(format_rate(per_s)) == per_s


@given(st.text(max_size=12))
def test_a_text_is_a_rate_or_refused(text: str) -> None:
    with contextlib.suppress(InvalidArgument):
        assert 1 / 3600 <= parse_rate(text) <= 1e6


# ---- what is loaded ----------------------------------------------------------------------------


def test_roots_may_be_urls(tmp_path: Path) -> None:
    roots = "model_roots: [./models, 's3://bucket/models']"
    (tmp_path / "models").mkdir()
    body = "functions:\n  f: {model: 's3://bucket/%s'}\n"
    assert config_of(tmp_path, roots, body % "models/m.onnx")
    for path in ("models2/m.onnx", "m.onnx"):
        assert "is not in node.model_roots" in problem(tmp_path, roots, body % path)


def test_models_come_from_their_roots_whatever_links_say(tmp_path: Path) -> None:
    inside, outside = tmp_path / "models", tmp_path / "other"
    for folder in (inside, outside):
        folder.mkdir()
        (folder / "m.onnx").write_bytes(b"")
    (inside / "link.onnx").symlink_to(outside / "m.onnx")
    (inside / "own.onnx").symlink_to("m.onnx")
    node = config_of(tmp_path, "model_roots: [./models]").node

    def refused(**fields: str) -> str:
        return refusal(FunctionSpec("f", **fields), node).replace(f"{tmp_path}/", "")

    assert refused(model=str(inside / "m.onnx")) == ""
    assert refused(model=str(inside / "own.onnx")) == ""
    assert refused(model=str(inside / "x/../m.onnx")) == ""
    assert refused(model=str(outside / "m.onnx")) == (
        "model other/m.onnx is not in node.model_roots: models"
    )
    for name in ("link.onnx", "../other/m.onnx", "../models2/m.onnx"):
        assert "is not in node.model_roots" in refused(model=str(inside / name))
    assert "warmup" in refused(model=str(inside / "m.onnx"), warmup="/etc/passwd")
    assert "python_path" in refused(python="m:C", python_path=str(outside))
    assert refusal(FunctionSpec("f", model="/x.onnx"), config_of(tmp_path, "").node) == ""
    with pytest.raises(PermissionDenied, match=r"function f: model .* is not in node\.model_roots"):
        check_allowed(FunctionSpec("f", model="/x.onnx"), node)


def test_a_file_that_loads_from_elsewhere_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    functions = "functions: {f: {model: ./m.onnx}}"
    told = problem(tmp_path, "model_roots: [./models]", functions)
    assert told == "node.yaml:3: functions.f: model m.onnx is not in node.model_roots: models"
    assert "none is not a directory" in problem(tmp_path, "model_roots: [./none]")


def test_python_code_can_be_ruled_out(tmp_path: Path) -> None:
    for source in ("python: tagger:Tagger", "torch: net:make"):
        functions = f"functions: {{f: {{{source}}}}}"
        assert config_of(tmp_path, "", functions).functions
        told = problem(tmp_path, "python_functions: false", functions)
        assert "is Python code, and node.python_functions is false" in told
    assert config_of(tmp_path, "python_functions: false", "functions: {f: {model: m.onnx}}")
