"""Whether the least that tenants' functions are to have fits their share quotas."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gslice.core.config.document import Problem
from gslice.core.figures import shares_sum

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gslice.core.access import Access
    from gslice.core.config.types import DeviceConfig
    from gslice.core.types import FunctionSpec


def quota_problems(
    access: Access, devices: Mapping[str, DeviceConfig], functions: Mapping[str, FunctionSpec]
) -> Iterator[Problem]:
    """Quotas that cannot be kept, or that no function counts for.

    A function that is loaded only when it is asked for counts alone: whether it fits beside others
    is seen then.

    Args:
        access: Who there is.
        devices: The node's, by name.
        functions: What is declared, by name.
    """
    for tenant in access.tenants:
        if not tenant.share_percent:
            continue
        path = ("node", "access", "tenants", tenant.name, "share")
        used = [spec for name, spec in functions.items() if tenant.may_use(name)]
        mine = [spec for spec in used if access.share_quota(spec.name)]
        if used and not mine:
            text = "no function counts for it: others may use all of this tenant's functions, too"
            yield Problem(path, text)
        resting = [[spec] for spec in mine if spec.residency == "cold"]
        for together in ([spec for spec in mine if spec.residency != "cold"], *resting):
            least = {spec.name: _least(spec, devices) for spec in together}
            if sum(percent * count for percent, count in least.values()) > tenant.share_percent:
                text = f"{shares_sum(least)} at the least; raise it, or lower their shares"
                yield Problem(path, text)


def _least(spec: FunctionSpec, devices: Mapping[str, DeviceConfig]) -> tuple[float, int]:
    """Its smallest share, and on how many devices it will have it."""
    percent = spec.share.min_percent
    if spec.exclusive and spec.device in devices:
        percent = devices[spec.device].share_limit_percent
    return percent, spec.replicas_min
