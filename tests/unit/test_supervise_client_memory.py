"""Clients' memory as the daemon keeps it: which files it opens, who is told, what ends when."""

from __future__ import annotations

import asyncio
import fcntl
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gslice.core.config import ClientMemoryConfig
from gslice.core.errors import (
    AlreadyExists,
    ChannelClosed,
    GsliceError,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unimplemented,
)
from gslice.ipc.messages import AddRegion, ClientRegion, Message, RemoveRegion
from gslice.ipc.process import start_ticks
from gslice.supervise import client_memory
from gslice.supervise.client_file import NAME_BYTES_MAX, open_region
from gslice.supervise.client_memory import ClientMemory
from gslice.supervise.tasks import Tasks

PREFIX = f"/gslice-test-{os.getpid()}-"
CONFIG = ClientMemoryConfig(PREFIX, 1 << 20, os.geteuid())
SECRET = "gslice-client:" + "ab" * 16


def open_fds() -> int:
    return sum(os.path.lexists(link) for link in Path("/proc/self/fd").iterdir())


@pytest.fixture(autouse=True)
def _no_descriptor_is_left() -> Iterator[None]:
    before = open_fds()
    yield
    assert open_fds() == before


@pytest.fixture
def key() -> Iterator[str]:
    """The key of 4096 bytes in /dev/shm."""
    path = Path("/dev/shm" + PREFIX + "a")
    path.write_bytes(bytes(4096))
    yield PREFIX + "a"
    path.unlink(missing_ok=True)


@pytest.fixture
def memfd() -> Iterator[int]:
    """A client's own memory, sealed."""
    fd = os.memfd_create(SECRET, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 4096)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    yield fd
    os.close(fd)


def replace_file(key: str) -> None:
    Path("/dev/shm" + key).unlink()
    Path("/dev/shm" + key).write_bytes(bytes(4096))


def own(fd: int, name: str = SECRET) -> ClientRegion:
    return ClientRegion(name, f"/proc/{os.getpid()}/fd/{fd}", 0, 4096)


def refused(
    error: type[GsliceError], region: ClientRegion, config: ClientMemoryConfig = CONFIG
) -> str:
    with pytest.raises(error) as caught:
        open_region(region, config)
    assert "\n" not in str(caught.value)
    return caught.value.message


# ---- which files are opened ------------------------------------------------------------------


@pytest.mark.parametrize("slashes", ["/", "", "//"])
def test_a_key_in_shared_memory(key: str, slashes: str) -> None:
    asked = ClientRegion("r", slashes + key.lstrip("/"), 96, 4000)
    region, fd = open_region(asked, CONFIG)
    assert region == asked
    assert Path(f"/dev/shm{key}").samefile(f"/proc/self/fd/{fd}")
    os.close(fd)


def test_keys_that_are_none(key: str) -> None:
    region = ClientRegion("r", key, 0, 4096)
    refused(PermissionDenied, replace(region, key="/other"))
    refused(PermissionDenied, replace(region, key=""))
    for wrong in ("/../../etc/passwd", "/x", "\0", "x" * 300):
        refused(InvalidArgument, replace(region, key=key + wrong))
    refused(NotFound, replace(region, key=key + "b"))
    refused(InvalidArgument, replace(region, size_bytes=4097))
    refused(InvalidArgument, replace(region, offset_bytes=1))
    refused(InvalidArgument, replace(region, size_bytes=0))
    refused(InvalidArgument, replace(region, offset_bytes=2**64 - 1, size_bytes=2))
    refused(InvalidArgument, replace(region, name=""))
    refused(InvalidArgument, replace(region, name="x" * (NAME_BYTES_MAX + 1)))
    told = refused(PermissionDenied, region, replace(CONFIG, owner_uid=54321))
    assert f"user {os.geteuid()}, not of 54321" in told


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_what_is_no_file(key: str, kind: str) -> None:
    path = Path("/dev/shm" + key)
    path.unlink()
    if kind == "link":
        path.symlink_to("/etc/hostname")
    elif kind == "fifo":
        os.mkfifo(path)  # nobody writes: an open that waits would wait for ever
    else:
        path.mkdir()
    refused(InvalidArgument, ClientRegion("r", key, 0, 1))
    if kind == "directory":
        path.rmdir()


def test_a_clients_own_memory(memfd: int) -> None:
    region, fd = open_region(own(memfd), CONFIG)
    assert (region.pid, region.started) == (os.getpid(), start_ticks())
    assert os.path.sameopenfile(fd, memfd)
    os.close(fd)


def test_memory_that_is_not_the_clients_own(memfd: int) -> None:
    refused(PermissionDenied, own(memfd, SECRET.replace("a", "c")))  # it does not know the name
    refused(PermissionDenied, own(0, SECRET))
    refused(NotFound, own(10**6))
    refused(NotFound, replace(own(memfd), key="/proc/4194304/fd/0"))
    segment = os.memfd_create("gslice:echo", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(segment, 4096)
    fcntl.fcntl(segment, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    refused(
        PermissionDenied, own(segment, "gslice:echo")
    )  # sealed, ours, and its name is no secret
    os.close(segment)
    loose = os.memfd_create(SECRET, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(loose, 4096)
    assert "not sealed" in refused(InvalidArgument, own(loose))
    os.close(loose)


# ---- who is told -----------------------------------------------------------------------------


class Child:
    """A front-end that remembers its regions, or answers with an error."""

    def __init__(self) -> None:
        self.regions: dict[str, ClientRegion] = {}
        self.error: GsliceError | None = None
        self.removed = asyncio.Event()

    async def request(
        self, order: Message, answer: type, *, fds: tuple[int, ...] = (), timeout_s: float
    ) -> None:
        if self.error is not None and isinstance(order, AddRegion):
            raise self.error
        self.send(order, fds)

    def send(self, order: Message, fds: tuple[int, ...] = ()) -> None:
        if isinstance(order, AddRegion):
            assert os.fstat(fds[0]).st_size >= order.region.size_bytes
            self.regions[order.region.name] = order.region
        elif isinstance(order, RemoveRegion):
            self.regions.pop(order.name, None)
            self.removed.set()


Scenario = Callable[[ClientMemory, list[Any]], Awaitable[None]]


def play(scenario: Scenario, config: ClientMemoryConfig | None = CONFIG) -> None:
    async def run() -> None:
        children = [Child(), Child()]
        tasks = Tasks("test", lambda *event: pytest.fail(str(event)))
        memory = ClientMemory(config, lambda: children, tasks)  # type: ignore[arg-type,return-value]
        await scenario(memory, children)
        for task in tasks:
            await task
        memory.close()

    asyncio.run(run())


def test_all_know_and_all_forget(key: str) -> None:
    async def scenario(memory: ClientMemory, children: list[Child]) -> None:
        region = ClientRegion("r", key, 0, 4096)
        await memory.register(region)
        await memory.register(region)
        assert [child.regions for child in children] == [{"r": region}] * 2
        late: Any = Child()
        memory.introduce(late)
        assert late.regions == {"r": region}
        for other in (replace(region, size_bytes=1), replace(region, offset_bytes=1, size_bytes=1)):
            with pytest.raises(AlreadyExists):
                await memory.register(other)
        replace_file(key)
        with pytest.raises(AlreadyExists):  # by that key there is another file
            await memory.register(region)
        await memory.unregister("nobody")
        await memory.unregister("r")
        assert [child.regions for child in children] == [{}] * 2

    play(scenario)


def test_one_that_cannot_take_it(key: str) -> None:
    async def scenario(memory: ClientMemory, children: list[Child]) -> None:
        region = ClientRegion("r", key, 0, 4096)
        children[1].error = Internal("no")
        with pytest.raises(Internal):
            await memory.register(region)
        assert children[0].regions == {}
        children[1].error = ChannelClosed("it died: the next one is told")
        await memory.register(region)
        assert children[0].regions == {"r": region}

    play(scenario)


def test_how_much(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_memory, "REGIONS_MAX", 3)

    async def scenario(memory: ClientMemory, children: list[Child]) -> None:
        for name in "ab":
            await memory.register(ClientRegion(name, key, 0, 2048))
        with pytest.raises(ResourceExhausted, match="of 1 bytes with 4096 of others"):
            await memory.register(ClientRegion("c", key, 0, 1))
        await memory.unregister("")
        for name in "abc":
            await memory.register(ClientRegion(name, key, 0, 1))
        with pytest.raises(ResourceExhausted, match="3 regions"):
            await memory.register(ClientRegion("d", key, 0, 1))

    play(scenario, replace(CONFIG, max_bytes=4096))


def test_it_is_off(key: str) -> None:
    async def scenario(memory: ClientMemory, children: list[Child]) -> None:
        with pytest.raises(Unimplemented, match=r"node\.client_memory"):
            await memory.register(ClientRegion("r", key, 0, 1))

    play(scenario, None)


# ---- what ends when --------------------------------------------------------------------------


def test_it_ends_with_its_client(memfd: int, key: str) -> None:
    client = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[memfd]
    )

    async def scenario(memory: ClientMemory, children: list[Child]) -> None:
        await memory.register(replace(own(memfd), key=f"/proc/{client.pid}/fd/{memfd}"))
        await memory.register(ClientRegion("r", key, 0, 1))
        await memory.unregister("")  # that of gslice's own clients stays
        assert set(children[0].regions) == {SECRET}
        for child in children:
            child.removed.clear()
        client.communicate()
        async with asyncio.timeout(20):
            await asyncio.gather(*(child.removed.wait() for child in children))
        assert [child.regions for child in children] == [{}] * 2

    play(scenario)


def test_what_front_ends_tell_the_next_daemon(memfd: int, key: str) -> None:
    async def scenario(memory: ClientMemory, children: list[Child]) -> None:
        named = ClientRegion("r", key, 0, 4096)
        living = replace(own(memfd), pid=os.getpid(), started=start_ticks())
        dead = replace(living, name="gslice-client:" + "0" * 32, started=1)
        for child in children:
            child.regions = {region.name: region for region in (living, dead)}
        children[0].regions["r"] = named  # the other one had not heard of it
        for child in children:
            for region in list(child.regions.values()):
                memory.keep(child, region, os.dup(memfd))  # type: ignore[arg-type]
        assert [set(child.regions) for child in children] == [{"r", SECRET}] * 2
        with pytest.raises(AlreadyExists):
            await memory.register(replace(named, size_bytes=1))
        await memory.unregister(SECRET)
        await memory.unregister("")
        assert [child.regions for child in children] == [{}] * 2

    play(scenario)
