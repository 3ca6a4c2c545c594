"""What is deployed fits what is deployed: units, images and manifests against the code."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from ruamel.yaml import YAML

from gslice import __version__
from gslice.core.config import load_config
from gslice.daemon.http import HEALTH_PAGES
from gslice.device.users import _CAPABILITIES, user_name
from tests.cli import gslice
from tests.node import in_background

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "configs" / "deploy"
BASE = DEPLOY / "kubernetes" / "base"
CONTAINERFILE = (DEPLOY / "Containerfile").read_text()


def documents(path: Path) -> list[Any]:
    return [each for each in YAML(typ="safe").load_all(path.read_text()) if each is not None]


def of_kind(kind: str) -> Any:
    (found,) = (d for p in BASE.glob("*.yaml") for d in documents(p) if d.get("kind") == kind)
    return found


def container() -> Any:
    (only,) = of_kind("DaemonSet")["spec"]["template"]["spec"]["containers"]
    return only


def image_settings() -> dict[str, str]:
    """What the image says of the node by its environment."""
    return dict(re.findall(r"(GSLICE_NODE__\w+)=(\S+)", CONTAINERFILE))


def port(address: str) -> int:
    return int(address.rpartition(":")[2])


# ---- the image -----------------------------------------------------------------------------------


def test_the_image_serves_where_it_says(tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_text("version: 1\n")
    node = load_config(path, environ=image_settings()).node
    exposed = re.search(r"^EXPOSE (.*)$", CONTAINERFILE, re.MULTILINE)
    assert exposed is not None
    assert [int(text) for text in exposed[1].split()] == [
        port(node.grpc),
        port(node.http),
        port(node.metrics),
    ]
    assert f"VOLUME {node.state_dir}" in CONTAINERFILE
    assert f"CMD {str(container()['args']).replace(chr(39), chr(34))}" in CONTAINERFILE


def test_the_image_installs_extras_that_there_are() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert {"cpu", "cuda"} <= extras.keys()
    assert "ARG EXTRA=cpu" in CONTAINERFILE
    for tag in re.findall(r"gslice:(\d\S*)", CONTAINERFILE):
        assert tag.removesuffix("-cuda") == __version__
    ignored = (ROOT / ".containerignore").read_text().split()
    assert (ROOT / ".dockerignore").resolve() == ROOT / ".containerignore"
    assert not {"gslice", "native", "README.md", "LICENSE", "pyproject.toml"} & set(ignored)


def test_the_image_is_healthy_when_the_daemon_answers() -> None:
    (command,) = re.findall(r"^HEALTHCHECK .*\\\n +(\".*\")\]$", CONTAINERFILE, re.MULTILINE)
    asked: list[bytes] = []

    def answer(listener: socket.socket, status: bytes) -> None:
        connection, _ = listener.accept()
        with connection:
            asked.append(connection.recv(1024))
            connection.sendall(b"HTTP/1.0 " + status + b"\r\n\r\n")

    for status, healthy in ((b"200 OK", True), (b"503 Service Unavailable", False)):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            answering = in_background(lambda: answer(listener, status))  # noqa: B023
            metrics = f"0.0.0.0:{listener.getsockname()[1]}"
            done = subprocess.run(
                ["bash", "-c", json.loads(command)],
                env={**os.environ, "GSLICE_NODE__METRICS": metrics},
            )
            answering.result()
        assert (done.returncode == 0) is healthy
    path = asked[0].split()[1].decode()
    assert path in HEALTH_PAGES
    assert path == container()["livenessProbe"]["httpGet"]["path"]


# ---- Kubernetes ----------------------------------------------------------------------------------


def assert_takes(command: str, args: list[str]) -> None:
    usage = gslice(command, "--help").stdout
    for option in (each for each in args if each.startswith("-")):
        assert re.search(rf"[ ,]{option}[ ,]", usage), option


def test_the_command_is_one() -> None:
    command, *args = container()["args"]
    assert_takes(command, args)
    mounts = {each["name"]: each["mountPath"] for each in container()["volumeMounts"]}
    assert args[1] == f"{mounts['node']}/node.yaml"


def test_probes_and_ports_are_those_of_the_node(tmp_path: Path) -> None:
    path = BASE / "node.yaml"
    node = load_config(path, environ=image_settings()).node
    ports = {each["name"]: each["containerPort"] for each in container()["ports"]}
    assert ports == {name: port(getattr(node, name)) for name in ("grpc", "http", "metrics")}
    for probe in ("startupProbe", "livenessProbe"):
        asked = container()[probe]["httpGet"]
        assert asked["port"] == "metrics"
        assert asked["path"] in HEALTH_PAGES
    assert container()["readinessProbe"]["grpc"] == {"port": ports["grpc"]}
    for document in documents(BASE / "service.yaml"):
        for each in document["spec"]["ports"]:
            assert each["port"] == ports[each["targetPort"]]
    (rule,) = of_kind("NetworkPolicy")["spec"]["ingress"]
    assert {each["port"] for each in rule["ports"]} == ports.keys()
    annotations = of_kind("DaemonSet")["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(ports["metrics"])


def test_a_pod_ends_after_the_node_has_drained() -> None:
    node = load_config(BASE / "node.yaml", environ=image_settings()).node
    pod = of_kind("DaemonSet")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] * 1e6 > 2 * node.drain_timeout_us
    mounts = {each["name"]: each["mountPath"] for each in container()["volumeMounts"]}
    assert {each["name"] for each in pod["volumes"]} == mounts.keys()
    assert mounts["state"] == str(node.state_dir)
    user = re.search(r"^USER (\d+):(\d+)$", CONTAINERFILE, re.MULTILINE)
    assert user is not None
    security = pod["securityContext"]
    assert user.groups() == (str(security["runAsUser"]), str(security["runAsGroup"]))


def test_the_node_yaml_of_the_config_map_is_good() -> None:
    (generated,) = documents(BASE / "kustomization.yaml")[0]["configMapGenerator"]
    (volume,) = (
        each
        for each in of_kind("DaemonSet")["spec"]["template"]["spec"]["volumes"]
        if "configMap" in each
    )
    assert volume["configMap"]["name"] == generated["name"]
    assert generated["files"] == ["node.yaml"]
    assert gslice("config", "check", str(BASE / "node.yaml")).stdout.endswith("good, 1 function\n")


def test_every_manifest_is_named_and_every_image_is_ours() -> None:
    for folder in (BASE, DEPLOY / "kubernetes" / "gpu"):
        (kustomization,) = documents(folder / "kustomization.yaml")
        named = [
            *kustomization["resources"],
            *(each["path"] for each in kustomization.get("patches", ())),
        ]
        files = {path.name for path in folder.glob("*.yaml")}
        assert {*named, "kustomization.yaml"} - {"../base"} == files - {"node.yaml"}
        (image,) = kustomization["images"]
        assert image["name"] == container()["image"] == "gslice"
        assert image["newTag"].removesuffix("-cuda") == __version__


OLDEST_KUBERNETES = "1.27"  # gRPC probes. What is stable there stays in later ones


def assert_known(document: Any) -> None:
    """Every field is one of Kubernetes' own, of the right type."""
    kubernetes_validate.validate(document, OLDEST_KUBERNETES, strict=True)


def test_kubernetes_knows_every_field() -> None:
    for path in BASE.glob("*.yaml"):
        if path.name not in ("kustomization.yaml", "node.yaml"):
            for document in documents(path):
                assert_known(document)
    wrong = of_kind("NetworkPolicy")
    wrong["spec"]["podSelectors"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="podSelectors"):
        assert_known(wrong)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not here")
def test_kustomize_takes_them() -> None:
    for folder, tag in (("base", __version__), ("gpu", f"{__version__}-cuda")):
        done = subprocess.run(
            ["kubectl", "kustomize", str(DEPLOY / "kubernetes" / folder)],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert f"image: gslice:{tag}\n" in done.stdout
        for document in YAML(typ="safe").load_all(done.stdout):
            if document["kind"] == "DaemonSet":  # all that differs from the base
                assert_known(document)


# ---- systemd -------------------------------------------------------------------------------------


EXPOSED_AT_MOST = 30  # tenths, of 100: what the unit says it must leave open


def unit_lines() -> list[str]:
    return (DEPLOY / "systemd" / "gslice.service").read_text().splitlines()


def unit(key: str) -> str:
    (value,) = (v for k, _, v in (line.partition("=") for line in unit_lines()) if k == key)
    return value


def test_the_unit_starts_and_reloads_by_commands_that_there_are() -> None:
    for key in ("ExecStart", "ExecReload"):
        program, command, *args = unit(key).split()
        assert program == "/opt/gslice/bin/gslice"
        assert_takes(command, args)


def test_workers_outlive_the_daemon_and_not_its_grace(tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_text("version: 1\n")
    name, _, value = unit("Environment").partition("=")
    node = load_config(path, environ={name: value}).node
    assert str(node.state_dir) == f"/var/lib/{unit('StateDirectory')}"
    assert unit("KillMode") == "process"
    assert int(unit("RestartSec")) * 1e6 < node.orphan_grace_us
    assert int(unit("TimeoutStopSec")) * 1e6 > node.drain_timeout_us + 30_000_000


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    path = tmp_path / "gslice.service"
    path.write_text("\n".join(unit_lines()).replace("/opt/gslice/bin/gslice", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(path)], capture_output=True, text=True
    )
    told = [line for line in done.stderr.splitlines() if str(path) in line]
    assert done.returncode == 0, done.stderr
    assert all("DelegateSubgroup" in line for line in told)  # older ones do not know it yet


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here")
def test_the_unit_exposes_little() -> None:
    path = DEPLOY / "systemd" / "gslice.service"
    asked = ["systemd-analyze", "security", "--offline=true", "--no-pager"]
    done = subprocess.run(
        [*asked, f"--threshold={EXPOSED_AT_MOST}", str(path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


# ---- workers as users of their own ---------------------------------------------------------------


def test_users_that_come_along_are_those_of_devices() -> None:
    lines = (DEPLOY / "systemd/gslice.sysusers.conf").read_text().splitlines()
    made = {line.split()[1] for line in lines if line.startswith("u ")}
    assert made >= {user_name(device) for device in ("cpu", *(f"cuda:{n}" for n in range(8)))}


def test_a_service_that_changes_users_has_the_rights_that_it_takes() -> None:
    settings = (DEPLOY / "systemd/gslice-users.conf").read_text()
    granted = set(re.findall(r"CAP_(\w+)", settings))
    assert granted >= set(_CAPABILITIES.values())
    assert "User=root" in settings
    in_pods = re.search(r"add: \[([\w, ]+)\]", (ROOT / "docs/running.md").read_text())
    assert in_pods is not None
    assert set(in_pods[1].split(", ")) == set(_CAPABILITIES.values())
