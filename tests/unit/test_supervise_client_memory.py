"""Clients' memory as the daemon keeps it: who is told, what ends when."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gslice.core.config import ClientMemoryConfig
from gslice.core.config.types import AccessConfig
from gslice.core.errors import (
    AlreadyExists,
    ChannelClosed,
    DeadlineExceeded,
    GsliceError,
    Internal,
    NotFound,
    ResourceExhausted,
    Unimplemented,
)
from gslice.ipc.messages import AddRegion, ClientRegion, Message, RemoveRegion
from gslice.ipc.process import start_ticks
from gslice.supervise import client_memory
from gslice.supervise.client_memory import ClientMemory
from gslice.supervise.frontend import Frontend
from gslice.supervise.frontends import Frontends
from tests.unit.client_memory_bench import CONFIG, PREFIX, SECRET, own

pytestmark = pytest.mark.usefixtures("no_descriptor_is_left")


def replace_file(key: str) -> None:
    Path("/dev/shm" + key).unlink()
    Path("/dev/shm" + key).write_bytes(bytes(4096))


# ---- who is told -----------------------------------------------------------------------------


class Child:
    """A front-end that remembers its regions, answers with an error, or hangs."""

    def __init__(self, name: str = "f-2") -> None:
        self.name = name
        self.hangs = False
        self.aborted = False
        self.regions: dict[str, ClientRegion] = {}  # by tenant, where it has one, and name
        self.error: GsliceError | None = None
        self.removed = asyncio.Event()

    async def request(
        self, order: Message, answer: type, *, fds: tuple[int, ...] = (), timeout_s: float
    ) -> None:
        if self.hangs:
            raise DeadlineExceeded(f"not answered within {timeout_s} s")
        if self.error is not None and isinstance(order, AddRegion):
            raise self.error
        self.send(order, fds)

    def send(self, order: Message, fds: tuple[int, ...] = ()) -> None:
        if isinstance(order, AddRegion):
            assert os.fstat(fds[0]).st_size >= order.region.size_bytes
            self.regions[shown(*order.region.id)] = order.region
        elif isinstance(order, RemoveRegion):
            self.regions.pop(shown(order.tenant, order.name), None)
            self.removed.set()

    def abort(self) -> None:
        self.aborted = True


def shown(tenant: str, name: str) -> str:
    return f"{tenant}/{name}" if tenant else name


def frontend(index: int, child: Any, client_memory: str = PREFIX) -> Frontend:
    return Frontend(index, child, -1, client_memory=client_memory)


Scenario = Callable[[ClientMemory, list[Any]], Awaitable[None]]


def play(
    scenario: Scenario,
    config: ClientMemoryConfig | None = CONFIG,
    tenants: Collection[str] = (),
) -> list[str]:
    """What was recorded meanwhile; `tenants`: those that there are."""
    events: list[str] = []

    async def run() -> None:
        node: Any = SimpleNamespace(
            config=SimpleNamespace(
                grpc="127.0.0.1:0",
                http="",
                frontends=2,
                client_memory=config,
                access=AccessConfig(),
            ),
            event=lambda subject, kind, text: events.append(f"{subject} {kind}: {text}"),
        )
        frontends = Frontends(node, *[lambda *_: None] * 3)
        known: Any = SimpleNamespace(knows=lambda tenant: tenant in {"", *tenants})
        frontends.access.now = known
        children: list[Any] = [Child("f-0"), Child("f-1")]
        frontends._frontends = {i: frontend(i, child) for i, child in enumerate(children)}
        await scenario(frontends.memory, children)
        for task in frontends._tasks:
            await task
        frontends.memory.close()

    asyncio.run(run())
    gc.collect()  # the board of quotas goes with the front-ends
    return events


def test_all_know_and_all_forget(shm_key: str) -> None:
    async def scenario(memory: ClientMemory, children: list[Child]) -> None:
        region = ClientRegion("r", shm_key, 0, 4096)
        await memory.register(region)
        await memory.register(region)
        assert [child.regions for child in children] == [{"r": region}] * 2
        late: Any = Child()
        await memory.introduce(frontend(2, late))
        assert late.regions == {"r": region}
        for other in (replace(region, size_bytes=1), replace(region, offset_bytes=1, size_bytes=1)):
            with pytest.raises(AlreadyExists):
                await memory.register(other)
        replace_file(shm_key)
        with pytest.raises(AlreadyExists):  # by that key there is another file
            await memory.register(region)
        await memory.unregister("nobody", "")
        await memory.unregister("r", "")
        assert [child.regions for child in children] == [{}] * 2

    play(scenario)


def test_one_that_cannot_take_it(shm_key: str) -> None:
    async def scenario(memory: ClientMemory, children: list[Child]) -> None:
        region = ClientRegion("r", shm_key, 0, 4096)
        children[1].error = Internal("no")
        with pytest.raises(Internal):
            await memory.register(region)
        assert children[0].regions == {}
        children[1].error = ChannelClosed("it died: the next one is told")
        await memory.register(region)
        assert children[0].regions == {"r": region}

    play(scenario)


def test_a_late_one_that_cannot_take_it(memfd: int, shm_key: str) -> None:
    """Requests of one client reach any of them, so what one lacks none may have."""

    async def scenario(memory: ClientMemory, children: list[Child]) -> None:
        for name in "rs":
            await memory.register(ClientRegion(name, shm_key, 0, 4096))
        late: Any = Child()
        late.error = ResourceExhausted("no descriptor")
        memory._frontends._frontends[2] = frontend(2, late)
        await memory.introduce(frontend(2, late))
        assert [child.regions for child in children] == [{}] * 2
        living = replace(own(memfd), pid=os.getpid(), started=start_ticks())
        await keep(memory, children[0], living, memfd)
        assert [child.regions for child in children] == [{}] * 2
        late.error = None
        await memory.register(ClientRegion("r", shm_key, 0, 4096))
        assert set(late.regions) == {"r"}

    events = play(scenario)
    assert len(events) == 3
    assert events[0] == "frontend adopt: a client's region is not kept: no descriptor"


def test_front_ends_that_were_started_without_it_are_left_out(memfd: int, shm_key: str) -> None:
    """They retire where an earlier daemon's settings had none."""

    async def scenario(memory: ClientMemory, children: list[Any]) -> None:
        without = children[1]
        without.error = Unimplemented("it was started without")
        memory._frontends.all()[1].client_memory = ""
        await memory.register(ClientRegion("r", shm_key, 0, 4096))
        living = replace(own(memfd), pid=os.getpid(), started=start_ticks())
        await keep(memory, children[0], living, memfd)
        await memory.introduce(frontend(2, without, client_memory=""))
        assert [set(child.regions) for child in children] == [{"r"}, set()]
        without.hangs = True
        await memory.unregister("r", "")
        assert not without.aborted

    assert play(scenario) == []


@pytest.mark.parametrize("when", ["added", "removed"])
def test_one_that_hangs_keeps_nothing(shm_key: str, when: str) -> None:
    async def scenario(memory: ClientMemory, children: list[Child]) -> None:
        children[1].hangs = when == "added"
        await memory.register(ClientRegion("r", shm_key, 0, 4096))
        assert children[1].aborted is (when == "added")  # the next one is told
        children[1].hangs = True
        await memory.unregister("r", "")
        assert children[1].aborted
        assert [children[0].regions, children[0].aborted] == [{}, False]

    events = play(scenario)
    assert events[-1].startswith(
        "frontend kill: front-end 1 is killed, for RemoveRegion: not answered"
    )


def test_how_much(shm_key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_memory, "REGIONS_MAX", 3)

    async def scenario(memory: ClientMemory, children: list[Child]) -> None:
        for name in "ab":
            await memory.register(ClientRegion(name, shm_key, 0, 2048))
        with pytest.raises(ResourceExhausted, match="of 1 bytes with 4096 of others"):
            await memory.register(ClientRegion("c", shm_key, 0, 1))
        await memory.unregister("", "")
        for name in "abc":
            await memory.register(ClientRegion(name, shm_key, 0, 1))
        with pytest.raises(ResourceExhausted, match="3 regions"):
            await memory.register(ClientRegion("d", shm_key, 0, 1))

    play(scenario, replace(CONFIG, max_bytes=4096))


def test_it_is_off(shm_key: str) -> None:
    async def scenario(memory: ClientMemory, children: list[Child]) -> None:
        with pytest.raises(Unimplemented, match=r"node\.client_memory"):
            await memory.register(ClientRegion("r", shm_key, 0, 1))

    play(scenario, None)


# ---- whose it is -----------------------------------------------------------------------------


def test_tenants_have_names_of_their_own(memfd: int, shm_key: str) -> None:
    async def scenario(memory: ClientMemory, children: list[Child]) -> None:
        ours, shops = ClientRegion("r", shm_key, 0, 4096), replace(own(memfd), tenant="shop")
        await memory.register(ours)
        await memory.register(shops)
        another = ClientRegion("r", shm_key, 0, 16, tenant="shop")
        with pytest.raises(NotFound) as refused:  # the file is not theirs, whoever told them of it
            await memory.register(another)
        with pytest.raises(NotFound) as missing:
            await memory.register(replace(another, key=shm_key + "x"))
        assert str(missing.value).replace(f"{shm_key}x", shm_key) == str(refused.value)
        await memory.unregister("r", "shop")
        await memory.unregister("", "shop")
        assert [set(child.regions) for child in children] == [{"r", f"shop/{SECRET}"}] * 2
        await memory.unregister("r", "")
        await memory.register(another)
        assert set(children[0].regions) == {"shop/r", f"shop/{SECRET}"}
        await memory.unregister("", "")
        await memory.unregister("", "shop")
        assert set(children[0].regions) == {f"shop/{SECRET}"}

    play(scenario, tenants={"shop"})


def test_it_ends_with_its_tenant(memfd: int) -> None:
    async def scenario(memory: ClientMemory, children: list[Child]) -> None:
        for tenant in ("shop", "bank"):  # as a front-end of an earlier daemon has them
            region = replace(own(memfd), pid=os.getpid(), started=start_ticks(), tenant=tenant)
            children[0].regions[f"{tenant}/{SECRET}"] = region
            await keep(memory, children[0], region, memfd)
        assert [set(child.regions) for child in children] == [{f"shop/{SECRET}"}] * 2

    (event,) = play(scenario, tenants={"shop"})
    assert event.endswith("there is no tenant 'bank' now")


# ---- what ends when --------------------------------------------------------------------------


def test_it_ends_with_its_client(memfd: int, shm_key: str) -> None:
    client = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[memfd]
    )

    async def scenario(memory: ClientMemory, children: list[Child]) -> None:
        await memory.register(replace(own(memfd), key=f"/proc/{client.pid}/fd/{memfd}"))
        await memory.register(ClientRegion("r", shm_key, 0, 1))
        await memory.unregister("", "")  # that of gslice's own clients stays
        assert set(children[0].regions) == {SECRET}
        for child in children:
            child.removed.clear()
        client.communicate()
        async with asyncio.timeout(20):
            await asyncio.gather(*(child.removed.wait() for child in children))
        assert [child.regions for child in children] == [{}] * 2

    play(scenario)


def test_what_front_ends_tell_the_next_daemon(memfd: int, shm_key: str) -> None:
    async def scenario(memory: ClientMemory, children: list[Child]) -> None:
        named = ClientRegion("r", shm_key, 0, 4096)
        living = replace(own(memfd), pid=os.getpid(), started=start_ticks())
        children[0].regions = {"r": named, SECRET: living}
        children[1].regions = {SECRET: living}  # it had not heard of the other one
        for child in children:
            for region in list(child.regions.values()):
                await keep(memory, child, region, shm_key if region is named else memfd)
        assert [set(child.regions) for child in children] == [{"r", SECRET}] * 2
        with pytest.raises(AlreadyExists):
            await memory.register(replace(named, size_bytes=1))
        await memory.unregister(SECRET, "")
        await memory.unregister("", "")
        assert [child.regions for child in children] == [{}] * 2

    play(scenario)


def test_a_region_of_a_client_that_ended_meanwhile(memfd: int) -> None:
    async def scenario(memory: ClientMemory, children: list[Child]) -> None:
        dead = replace(own(memfd), pid=os.getpid(), started=1)
        children[0].regions = {SECRET: dead}
        await keep(memory, children[0], dead, memfd)
        assert [child.regions for child in children] == [{}] * 2

    (event,) = play(scenario)
    assert event.endswith(f"process {os.getpid()} is not the client any more")


def test_who_reads_events_learns_no_private_name(memfd: int) -> None:
    async def scenario(memory: ClientMemory, children: list[Child]) -> None:
        large = replace(own(memfd), pid=os.getpid(), started=start_ticks(), size_bytes=4097)
        await keep(memory, children[0], large, memfd)

    (event,) = play(scenario)
    assert SECRET[:18] in event
    assert SECRET[:19] not in event


def test_a_region_for_which_there_is_no_descriptor(
    shm_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dup(_fd: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async def scenario(memory: ClientMemory, children: list[Child]) -> None:
        region = ClientRegion("r", shm_key, 0, 4096)
        children[0].regions = {"r": region}
        fd = os.open("/dev/shm" + shm_key, os.O_RDWR)
        with monkeypatch.context() as short:
            short.setattr(client_memory.os, "dup", dup)
            memory.keep(children[0], region, fd)
            with pytest.raises(ResourceExhausted):
                await memory.register(region)
        for task in memory._tasks:
            await task
        assert children[0].regions == {}
        await memory.register(region)

    (event,) = play(scenario)
    assert event.endswith(f"region 'r': {PREFIX + 'a'!r}: Too many open files")


@pytest.mark.parametrize(
    "config",
    [
        None,
        replace(CONFIG, prefix="/other-"),
        replace(CONFIG, owner_uid=54321),
        replace(CONFIG, max_bytes=4095),
    ],
)
def test_settings_that_a_region_is_against_by_now(
    shm_key: str, config: ClientMemoryConfig | None
) -> None:
    async def scenario(memory: ClientMemory, children: list[Child]) -> None:
        region = ClientRegion("r", shm_key, 0, 4096)
        for child in children:
            child.regions = {"r": region}
            await keep(memory, child, region, shm_key)
        assert [child.regions for child in children] == [{}] * 2

    (event,) = play(scenario, config)  # though both told of it
    assert event.startswith("frontend adopt: a client's region is not kept: ")


def test_more_than_there_may_be_by_now(
    memfd: int, shm_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_memory, "REGIONS_MAX", 2)

    async def scenario(memory: ClientMemory, children: list[Child]) -> None:
        regions = {name: ClientRegion(name, shm_key, 0, 64) for name in "abc"}
        children[0].regions = dict(regions)
        for region in regions.values():
            await keep(memory, children[0], region, shm_key)
        assert [set(child.regions) for child in children] == [{"a", "b"}] * 2

    play(scenario)


def test_what_may_not_be_kept_is_not_left_with_one_that_hangs(shm_key: str) -> None:
    async def scenario(memory: ClientMemory, children: list[Child]) -> None:
        children[0].hangs = True
        await keep(memory, children[0], ClientRegion("r", shm_key, 0, 4096), shm_key)
        assert children[0].aborted

    play(scenario, replace(CONFIG, prefix="/other-"))


async def keep(memory: ClientMemory, child: Any, region: ClientRegion, file: str | int) -> None:
    """A front-end tells of a region, with its file: a key, or a descriptor."""
    fd = os.dup(file) if isinstance(file, int) else os.open("/dev/shm" + file, os.O_RDWR)
    memory.keep(child, region, fd)
    for task in memory._tasks:
        await task
