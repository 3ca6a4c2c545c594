"""Tenants' share quotas on a node: what is refused, what is divided, what is shown."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from gslice.core.access import Access, ShareQuota, Tenant
from gslice.core.config import AccessConfig, DeviceConfig
from gslice.core.errors import ResourceExhausted
from gslice.core.types import ShareBounds
from gslice.supervise.supervisor import Supervisor
from tests.unit.function_bench import SPEC, Running, add, make_supervisor, serves

SHOP = ShareQuota("shop", 60.0)
A = replace(SPEC, name="shop-a", device="one", share=ShareBounds())
B = replace(A, name="shop-b")
OTHER = replace(A, name="other")


@pytest.fixture
def supervisor(tmp_path: Path) -> Supervisor:
    made = make_supervisor(tmp_path, [])
    made.node.devices = {name: DeviceConfig(cpus=(0,)) for name in ("one", "two")}
    access = Access(tenants=(Tenant("shop", ("shop-*",), share_percent=SHOP.percent),))
    made.node.config = replace(made.node.config, access=AccessConfig(access))
    return made


def granted(supervisor: Supervisor) -> dict[str, float]:
    asyncio.run(supervisor.sharing.share_out())
    return {name: f.share_granted_percent for name, f in supervisor.functions.items()}


def test_a_tenant_gets_no_more_and_others_the_rest(supervisor: Supervisor) -> None:
    assert supervisor.sharing.taken() == {SHOP: 0.0}
    for spec in (A, B, OTHER):
        add(supervisor, spec)
    assert granted(supervisor) == pytest.approx({"shop-a": 30, "shop-b": 30, "other": 40})
    assert supervisor.sharing.taken() == {SHOP: pytest.approx(60)}


def test_each_replica_counts_and_what_does_not_fit_is_refused(supervisor: Supervisor) -> None:
    twice = replace(A, also_on=("two",), share=ShareBounds(25, 25))
    add(supervisor, twice)
    add(supervisor, replace(B, device="two"))
    assert granted(supervisor) == {"shop-a": 25, "shop-b": 10}
    newcomer = supervisor._new_function(replace(A, name="shop-c"))
    with pytest.raises(ResourceExhausted) as refused:
        supervisor.sharing.admit(newcomer, replace(newcomer.spec, share=ShareBounds(10, 10)))
    assert str(refused.value).startswith(
        "tenant shop: shop-a 2 x 25% + shop-b 1% + shop-c 10% = 61%,"
        " more than its share quota of 60%"
    )
    supervisor.sharing.admit(newcomer, replace(newcomer.spec, share=ShareBounds(9, 9)))


def test_a_resize_past_the_quota_is_refused(supervisor: Supervisor) -> None:
    for spec in (A, B):
        serves(add(supervisor, spec), Running(spec))
    granted(supervisor)

    async def resize() -> None:
        await supervisor.plan_resize("shop-a", ShareBounds(60, 60))

    with pytest.raises(ResourceExhausted, match=r"shop-a 60% \+ shop-b 1% = 61%"):
        asyncio.run(resize())


def test_what_has_its_device_to_itself_counts_with_all_of_it(supervisor: Supervisor) -> None:
    function = supervisor._new_function(replace(A, isolation="exclusive"))
    with pytest.raises(ResourceExhausted, match="shop-a 100% = 100%, more than its share quota"):
        supervisor.sharing.admit(function, function.spec)


def test_no_turns_past_the_quota(supervisor: Supervisor) -> None:
    async def follow(**shares: float) -> dict[str, float]:
        await supervisor.sharing.follow(shares, {"one"})
        return {name: f.share_granted_percent for name, f in supervisor.functions.items()}

    add(supervisor, A)
    add(supervisor, OTHER)
    decided = {"shop-a": 60.0, "other": 80.0}
    assert asyncio.run(follow(**decided)) == decided
    add(supervisor, B)
    over = asyncio.run(follow(**decided, **{"shop-b": 30.0}))
    assert over["shop-a"] + over["shop-b"] <= 60
    assert sum(over.values()) <= 100
