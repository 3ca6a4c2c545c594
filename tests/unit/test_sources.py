"""URLs of models: what they name, what is pinned, what is refused, and what nobody may see."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from gslice.control.versions import Version, as_fetched, likely, model_settings
from gslice.core.config import config_for_model, function_from_yaml, function_to_yaml
from gslice.core.config.load import load_config_text
from gslice.core.errors import ConfigError, InvalidArgument, PermissionDenied
from gslice.core.plans import is_plan
from gslice.core.sources import Source, content_digest, is_file_name, is_remote, redacted
from gslice.core.types import FunctionSpec
from gslice.daemon.overrides import refuse_other_code

PIN = "ab" * 32


@pytest.mark.parametrize(
    ("text", "scheme", "name"),
    [
        ("s3://bucket/a/b.onnx", "s3", "b.onnx"),
        ("gs://bucket/b.plan", "gs", "b.plan"),
        ("hf://org/repo/b.onnx", "hf", "b.onnx"),
        ("hf://org/repo@refs%2Fpr%2F1/onnx/b.onnx", "hf", "b.onnx"),
        ("https://host:8443/a%20b.onnx?sig=x", "https", "a b.onnx"),
        ("http://127.0.0.1:9/b.onnx", "http", "b.onnx"),
        ("http://[::1]:9/b.onnx", "http", "b.onnx"),
        ("oci://ghcr.io/a/b:v1", "oci", ""),
        (f"oci://host:5000/a/b@sha256:{PIN}/b.onnx", "oci", "b.onnx"),
    ],
)
def test_what_a_url_names(text: str, scheme: str, name: str) -> None:
    source = Source.parse(f"{text}#sha256={PIN}")
    assert (source.scheme, source.name, source.digest) == (scheme, name, PIN)
    assert Source.parse(text) == Source(text)
    assert is_remote(text)
    assert not is_remote("./a.onnx")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("ftp://host/a", "nothing is fetched from there"),
        ("file:///etc/passwd", "nothing is fetched from there"),
        ("http://host/a.onnx", "http is not encrypted"),
        ("http://127.0.0.1.evil.example/a.onnx", "http is not encrypted"),
        ("https://host", "names no file"),
        ("https://host/a/", "names no file"),
        ("s3://bucket", "names no file"),
        ("s3://bucket/a.onnx?versionId=1", "a query goes with https only"),
        ("hf://repo/file", "write it as hf://org/repo"),
        ("https://host/a.onnx#sha256=12", "a pin is"),
        ("https://host/a.onnx#main", "a pin is"),
        ("https://host/a b.onnx", "holds blanks"),
        ("https://host:x/a.onnx", "is no URL"),
        ("https://host/..%2Fx", "cannot be the name of a file"),
        ("oci://host/A B", "holds blanks"),
        ("oci://host", "write it as oci://"),
    ],
)
def test_what_is_refused(text: str, reason: str) -> None:
    with pytest.raises(InvalidArgument, match=reason):
        Source.parse(text)


def test_credentials_are_refused_and_never_shown() -> None:
    with pytest.raises(InvalidArgument, match="holds credentials") as told:
        Source.parse("https://me:secret@host/a.onnx")
    assert "secret" not in str(told.value)
    signed = Source.parse("https://host/a.onnx?X-Amz-Signature=secret")
    assert signed.shown == "https://host/a.onnx?..."
    assert redacted(f"403, url='{signed.url}'") == "403, url='https://host/a.onnx?...'"
    assert signed.beside("w.bin") == "https://host/w.bin?X-Amz-Signature=secret"


def test_a_registry_s_names() -> None:
    tagged = Source.parse("oci://host:5000/a/b:v1/m.onnx").oci
    assert (tagged.registry, tagged.name, tagged.reference) == ("host:5000", "a/b", "v1")
    assert (tagged.file, tagged.fixed) == ("m.onnx", False)
    fixed = Source.parse(f"oci://host/b@sha256:{PIN}").oci
    assert (fixed.reference, fixed.file, fixed.fixed) == (f"sha256:{PIN}", "", True)
    assert Source.parse("oci://host/a/b").oci.reference == "latest"


def test_a_pin_is_what_sha256sum_says(tmp_path: Path) -> None:
    for name in ("m.onnx", "a.bin", "b.bin"):
        (tmp_path / name).write_text(name)
    digests = {n: hashlib.sha256(n.encode()).hexdigest() for n in ("m.onnx", "b.bin", "a.bin")}
    script = "sha256sum m.onnx a.bin b.bin | sha256sum"
    said = subprocess.run(script, shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert content_digest(digests) == said.stdout.split()[0]
    assert content_digest({"m": digests["m.onnx"]}) == digests["m.onnx"]


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "", ".", "a\0b", ".hidden", "a\\b"])
def test_no_file_comes_to_lie_elsewhere(name: str) -> None:
    assert not is_file_name(name)
    assert is_file_name("weights/a.bin")


# ---- in node.yaml ------------------------------------------------------------------------------


def test_a_function_may_name_urls(tmp_path: Path) -> None:
    body = (
        f"model: s3://b/m.plan#sha256={PIN}\nwarmup: {{samples: https://h/s.npz?sig=1, count: 4}}\n"
    )
    spec = function_from_yaml("f", body, tmp_path)
    assert (spec.engine, spec.model) == ("tensorrt", f"s3://b/m.plan#sha256={PIN}")
    assert (spec.warmup, spec.warmup_count) == ("https://h/s.npz?sig=1", 4)
    assert function_from_yaml("f", function_to_yaml(spec, tmp_path), tmp_path) == spec
    assert is_plan("https://h/m.plan?sig=1")
    assert function_from_yaml("f", "model: hf://o/r/m.pt2", tmp_path).engine == "torch"


def test_a_url_needs_no_node_yaml() -> None:
    url = "https://host/my.model.onnx?sig=x"
    config = config_for_model(url, environ={"GSLICE_STATE_DIR": "/s"})
    assert {name: spec.model for name, spec in config.functions.items()} == {"my.model": url}


def test_clients_may_have_nothing_fetched() -> None:
    declared = FunctionSpec("f", model="/m.onnx")
    asked = FunctionSpec("f", model="/m.onnx", warmup="https://inside/secret.npz")
    with pytest.raises(PermissionDenied, match="clients may not change its warmup"):
        refuse_other_code(asked, declared)


def test_a_wrong_url_is_told_by_its_line(tmp_path: Path) -> None:
    text = "version: 1\nfunctions:\n  f:\n    model: http://host/m.onnx\n"
    with pytest.raises(ConfigError, match=r"node.yaml:4: functions.f.model: .*not encrypted"):
        load_config_text(text, tmp_path / "node.yaml")


def test_the_cache_has_a_place_and_a_bound(tmp_path: Path) -> None:
    text = "version: 1\nnode: {model_cache: {dir: models, max: 3GiB}}\n"
    cache = load_config_text(text, tmp_path / "node.yaml").node.model_cache
    assert (cache.directory, cache.max_bytes) == (tmp_path / "models", 3 << 30)


# ---- in versions -------------------------------------------------------------------------------


def test_a_fetched_model_is_known_by_its_url() -> None:
    declared = FunctionSpec("f", model="s3://b/m.onnx", warmup="/w.npz")
    fetched = FunctionSpec(
        "f", model="/cache/12/m.onnx", warmup="/w.npz", sources={"model": "s3://b/m.onnx"}
    )
    assert fetched.as_declared == declared
    assert model_settings(fetched) == model_settings(declared)
    version = Version(3, fetched, "print", 1.0, 1.0)
    assert likely(declared, [version]) is version
    assert as_fetched(declared, fetched) == as_fetched(fetched, fetched) == fetched
    other = FunctionSpec("f", model="s3://b/other.onnx")
    assert as_fetched(other, fetched) == other
    assert function_to_yaml(fetched) == function_to_yaml(declared)
