"""A whole configuration as YAML, every setting written out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ruamel.yaml.comments import CommentedMap, CommentedSeq

from gslice.core.config.body import as_written, flow, leaves, nested, to_text
from gslice.core.config.places import format_cores
from gslice.core.config.types import (
    AccessConfig,
    Config,
    DeviceConfig,
    NodeConfig,
    SettingChange,
)
from gslice.core.units import format_duration, format_percent, format_rate, format_size

if TYPE_CHECKING:
    from gslice.core.access import Key, Tenant


def config_to_yaml(config: Config) -> str:
    """A node.yaml that says what is in force: file, environment and defaults together."""
    tree = CommentedMap({"version": 1, "node": _node(config.node)})
    tree["devices"] = CommentedMap(
        {name: _device(name, device) for name, device in config.devices.items()}
    )
    tree["functions"] = CommentedMap(
        {name: nested(leaves(spec, None)) for name, spec in config.functions.items()}
    )
    return to_text(tree)


def functions_to_yaml(
    bodies: Mapping[str, Mapping[str, Any]], remarks: Mapping[str, Sequence[str]]
) -> str:
    """A node.yaml of functions alone, without a closing newline.

    Args:
        bodies: What stands under each.
        remarks: Lines of comment above some of them.
    """
    functions = CommentedMap(
        {
            name: nested({(key,): value for key, value in body.items()})
            for name, body in bodies.items()
        }
    )
    for name in bodies:
        if lines := remarks.get(name):
            functions.yaml_set_comment_before_after_key(name, before="\n".join(lines), indent=2)
    return to_text(CommentedMap({"version": 1, "functions": functions}))


def diff_node(file: Config, running: Config) -> list[SettingChange]:
    """Every setting of the node and its devices in which two configurations differ.

    Args:
        file: As node.yaml has it.
        running: As the daemon was started with.
    """
    wanted, there = _settings_of_node(file), _settings_of_node(running)
    return [
        SettingChange(path, wanted.get(path, ""), there.get(path, ""))
        for path in dict.fromkeys([*there, *wanted])
        if wanted.get(path) != there.get(path)
    ]


def _settings_of_node(config: Config) -> dict[str, str]:
    """Each as YAML, by its path; of a device that is there, all in one."""
    shown = {f"node.{key}": to_text(value) for key, value in _node(config.node).items()}
    for name, device in config.devices.items():
        shown[f"devices.{name}"] = to_text(_inline(_device(name, device)))
    return shown


def _inline(settings: CommentedMap) -> dict[str, Any]:
    """A plain mapping, which `to_text` writes on one line."""
    return dict(settings)


def _node(node: NodeConfig) -> CommentedMap:
    shown = CommentedMap(
        {
            "grpc": node.grpc,
            "http": node.http or "off",
            "metrics": node.metrics,
            "ui": "on" if node.ui else "off",
            "state_dir": str(node.state_dir),
            "orphan_grace": format_duration(node.orphan_grace_us),
            "hang_timeout": format_duration(node.hang_timeout_us),
            "drain_timeout": format_duration(node.drain_timeout_us),
            "pinned_memory": format_size(node.pinned_memory_bytes),
            "frontends": node.frontends,
            "frontend": node.frontend,
            "frontend_memory": format_size(node.frontend_memory_bytes),
            "connection_age": format_duration(node.connection_age_us),
            "request_max": format_size(node.request_max_bytes),
            "controller": node.controller,
            "packing": node.packing,
            "spares": "auto" if node.spares is None else node.spares,
        }
    )
    shown["metrics_triton"] = node.metrics_triton
    style = node.logs.style
    size = format_size(node.logs.max_bytes)
    logs = {"format": style.format, "level": style.level, "size": size, "keep": node.logs.keep}
    shown["logs"] = flow(CommentedMap(logs))
    if node.tracing is not None:
        shown["tracing"] = flow(CommentedMap(vars(node.tracing)))
    if node.tls is not None:
        files = {key: path for key, path in vars(node.tls).items() if path}
        shown["tls"] = flow(CommentedMap(files))
    if (memory := node.client_memory) is not None:
        size = format_size(memory.max_bytes)
        body = {"prefix": memory.prefix, "max": size, "owner": memory.owner_uid}
        shown["client_memory"] = flow(CommentedMap(body))
    cache = node.model_cache
    body = {"dir": str(cache.directory), "max": format_size(cache.max_bytes)}
    shown["model_cache"] = flow(CommentedMap(body))
    shown["access"] = _access(node.access)
    if node.insecure:
        shown["insecure"] = flow(CommentedSeq(node.insecure))
    if node.model_roots:
        shown["model_roots"] = flow(CommentedSeq(node.model_roots))
    if not node.python_functions:
        shown["python_functions"] = False
    return shown


def _access(config: AccessConfig) -> CommentedMap:
    access = config.access
    shown = CommentedMap(
        {"anonymous": as_written(access.anonymous) if access.anonymous else "none"}
    )
    if config.key_file is not None:
        shown["key_file"] = str(config.key_file)
    if access.keys:
        shown["keys"] = CommentedMap({key.name: _key(key) for key in access.keys})
    if access.tenants:
        shown["tenants"] = CommentedMap({each.name: _tenant(each) for each in access.tenants})
    return shown


def _key(key: Key) -> Any:
    body: dict[str, Any] = {"hash": f"sha256:{key.digest}", "roles": as_written(key.roles)}
    if key.tenant:
        body["tenant"] = key.tenant
    return flow(CommentedMap(body))


def _tenant(tenant: Tenant) -> Any:
    body: dict[str, Any] = {"functions": as_written(tenant.functions)}
    if tenant.rate_per_s:
        body |= {"rate": format_rate(tenant.rate_per_s), "burst": tenant.burst}
    if tenant.requests_max:
        body["queue"] = tenant.requests_max
    if tenant.share_percent:
        body["share"] = format_percent(tenant.share_percent)
    return flow(CommentedMap(body))


def _device(name: str, device: DeviceConfig) -> CommentedMap:
    shown = CommentedMap({"limiter": device.limiter})
    limits = CommentedMap({"share": format_percent(device.share_limit_percent)})
    memory = device.memory_limit_bytes
    limits["memory"] = format_size(memory) if memory else "none"
    shown["limits"] = flow(limits)
    # A CPU device's name may give its cores; without, a GPU's workers have those near it.
    if device.cpus if device.kind == "cuda" else ":" not in name:
        shown["cpus"] = format_cores(device.cpus)
    if device.mps_pipe:
        shown["mps_pipe"] = device.mps_pipe
    if not device.share_weights:
        shown["share_weights"] = False
    if device.user != "auto":
        shown["user"] = device.user
    return shown
