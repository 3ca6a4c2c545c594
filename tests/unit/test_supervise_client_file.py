"""Which files the daemon opens for clients."""

from __future__ import annotations

import errno
import fcntl
import os
from dataclasses import replace
from pathlib import Path

import pytest

from gslice.core.config import ClientMemoryConfig
from gslice.core.errors import (
    GsliceError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
)
from gslice.ipc.messages import ClientRegion
from gslice.ipc.process import start_ticks
from gslice.supervise import client_file
from gslice.supervise.client_file import (
    NAME_BYTES_MAX,
    check_region,
    open_region,
    refusing,
    without_secrets,
)
from tests.unit.client_memory_bench import CONFIG, SECRET, own

pytestmark = pytest.mark.usefixtures("no_descriptor_is_left")


def refused(
    error: type[GsliceError], region: ClientRegion, config: ClientMemoryConfig = CONFIG
) -> str:
    with pytest.raises(error) as caught:
        open_region(region, config)
    assert "\n" not in str(caught.value)
    return caught.value.message


@pytest.mark.parametrize("slashes", ["/", "", "//"])
def test_a_key_in_shared_memory(shm_key: str, slashes: str) -> None:
    asked = ClientRegion("r", slashes + shm_key.lstrip("/"), 96, 4000)
    region, fd = open_region(asked, CONFIG)
    assert region == asked
    assert Path(f"/dev/shm{shm_key}").samefile(f"/proc/self/fd/{fd}")
    os.close(fd)


def test_keys_that_are_none(shm_key: str) -> None:
    region = ClientRegion("r", shm_key, 0, 4096)
    refused(PermissionDenied, replace(region, key="/other"))
    refused(PermissionDenied, replace(region, key=""))
    for wrong in ("/../../etc/passwd", "/x", "\0", "x" * 300):
        refused(InvalidArgument, replace(region, key=shm_key + wrong))
    refused(NotFound, replace(region, key=shm_key + "b"))
    refused(InvalidArgument, replace(region, size_bytes=4097))
    refused(InvalidArgument, replace(region, offset_bytes=1))
    refused(InvalidArgument, replace(region, size_bytes=0))
    refused(InvalidArgument, replace(region, offset_bytes=2**64 - 1, size_bytes=2))
    refused(InvalidArgument, replace(region, name=""))
    refused(InvalidArgument, replace(region, name="x" * (NAME_BYTES_MAX + 1)))
    told = refused(PermissionDenied, region, replace(CONFIG, owner_uid=54321))
    assert f"user {os.geteuid()}, not of 54321" in told


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_what_is_no_file(shm_key: str, kind: str) -> None:
    path = Path("/dev/shm" + shm_key)
    path.unlink()
    if kind == "link":
        path.symlink_to("/etc/hostname")
    elif kind == "fifo":
        os.mkfifo(path)  # nobody writes: an open that waits would wait for ever
    else:
        path.mkdir()
    refused(InvalidArgument, ClientRegion("r", shm_key, 0, 1))
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


def test_a_node_without_shared_memory(
    shm_key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_file, "_SHM_DIR", f"{tmp_path}/none/")
    region = ClientRegion("r", shm_key, 0, 4096)
    assert "No such file" in refused(NotFound, region)
    with Path(f"/dev/shm{shm_key}").open() as file, pytest.raises(NotFound, match="No such file"):
        check_region(region, file.fileno(), CONFIG)


def test_a_daemon_that_is_short_of_descriptors() -> None:
    with (
        pytest.raises(ResourceExhausted, match="'r': '/a': Too many"),  # it may be asked again
        refusing(ClientRegion("r", "/a", 0, 1)),
    ):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def test_nobody_reads_a_private_name() -> None:
    told = without_secrets(f"region {SECRET!r} and region 'gslice-client:mine'")
    assert told == "region 'gslice-client:abab...' and region 'gslice-client:mine'"
