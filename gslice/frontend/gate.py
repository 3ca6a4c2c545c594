"""Who may call what: asked of every call, once the daemon has said that callers must be asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from gslice.core.access import Access, Caller, Role, credential_of

if TYPE_CHECKING:
    from gslice import _native

_ANYBODY: tuple[Role, ...] = ()
_CALLERS = (Role.INFER, Role.VIEW)
ROLES: dict[str, tuple[Role, ...]] = {
    "ServerLive": _ANYBODY,
    "ServerReady": _ANYBODY,
    "ModelReady": _ANYBODY,
    "Check": _ANYBODY,
    "Watch": _ANYBODY,
    "ServerMetadata": _CALLERS,
    "ModelMetadata": _CALLERS,
    "ModelConfig": _CALLERS,
    "ModelInfer": (Role.INFER,),
    "ModelStreamInfer": (Role.INFER,),
    "ModelStatistics": (Role.VIEW,),
    "RepositoryIndex": (Role.VIEW,),
    "SystemSharedMemoryStatus": (Role.VIEW,),
    "CudaSharedMemoryStatus": (Role.VIEW,),
    "List": (Role.VIEW,),
}
"""One of which a caller needs, by method; all others are for admins."""

_NO_TENANT = -1


class Context(Protocol):
    """What is asked of a call."""

    def invocation_metadata(self) -> Any:
        """Its headers, as pairs; names in lower case."""


class Gate:
    """Lets calls in. Until the daemon says who may do what, everybody may do everything.

    Args:
        native: The data path, which holds tenants to their quotas. The native server asks callers
            of inference by itself.
    """

    def __init__(self, native: _native.Frontend | _native.GrpcServer) -> None:
        self._native = native
        self._access = Access()

    @property
    def access(self) -> Access:
        """Who may do what."""
        return self._access

    def set(self, access: Access, board_fd: int) -> None:
        """Goes by what the daemon says from now on, for streams that are open, too.

        Args:
            access: Who may do what.
            board_fd: Where quotas are counted; stays the caller's.

        Raises:
            GsliceError: the data path cannot.
        """
        places = {tenant.name: place for place, tenant in enumerate(access.tenants)}
        tenants = [
            (
                tenant.name,
                list(tenant.functions),
                round(1e9 / tenant.rate_per_s) if tenant.rate_per_s else 0,
                tenant.burst,
                tenant.requests_max,
            )
            for tenant in access.tenants
        ]
        if hasattr(self._native, "set_tenants"):
            self._native.set_tenants(tenants, board_fd)
        else:
            keys = [
                (
                    key.name,
                    bytes.fromhex(key.digest),
                    Caller(key.name, key.roles).may(Role.INFER),
                    places.get(key.tenant, _NO_TENANT),
                )
                for key in access.keys
            ]
            anonymous_infers = Caller("", access.anonymous).may(Role.INFER)
            self._native.set_access(keys, anonymous_infers, tenants, board_fd)
        self._access = access

    def admit(self, method: str, context: Context) -> Caller | None:
        """Lets a call of a method in.

        Returns:
            Who calls; None: that is not asked, for the method is anybody's.

        Raises:
            Unauthenticated: nobody knows who calls.
            PermissionDenied: the method is not for them.
        """
        roles = ROLES.get(method, (Role.ADMIN,))
        if not roles:
            return None
        credential = None if self._access.open else _credential(context)
        return self._access.require(credential, *roles)

    def caller(self, context: Context) -> Caller:
        """Who calls.

        Raises:
            Unauthenticated: nobody knows.
        """
        return self._access.caller(None if self._access.open else _credential(context))

    def tenant(self, context: Context) -> int:
        """The place of the tenant whose quotas hold for a request; -1: none's.

        Raises:
            Unauthenticated: nobody knows who calls.
            PermissionDenied: no requests are taken from them.
        """
        if self._access.open:
            return _NO_TENANT
        caller = self._access.require(_credential(context), Role.INFER)
        return self._access.tenants.index(caller.tenant) if caller.tenant else _NO_TENANT


def _credential(context: Context) -> str | None:
    return credential_of(dict(context.invocation_metadata()).get)
