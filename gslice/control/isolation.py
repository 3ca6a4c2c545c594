"""Who may be on a device together: a function with `isolation: exclusive` is there alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gslice.core.types import FunctionSpec


class Tenant(Protocol):
    """A function, as far as it matters who is beside it."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def exclusive(self) -> bool:
        """Whether it has its devices to itself."""


def apart(one: Tenant, other: Tenant) -> bool:
    """Whether two may not be on one device; a function is never in its own way."""
    return one.name != other.name and (one.exclusive or other.exclusive)


def in_the_way(tenant: Tenant, there: Iterable[Tenant]) -> list[str]:
    """The names of those beside whom a function may not be, sorted."""
    return sorted({other.name for other in there if apart(tenant, other)})


def refusal(tenant: Tenant, taken: Mapping[str, Iterable[str]]) -> str:
    """Why a function cannot be on some devices, in a line.

    Args:
        tenant: The function.
        taken: By device: who is in its way there, at least one.
    """
    told = ", ".join(f"{device} ({', '.join(names)})" for device, names in taken.items())
    if tenant.exclusive:
        return f"it wants a device to itself (isolation: exclusive), and others are on {told}"
    return f"exclusive functions have to themselves what it may run on: {told}"


def by_claim(specs: Iterable[FunctionSpec]) -> list[FunctionSpec]:
    """Functions in the order in which they should come to their devices.

    Where one needs an empty device, those that can be on one only come first, then that one.
    """
    specs = list(specs)
    if any(spec.exclusive for spec in specs):
        specs.sort(key=lambda spec: (bool(spec.devices), not spec.exclusive))
    return specs
