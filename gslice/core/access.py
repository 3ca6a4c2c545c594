"""Who may do what: API keys with roles, and tenants with quotas. Pure: no file is read here.

A key is 256 random bits, so its SHA-256 says nothing about it: that is what node.yaml has.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from gslice.core.errors import InvalidArgument, PermissionDenied, Unauthenticated

KEY_PREFIX = "gslice_"  # so that scanners of source code find one that leaked
TENANTS_MAX = 64  # native/access/quota_board.hpp
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_KEY_BYTES = 32
_CREDENTIAL_CHARS = 512


class Role(StrEnum):
    """What a caller may do; whoever may do one thing may not do another for that."""

    INFER = "infer"
    """Send requests to functions, and read what these take and give."""
    VIEW = "view"
    """Read states, figures and events."""
    ADMIN = "admin"
    """All of it, and change the node."""


@dataclass(frozen=True)
class ShareQuota:
    """Most that the functions of a tenant may have of the node's devices, all together.

    Attributes:
        tenant: Whose.
        percent: Of one device: 250 is two and a half of them.
    """

    tenant: str
    percent: float


@dataclass(frozen=True)
class Tenant:
    """Callers who share quotas.

    Attributes:
        name: Its own.
        functions: The only ones that it may use; `shop-*` is all whose names begin so.
        rate_per_s: Requests a second, in the long run; 0: any number.
        burst: Requests that may come at once, within the rate.
        requests_max: Requests that may wait or run at a time; 0: any number.
        share_percent: Of devices, for the functions that nobody else may use; 0: any share.
    """

    name: str
    functions: tuple[str, ...] = ("*",)
    rate_per_s: float = 0.0
    burst: int = 1
    requests_max: int = 0
    share_percent: float = 0.0

    def may_use(self, function: str) -> bool:
        """Whether a function is one of its own."""
        return any(
            function.startswith(each[:-1]) if each.endswith("*") else function == each
            for each in self.functions
        )


@dataclass(frozen=True)
class Key:
    """What is known of an API key.

    Attributes:
        name: Who has it, for people.
        digest: Its SHA-256, in hexadecimal.
        roles: What it lets its holder do.
        tenant: Whose quotas hold; empty: nobody's.
    """

    name: str
    digest: str
    roles: tuple[str, ...]
    tenant: str = ""


@dataclass(frozen=True)
class Caller:
    """Somebody who asks.

    Attributes:
        name: The key's, or `anonymous`.
        roles: What they may do.
        tenant: Whose quotas hold; None: nobody's.
    """

    name: str
    roles: tuple[str, ...]
    tenant: Tenant | None = None

    @property
    def tenant_name(self) -> str:
        """The tenant's; empty: they have none."""
        return self.tenant.name if self.tenant is not None else ""

    def may(self, *roles: Role) -> bool:
        """Whether they have one of some roles; an admin has all of them."""
        return Role.ADMIN in self.roles or any(role in self.roles for role in roles)

    def may_use(self, function: str) -> bool:
        """Whether a function is for them."""
        return self.tenant is None or self.tenant.may_use(function)

    def check_function(self, function: str) -> None:
        """Refuses what is another tenant's, whether it is there or not.

        Raises:
            PermissionDenied: it is not for them.
        """
        if self.tenant is not None and not self.tenant.may_use(function):
            raise PermissionDenied(
                f"function {function!r} is not one of tenant {self.tenant.name!r}"
            )


ALL = tuple(str(role) for role in Role)
ANONYMOUS = "anonymous"


@dataclass(frozen=True)
class Access:
    """Who is known, and what they and all others may do.

    Attributes:
        keys: Those that are taken.
        tenants: Those that keys name, each once.
        anonymous: Roles of whoever shows no key.
    """

    keys: tuple[Key, ...] = ()
    tenants: tuple[Tenant, ...] = ()
    anonymous: tuple[str, ...] = ALL

    @property
    def open(self) -> bool:
        """Whether everybody may do everything, so that nobody need be asked."""
        return not self.keys and Role.ADMIN in self.anonymous

    def knows(self, tenant: str) -> bool:
        """Whether there is a tenant of that name; empty: those who have none."""
        return not tenant or self._tenant(tenant) is not None

    def share_quota(self, function: str) -> ShareQuota | None:
        """What a function's share counts for: the quota of the only tenant that may use it."""
        users = [tenant for tenant in self.tenants if tenant.may_use(function)]
        if len(users) != 1 or not users[0].share_percent:
            return None
        return ShareQuota(users[0].name, users[0].share_percent)

    def caller(self, credential: str | None) -> Caller:
        """Who shows a key, or none.

        Raises:
            Unauthenticated: it is not known.
        """
        if credential is None:
            return Caller(ANONYMOUS, self.anonymous)
        digest, found = digest_of(credential), None
        for key in self.keys:  # all of them, so that the time taken tells nothing
            if hmac.compare_digest(key.digest, digest):
                found = key
        if found is None:
            if not self.keys:  # a client that is configured for another node
                return Caller(ANONYMOUS, self.anonymous)
            raise Unauthenticated("the API key is not known here")
        return Caller(found.name, found.roles, self._tenant(found.tenant))

    def require(self, credential: str | None, *roles: Role) -> Caller:
        """Who shows a key, or none, if they may do what one of some roles lets them.

        Raises:
            Unauthenticated: the key is not known, or one is needed.
            PermissionDenied: it is not for this.
        """
        caller = self.caller(credential)
        if caller.may(*roles):
            return caller
        wanted = " or ".join(roles)
        if caller.name == ANONYMOUS:
            raise Unauthenticated(
                f"an API key with the role {wanted} is needed",
                hint="send it as `authorization: Bearer KEY`",
            )
        raise PermissionDenied(f"key {caller.name!r} has not the role {wanted}")

    def _tenant(self, name: str) -> Tenant | None:
        return next((each for each in self.tenants if each.name == name), None)


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches host:port."""
    host = address.rpartition(":")[0].strip("[]").lower()
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def new_key() -> str:
    """A new API key, to be shown once."""
    return KEY_PREFIX + secrets.token_urlsafe(_KEY_BYTES)


def digest_of(key: str) -> str:
    """A key's SHA-256, in hexadecimal."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def digest_text(key: str) -> str:
    """What node.yaml has of a key."""
    return f"sha256:{digest_of(key)}"


def parse_digest(text: str) -> str:
    """The digest of what `digest_text` wrote.

    Raises:
        InvalidArgument: it is none; it may be a key, so it is not shown.
    """
    match = _DIGEST.fullmatch(text)
    if match is None:
        raise InvalidArgument(
            "a key's hash is sha256: and 64 hexadecimal digits, as `gslice key new` writes it"
        )
    return match[1]


def credential_of(header: Callable[[str], str | None]) -> str | None:
    """The key that a call shows: in `authorization`, or in `x-api-key`; None: none.

    A header without a value is none: clients send it whose variable is not set.

    Args:
        header: A header of the call by its name, which is in lower case; None: it has none.

    Raises:
        Unauthenticated: what it shows is no API key.
    """
    authorization = header("authorization")
    if not authorization:
        key = header("x-api-key") or None
    else:
        scheme, _, key = authorization.partition(" ")
        key = key.strip()
        if scheme.lower() != "bearer" or not key:
            raise Unauthenticated("authorization must be `Bearer KEY`")
    if key is not None and len(key) > _CREDENTIAL_CHARS:
        raise Unauthenticated("the API key is not known here")
    return key
