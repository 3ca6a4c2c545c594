"""Clients' shared memory on a whole node: who may register what, and how long it lasts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import InferenceServerException

import gslice
import gslice.aio
from gslice.core.errors import NotFound
from tests.node import Node, kill_and_wait
from tests.process.conftest import StartNode

PREFIX = f"/gslice-test-{os.getpid()}-"
X = np.arange(20_000, dtype=np.int64).reshape(1, -1)  # large enough not to travel
Y = np.arange(64, dtype=np.int64).reshape(1, -1)
ONCE = """
import sys, numpy, gslice
client = gslice.Client(sys.argv[1], timeout_s=20, shared_memory=True)
client.infer("large", {"x": numpy.zeros((1, 20000), numpy.int64)})
assert client.shared_memory_in_use
print("ready", flush=True)
sys.stdin.read()
"""


def fails(status: str, words: str = "") -> Any:
    return pytest.raises(InferenceServerException, match=rf"(?s)StatusCode\.{status}.*{words}")


def echo(elements: int) -> dict[str, Any]:
    """An identity function of rows of so many numbers."""
    tensors = [{"name": name, "dtype": "INT64", "dims": [-1, elements]} for name in ("x", "y")]
    return {"identity": {"inputs": tensors[:1], "outputs": tensors[1:]}, "queue": {"max": 16}}


FUNCTIONS = {"large": echo(20_000), "small": echo(64)}


def memory(**settings: Any) -> dict[str, Any]:
    return {"client_memory": {"prefix": PREFIX, **settings}}


def files_of_clients(node: Node) -> int:
    """How many descriptors and mappings of clients' memory all front-ends have."""
    found = 0
    for pid in node.frontend_pids():
        process = Path(f"/proc/{pid}")
        found += (process / "maps").read_text().count("gslice-client")
        for link in (process / "fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                target = str(link.readlink())
                found += "gslice-client" in target or PREFIX in target
    return found


@contextlib.contextmanager
def region(key: str, size_bytes: int = 1 << 20) -> Iterator[Any]:
    handle = shm.create_shared_memory_region(key, key, size_bytes)
    try:
        yield handle
    finally:
        shm.destroy_shared_memory_region(handle)


@contextlib.contextmanager
def another_client(node: Node) -> Iterator[subprocess.Popen[bytes]]:
    """A process with memory that the server has taken; killed at the end."""
    command = [sys.executable, "-c", ONCE, node.grpc_address]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield process
        finally:
            process.kill()


def through(client: triton.InferenceServerClient, handle: Any, name: str) -> None:
    """One request through a region, both ways."""
    shm.set_shared_memory_region(handle, [Y])
    given = triton.InferInput("x", [1, 64], "INT64")
    given.set_shared_memory(name, Y.nbytes)
    wanted = triton.InferRequestedOutput("y")
    wanted.set_shared_memory(name, Y.nbytes, offset=2048)
    client.infer("small", [given], outputs=[wanted])
    written = shm.get_contents_as_numpy(handle, np.int64, [1, 64], offset=2048)
    np.testing.assert_array_equal(written, Y)


def test_all_front_ends_know_and_forget(start_node: StartNode) -> None:
    node = start_node(FUNCTIONS, node={**memory(), "frontends": 3})
    clients = [triton.InferenceServerClient(node.grpc_address) for _ in range(12)]
    key = PREFIX + "a"
    with region(key) as handle:
        clients[0].register_system_shared_memory("mine", key, 1 << 20)
        clients[0].register_system_shared_memory("mine", key, 1 << 20)  # the same once more
        for client in clients:
            through(client, handle, "mine")
        for pid in node.frontend_pids()[:2]:  # those that are started later know it, too
            kill_and_wait(pid)
        node.wait_status(lambda s: [f.state for f in s.frontends] == ["SERVING"] * 3)
        clients += [triton.InferenceServerClient(node.grpc_address) for _ in range(12)]
        for client in clients[12:]:
            through(client, handle, "mine")
        clients[-1].unregister_system_shared_memory()
        for client in clients[12:]:
            with fails("NOT_FOUND"):
                through(client, handle, "mine")
    for client in clients:
        client.close()
    assert files_of_clients(node) == 0


def test_who_may_register_what(start_node: StartNode) -> None:
    node = start_node(FUNCTIONS, node=memory(max="2MiB"))
    with (
        triton.InferenceServerClient(node.grpc_address) as client,
        region(PREFIX + "a") as handle,
        region(PREFIX + "b"),
    ):
        register = client.register_system_shared_memory
        with fails("PERMISSION_DENIED", "does not begin"):
            register("r", "/others", 64)
        with fails("INVALID_ARGUMENT", "no shared memory"):
            register("r", PREFIX + "/../../etc/passwd", 64)
        with fails("NOT_FOUND"):
            register("r", PREFIX + "nothing", 64)
        with fails("INVALID_ARGUMENT", "not in"):
            register("r", PREFIX + "a", 1 << 21)
        with fails("INVALID_ARGUMENT", "not in"):
            register("r", PREFIX + "a", 0)
        link, fifo = (Path("/dev/shm" + PREFIX + name) for name in ("link", "fifo"))
        link.symlink_to("/etc/hostname")
        os.mkfifo(fifo)
        try:
            with fails("INVALID_ARGUMENT"):
                register("r", PREFIX + "link", 1)
            with fails("INVALID_ARGUMENT", "regular"):
                register("r", PREFIX + "fifo", 1)
        finally:
            link.unlink()
            fifo.unlink()
        register("r", PREFIX + "a", 1 << 20)
        through(client, handle, "r")
        with fails("ALREADY_EXISTS"):
            register("r", PREFIX + "b", 1 << 20)
        register("s", PREFIX + "b", 1 << 20)
        with fails("RESOURCE_EXHAUSTED", "client_memory.max"):
            register("t", PREFIX + "b", 1)
        # A descriptor of anybody else's: the function's segment, by its name and number.
        for pid in node.frontend_pids():
            for key in map(str, Path(f"/proc/{pid}/fd").iterdir()):
                for name in ("gslice:small", "r2"):
                    with fails("(PERMISSION_DENIED|NOT_FOUND)"):
                        register(name, key, 64)
        client.unregister_system_shared_memory("s")
        assert set(client.get_system_shared_memory_status().regions) == {"r"}
        client.unregister_system_shared_memory()
    assert files_of_clients(node) == 0


def test_the_client_uses_it_by_itself(start_node: StartNode) -> None:
    node = start_node(FUNCTIONS, node=memory())
    with gslice.Client(node.grpc_address, timeout_s=20, shared_memory=True) as client:
        assert not client.shared_memory_in_use
        np.testing.assert_array_equal(client.infer("small", {"x": Y})["y"], Y)
        assert not client.shared_memory_in_use
        results = [client.infer("large", {"x": X + i})["y"] for i in range(50)]
        assert client.shared_memory_in_use
        for i, result in enumerate(results):  # what is held is not written over
            np.testing.assert_array_equal(result, X + i)
            assert not result.flags.writeable
        with triton.InferenceServerClient(node.grpc_address) as other:
            other.unregister_system_shared_memory()  # of all, but not of this one
            assert not other.get_system_shared_memory_status().regions
        assert files_of_clients(node) > 0
        np.testing.assert_array_equal(client.infer("large", {"x": X})["y"], X)
    np.testing.assert_array_equal(results[3], X + 3)
    assert files_of_clients(node) == 0


def test_the_asyncio_client_uses_it_by_itself(start_node: StartNode) -> None:
    node = start_node(FUNCTIONS, node=memory())

    async def scenario() -> None:
        url = node.grpc_address
        async with gslice.aio.Client(url, timeout_s=20, shared_memory=True) as client:
            answers = await asyncio.gather(
                *(client.infer("large", {"x": X + i}) for i in range(12))
            )
            assert client.shared_memory_in_use
            for i, answer in enumerate(answers):
                np.testing.assert_array_equal(answer["y"], X + i)

    asyncio.run(scenario())
    assert files_of_clients(node) == 0


def test_what_is_off_travels(start_node: StartNode) -> None:
    node = start_node(FUNCTIONS)
    with gslice.Client(node.grpc_address, timeout_s=20, shared_memory=True) as client:
        np.testing.assert_array_equal(client.infer("large", {"x": X})["y"], X)
        assert not client.shared_memory_in_use
    with triton.InferenceServerClient(node.grpc_address) as other:
        with fails("UNIMPLEMENTED", "node.client_memory"):
            other.register_system_shared_memory("r", PREFIX + "a", 64)
        assert "system_shared_memory" not in other.get_server_metadata().extensions


def test_memory_ends_with_its_client(start_node: StartNode) -> None:
    node = start_node(FUNCTIONS, node=memory())
    with another_client(node) as client:
        assert files_of_clients(node) > 0
        client.kill()
    node.wait_status(lambda _: files_of_clients(node) == 0)


def test_the_next_daemon_goes_on_with_it(start_node: StartNode) -> None:
    node = start_node(FUNCTIONS, node=memory(max="9MiB"))
    key = PREFIX + "a"
    with (
        another_client(node) as dead,
        gslice.Client(node.grpc_address, timeout_s=20, shared_memory=True) as client,
        triton.InferenceServerClient(node.grpc_address) as other,
        region(key) as handle,
    ):
        client.infer("large", {"x": X})
        other.register_system_shared_memory("mine", key, 1 << 12)
        with fails("RESOURCE_EXHAUSTED"):
            other.register_system_shared_memory("more", key, 1 << 20)
        node.kill_daemon()
        dead.kill()
        dead.wait()
        client.infer("large", {"x": X})
        node.start()
        other.register_system_shared_memory("more", key, 1 << 20)  # the dead client's has ended
        with fails("ALREADY_EXISTS"):
            other.register_system_shared_memory("mine", key, 1 << 13)
        kill_and_wait(node.frontend_pids()[0])
        node.wait_status(lambda s: [f.state for f in s.frontends] == ["SERVING"])
        client.infer("large", {"x": X})
        assert client.shared_memory_in_use
        with triton.InferenceServerClient(node.grpc_address) as another:
            through(another, handle, "more")
            another.unregister_system_shared_memory()
    assert files_of_clients(node) == 0


def test_the_next_daemon_goes_by_its_own_settings(start_node: StartNode) -> None:
    node = start_node(FUNCTIONS, node={**memory(max="2MiB"), "frontends": 2})
    key = PREFIX + "a"
    with triton.InferenceServerClient(node.grpc_address) as client, region(key) as handle:
        client.register_system_shared_memory("large", key, 1 << 20)
        through(client, handle, "large")
        node.kill_daemon()
        settings = node.config_path.read_text()
        assert "2MiB" in settings
        node.config_path.write_text(settings.replace("2MiB", "64KiB"))
        node.start()
        node.wait_status(lambda _: files_of_clients(node) == 0)
        with fails("NOT_FOUND"):
            through(client, handle, "large")
        client.register_system_shared_memory("small", key, 1 << 12)
        through(client, handle, "small")


def test_it_is_turned_on_while_a_front_end_without_it_retires(start_node: StartNode) -> None:
    node = start_node(FUNCTIONS, node={"connection_age": "30s"})
    go_on = threading.Event()

    def requests() -> Iterator[dict[str, Any]]:
        yield {"x": Y}
        assert go_on.wait(60)
        yield {"x": Y}

    with gslice.Client(node.grpc_address, timeout_s=60) as client:
        answers = client.infer_stream("small", requests())
        next(answers)
        node.kill_daemon()
        settings = node.config_path.read_text()
        line = f"  client_memory: {{prefix: {PREFIX}}}\n"
        node.config_path.write_text(settings.replace("node:\n", "node:\n" + line))
        node.start()
        both = {"RETIRING", "SERVING"}
        node.wait_status(lambda s: {f.state for f in s.frontends} == both)
        with another_client(node):
            assert {f.state for f in node.status().frontends} == both
        go_on.set()
        assert [answer["y"].tolist() for answer in answers] == [Y.tolist()]


def test_another_server_at_the_same_address(start_node: StartNode) -> None:
    node = start_node(FUNCTIONS, node=memory())
    with gslice.Client(node.grpc_address, timeout_s=20, shared_memory=True) as client:
        client.infer("large", {"x": X})
        with triton.InferenceServerClient(node.grpc_address) as other:
            (slab,) = client._shared.slabs._slabs
            other.unregister_system_shared_memory(slab.name)  # who knows the name may
        np.testing.assert_array_equal(client.infer("large", {"x": X})["y"], X)
        np.testing.assert_array_equal(client.infer("large", {"x": X})["y"], X)
        assert client.shared_memory_in_use
        assert client._shared.slabs._slabs[0] is not slab
        with pytest.raises(NotFound):
            client.infer("nobody", {"x": X})
