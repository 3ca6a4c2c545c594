"""`node.access` and `node.insecure`: who may do what, and who can listen on the way."""

from __future__ import annotations

import math
import stat
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, WithJsonSchema

from gslice.core.access import (
    ALL,
    ANONYMOUS,
    TENANTS_MAX,
    Access,
    Key,
    Role,
    Tenant,
    is_loopback,
    parse_digest,
)
from gslice.core.config.body import nested, to_text
from gslice.core.config.document import Document, Problem, parse_document
from gslice.core.config.problems import nearest, problems_of
from gslice.core.config.ranges import Section
from gslice.core.config.types import AccessConfig
from gslice.core.config.words import NAME, parsed, wrong
from gslice.core.errors import ConfigError, GsliceError
from gslice.core.units import parse_devices_percent, parse_rate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from gslice.core.config.node import Node

KEYS_MAX = 256
FUNCTIONS_MAX = 1024  # of all tenants together: a front-end is told of all in one message
PORTS = ("grpc", "http", "metrics")
Insecure = bool | list[Literal["grpc", "http", "metrics"]]


def _digest(value: Any) -> Any:
    return parsed(value, parse_digest, "a hash, as `gslice key new` writes it")


def _roles(value: Any) -> Any:
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
        raise wrong(f"must be one of {', '.join(ALL)}, or a list of them")
    for each in given:
        if each not in ALL:
            raise wrong(f"{each!r} is no role" + nearest(each, ALL))
    return [role for role in ALL if role in given]


def _anonymous(value: Any) -> Any:
    return [] if value == "none" else _roles(value)


def _rate(value: Any) -> Any:
    return parsed(value, parse_rate, "a rate, as in 200/s")


def _devices_percent(value: Any) -> Any:
    return parsed(value, parse_devices_percent, "a share of devices, as in 150%")


def _pattern(value: str) -> str:
    if not NAME.fullmatch(value.removesuffix("*") or "x"):
        raise wrong(f"{value!r} is no function's name, and no beginning of one as in shop-*")
    return value


def _name(value: str) -> str:
    if not NAME.fullmatch(value) or value == ANONYMOUS:
        raise wrong(f"{value!r} cannot be a name; use up to 64 letters, digits, '.', '_' and '-'")
    return value


_ROLE = {"enum": list(ALL)}
_ROLES = {"anyOf": [_ROLE, {"type": "array", "items": _ROLE}]}
Roles = Annotated[list[str], BeforeValidator(_roles), WithJsonSchema(_ROLES)]
Anonymous = Annotated[
    list[str] | None,
    BeforeValidator(_anonymous),
    WithJsonSchema({"anyOf": [*_ROLES["anyOf"], {"const": "none"}]}),
    Field(description="Roles of whoever shows no key. Default: none where there are keys."),
]
Digest = Annotated[
    str,
    BeforeValidator(_digest),
    WithJsonSchema({"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"}),
]
Rate = Annotated[
    float,
    BeforeValidator(_rate),
    WithJsonSchema({"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?/(s|m|h)$"}),
]
DevicesPercent = Annotated[
    float,
    BeforeValidator(_devices_percent),
    WithJsonSchema({"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?%$"}),
]
Name = Annotated[str, AfterValidator(_name)]


class KeyEntry(Section):
    """`node.access.keys.<name>`: an API key, by its hash."""

    hash: Annotated[Digest, Field(description="As `gslice key new` prints it.")]
    roles: Annotated[Roles, Field(min_length=1, description="infer, view, admin.")]
    tenant: str = Field(default="", description="Whose quotas hold. Default: nobody's.")


class TenantEntry(Section):
    """`node.access.tenants.<name>`: what all of its keys may take together."""

    functions: list[Annotated[str, AfterValidator(_pattern)]] = Field(
        default_factory=lambda: ["*"], description="That it may use; shop-* is all that begin so."
    )
    rate: Rate = Field(default=0.0, description="Of requests, as in 200/s. Default: any.")
    burst: int = Field(
        default=0, ge=0, le=1_000_000, description="At once. Default: a second's worth."
    )
    queue: int = Field(
        default=0, ge=0, le=1_000_000, description="Requests under way at a time. Default: any."
    )
    share: DevicesPercent = Field(
        default=0.0,
        description="Of devices (150%: one and a half) for functions that are its alone."
        " Default: any.",
    )


class AccessSection(Section):
    """`node.access`: who may do what at the ports."""

    keys: dict[Name, KeyEntry] = Field(default_factory=dict, description="By their names.")
    key_file: str = Field(default="", description="YAML of more keys; read again when it changes.")
    anonymous: Anonymous = None
    tenants: dict[Name, TenantEntry] = Field(
        default_factory=dict, description="Whose keys have quotas in common."
    )


class KeyFile(Section):
    """What is in `node.access.key_file`."""

    keys: dict[Name, KeyEntry] = Field(default_factory=dict, description="By their names.")


def present_access(config: AccessConfig) -> Access:
    """Who may do what, by what the file of keys says now.

    Raises:
        ConfigError: what is wrong with that.
    """
    if config.key_file is None:
        return config.access
    known = {key.name for key in config.access.keys}
    keys = _read_keys(config.key_file)
    if twice := sorted(known & {key.name for key in keys}):
        raise ConfigError(f"{config.key_file}: node.access.keys has {twice[0]!r} already")
    found = replace(config.access, keys=(*config.access.keys, *keys))
    for path, text in _key_problems(found):
        raise ConfigError(f"{config.key_file}: {'.'.join(path)}: {text}")
    return found


def key_to_yaml(name: str, digest_text: str, roles: Sequence[str], tenant: str) -> str:
    """The line under `node.access.keys` that makes a key known.

    Raises:
        ConfigError: a name is none.
    """
    body = {"hash": digest_text, "roles": list(roles)} | ({"tenant": tenant} if tenant else {})
    data = {"keys": {name: body}}
    try:
        KeyFile.model_validate(data)
    except ValidationError as error:
        text = problems_of(error, KeyFile, data)[0].text
        raise ConfigError(text) from error
    return to_text(nested({(name,): body}))


def node_access(node: Node, resolve: Callable[[str], str], problems: list[Problem]) -> AccessConfig:
    """Who may do what.

    Args:
        node: As in the file.
        resolve: Makes a path of the file absolute.
        problems: Gets what does not fit together.
    """
    addresses = {role: getattr(node, role) for role in PORTS}
    problems += _exposure_problems(addresses, tls=node.tls is not None, insecure=node.insecure)
    certified = node.tls is not None and bool(node.tls.client_authority)
    exposed = bool(_exposed_ports(addresses)) and not certified
    section = node.access or AccessSection()
    key_file = resolve(section.key_file) if section.key_file else ""
    return _build(section, key_file, exposed, problems)


def _build(
    section: AccessSection, key_file: str, exposed: bool, problems: list[Problem]
) -> AccessConfig:
    anonymous = section.anonymous
    if anonymous is None:
        if section.keys or key_file:
            anonymous = []
        else:  # nobody becomes an admin by reaching a port from elsewhere
            anonymous = [Role.INFER, Role.VIEW] if exposed else list(ALL)
    access = Access(
        _keys(section.keys),
        tuple(_tenant(name, entry) for name, entry in section.tenants.items()),
        tuple(str(role) for role in anonymous),
    )
    if len(access.tenants) > TENANTS_MAX:
        text = f"{len(access.tenants)} tenants; at most {TENANTS_MAX} are known"
        problems.append(Problem(("node", "access", "tenants"), text))
    if sum(len(tenant.functions) for tenant in access.tenants) > FUNCTIONS_MAX:
        text = f"more than {FUNCTIONS_MAX} functions in all; write beginnings, as in shop-*"
        problems.append(Problem(("node", "access", "tenants"), text))
    problems += [Problem(("node", "access", *path), text) for path, text in _key_problems(access)]
    config = AccessConfig(access, Path(key_file) if key_file else None)
    try:
        present_access(config)
    except GsliceError as error:
        problems.append(Problem(("node", "access", "key_file"), error.message))
    return config


def insecure_ports(insecure: Insecure) -> tuple[str, ...]:
    """Ports that others may reach although nothing encrypts them."""
    return (PORTS if insecure else ()) if isinstance(insecure, bool) else tuple(insecure)


def _exposed_ports(addresses: Mapping[str, str]) -> list[str]:
    return [role for role, address in addresses.items() if address and not is_loopback(address)]


def _exposure_problems(
    addresses: Mapping[str, str], *, tls: bool, insecure: Insecure
) -> list[Problem]:
    """Ports that others can reach, without encryption, and nobody said that they may."""
    allowed = insecure_ports(insecure)
    problems = []
    for role in _exposed_ports(addresses):
        if role in allowed or (tls and role != "metrics"):
            continue
        encrypt = "" if role == "metrics" else "add node.tls, "
        text = (
            f"{addresses[role]} can be reached from other machines, and is not encrypted;"
            f" {encrypt}listen on 127.0.0.1, or write node.insecure: [{role}]"
        )
        problems.append(Problem(("node", role), text))
    return problems


def _keys(entries: Mapping[str, KeyEntry]) -> tuple[Key, ...]:
    return tuple(
        Key(name, entry.hash, tuple(entry.roles), entry.tenant) for name, entry in entries.items()
    )


def _tenant(name: str, entry: TenantEntry) -> Tenant:
    burst = entry.burst or max(1, math.ceil(entry.rate))
    return Tenant(name, tuple(entry.functions), entry.rate, burst, entry.queue, entry.share)


def _key_problems(access: Access) -> Iterable[tuple[tuple[str, ...], str]]:
    """What is wrong with keys, by their place."""
    problems: list[tuple[tuple[str, ...], str]] = []
    if len(access.keys) > KEYS_MAX:
        problems.append((("keys",), f"{len(access.keys)} keys; at most {KEYS_MAX} are known"))
    tenants = [tenant.name for tenant in access.tenants]
    seen: dict[str, str] = {}
    for key in access.keys:
        if key.tenant and key.tenant not in tenants:
            text = f"{key.tenant!r} is not a tenant" + nearest(key.tenant, tenants)
            problems.append((("keys", key.name, "tenant"), text))
        first = seen.setdefault(key.digest, key.name)
        if first != key.name:
            problems.append((("keys", key.name, "hash"), f"is that of {first!r}, too"))
    return problems


def _read_keys(path: Path) -> tuple[Key, ...]:
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}:1: not UTF-8 text") from error
    if mode & stat.S_IWOTH:
        raise ConfigError(f"{path}: anybody may write to it", hint=f"chmod o-w {path}")
    document: Document = parse_document(text, str(path))
    try:
        return _keys(KeyFile.model_validate(document.data or {}).keys)
    except ValidationError as error:
        raise document.error(problems_of(error, KeyFile, document.data)) from error
