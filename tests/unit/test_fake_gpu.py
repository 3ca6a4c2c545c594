"""The stand-in for libcuda: what tests of the product over it rely on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes.client import Client
from tests.fakes.gpu import GIB, FakeGpu, make_gpus, make_instances, wait_until

INVALID_VALUE, OUT_OF_MEMORY, NO_DEVICE, NOT_READY = 1, 2, 100, 600
ILLEGAL_ADDRESS, LAUNCH_FAILED, CAPTURE_UNSUPPORTED, INVALIDATED = 700, 719, 900, 901
NON_BLOCKING, THREAD_LOCAL, GLOBAL = 1, 1, 0


@pytest.fixture
def client(fake_gpu: FakeGpu) -> Iterator[Client]:
    with Client(fake_gpu.environment) as client:
        assert client.start() == 0
        yield client


def make_stream(client: Client, flags: int = NON_BLOCKING) -> int:
    return client.made("cuStreamCreate", flags)


def make_event(client: Client) -> int:
    return client.made("cuEventCreate", 0)


def pinned(client: Client, values: list[float]) -> int:
    host = client.made("cuMemHostAlloc", 4 * len(values), 1)
    client.write(host, values)
    return host


def device(client: Client, size_bytes: int = 64) -> int:
    return client.made("cuMemAlloc_v2", size_bytes)


def test_stream_runs_in_order_and_event_tells_when(fake_gpu: FakeGpu, client: Client) -> None:
    stream, event = make_stream(client), make_event(client)
    host, there = pinned(client, [1.0, 2.0]), device(client)
    with fake_gpu.hold("kernel") as held:
        assert client.call("cuMemcpyHtoDAsync_v2", there, host, 8, stream) == 0
        assert client.scale(there, there, 3.0, 2, stream) == 0
        assert client.call("cuMemcpyDtoHAsync_v2", host, there, 8, stream) == 0
        assert client.call("cuEventRecord", event, stream) == 0
        held.wait_reached()
        assert client.call("cuEventQuery", event) == NOT_READY
        assert client.call("cuStreamQuery", stream) == NOT_READY
        assert client.read(host, 2) == [1.0, 2.0]
    assert client.call("cuEventSynchronize", event) == 0
    assert client.read(host, 2) == [3.0, 6.0]
    counters = fake_gpu.counters(client.pid)
    assert counters["synchronise"] == 1
    assert (counters["copies.h2d"], counters["copies.d2h"], counters["bytes.d2h"]) == (1, 1, 8)
    assert "legacy_stream" not in counters


def test_stream_waits_for_event_of_another(fake_gpu: FakeGpu, client: Client) -> None:
    first, second = make_stream(client), make_stream(client)
    event, last = make_event(client), make_event(client)
    with fake_gpu.hold("kernel") as held:
        client.spin(0, first)
        client.call("cuEventRecord", event, first)
        client.call("cuStreamWaitEvent", second, event, 0)
        client.call("cuEventRecord", last, second)
        held.wait_reached()
        assert client.call("cuEventQuery", last) == NOT_READY
    assert client.call("cuEventSynchronize", last) == 0


def test_events_time_what_is_between_them(client: Client) -> None:
    stream, start, end = make_stream(client), make_event(client), make_event(client)
    client.call("cuEventRecord", start, stream)
    client.spin(20_000, stream)
    client.call("cuEventRecord", end, stream)
    client.call("cuStreamSynchronize", stream)
    assert client.elapsed_ms(start, end) >= 20


def test_legacy_stream_waits_for_blocking_streams_alone(fake_gpu: FakeGpu, client: Client) -> None:
    free, blocking = make_stream(client), make_stream(client, 0)
    host, there = client.pageable(8), device(client)
    with fake_gpu.hold("kernel") as held:
        client.spin(0, free)
        held.wait_reached(1)
        assert client.call("cuMemcpyDtoH_v2", host, there, 8) == 0
        client.spin(0, blocking)
        held.wait_reached(2)
        client.begin("call", "cuMemcpyDtoH_v2", host, there, 8)
        wait_until(lambda: fake_gpu.total("legacy_stream") == 2, "the second copy")
    assert client.end() == 0
    assert fake_gpu.counters(client.pid)["synchronise"] == 2


def test_graph_replays_what_was_captured(fake_gpu: FakeGpu, client: Client) -> None:
    stream, host, there = make_stream(client), pinned(client, [1.0]), device(client)
    client.call("cuMemcpyHtoDAsync_v2", there, host, 4, stream)
    assert client.call("cuStreamBeginCapture_v2", stream, THREAD_LOCAL) == 0
    assert client.scale(there, there, 2.0, 1, stream) == 0
    graph = client.ended_capture(stream)
    executable = client.made("cuGraphInstantiateWithFlags", graph, 0)
    assert client.call("cuGraphDestroy", graph) == 0
    for _ in range(3):
        assert client.call("cuGraphLaunch", executable, stream) == 0
    client.call("cuMemcpyDtoHAsync_v2", host, there, 4, stream)
    client.call("cuStreamSynchronize", stream)
    assert client.read(host, 1) == [8.0]
    assert fake_gpu.counters(client.pid)["graph_launches"] == 3


def test_query_in_a_global_capture_ends_it() -> None:
    with FakeGpu() as fake, Client(fake.environment) as client:
        client.start()
        stream, event = make_stream(client), make_event(client)
        client.call("cuStreamBeginCapture_v2", stream, GLOBAL)
        assert client.call("cuEventQuery", event) == CAPTURE_UNSUPPORTED
        assert client.ended_capture(stream) == -INVALIDATED
        assert "cuEventQuery: while a stream is being captured" in fake.violations()[0]


@pytest.mark.parametrize("strict", [True, False])
def test_asynchronous_copy_of_pageable_memory(strict: bool) -> None:
    with FakeGpu(strict=strict) as fake, Client(fake.environment) as client:
        client.start()
        host, there = client.pageable(8), device(client)
        result = client.call("cuMemcpyHtoDAsync_v2", there, host, 8, make_stream(client))
        assert result == (INVALID_VALUE if strict else 0)
        assert fake.counters(client.pid)["copies.pageable"] == 1
        assert len(fake.violations()) == strict


def test_registered_memory_is_pinned_until_it_is_unregistered() -> None:
    with FakeGpu() as fake, Client(fake.environment) as client:
        client.start()
        host, there, stream = client.pageable(64), device(client), make_stream(client)
        assert client.call("cuMemHostRegister_v2", host, 64, 1) == 0
        assert client.call("cuMemHostRegister_v2", host + 32, 64, 1) == 712
        assert client.call("cuMemHostUnregister", host + 8) == 713
        with fake.hold("d2h") as held:
            assert client.call("cuMemcpyDtoHAsync_v2", host, there, 64, stream) == 0
            held.wait_reached()
            assert client.call("cuMemHostUnregister", host) == INVALID_VALUE
        client.call("cuStreamSynchronize", stream)
        assert client.call("cuMemHostUnregister", host) == 0
        assert "copies of this memory are still in flight" in fake.violations()[0]
        assert fake.counters(client.pid)["live.registered"] == 0


def test_copy_that_leaves_its_memory_is_refused() -> None:
    with FakeGpu() as fake, Client(fake.environment) as client:
        client.start()
        host, there, stream = pinned(client, [0.0] * 16), device(client, 32), make_stream(client)
        assert client.call("cuMemcpyHtoDAsync_v2", there, host, 33, stream) == INVALID_VALUE
        assert client.call("cuMemcpyDtoHAsync_v2", host + 60, there, 8, stream) == INVALID_VALUE
        assert len(fake.violations()) == 2


def test_opaque_memory_is_the_devices_alone() -> None:
    with FakeGpu(opaque=True) as fake, Client(fake.environment) as client:
        client.start()
        host, there, stream = pinned(client, [4.0]), device(client), make_stream(client)
        client.call("cuMemcpyHtoDAsync_v2", there, host, 4, stream)
        client.scale(there, there, 2.0, 1, stream)
        client.call("cuMemcpyDtoHAsync_v2", host, there, 4, stream)
        client.call("cuStreamSynchronize", stream)
        assert client.read(host, 1) == [8.0]
        with pytest.raises(AssertionError, match="the client died"):
            client.read(there, 1)


def test_memory_of_all_processes_is_one(fake_gpu: FakeGpu, client: Client) -> None:
    fake_gpu.set_gpus(*make_gpus(1, memory_bytes=2 * GIB, memory_reserved_bytes=0))
    with Client(fake_gpu.environment) as first, Client(fake_gpu.environment) as second:
        assert (first.start(), second.start()) == (0, 0)
        assert device(first, GIB) > 0
        assert device(second, GIB) > 0
        assert device(second, 4096) == -OUT_OF_MEMORY
        first.kill()
        assert device(second, GIB) > 0


def test_context_that_ends_counts_what_it_leaves(fake_gpu: FakeGpu, client: Client) -> None:
    make_stream(client), device(client), pinned(client, [0.0])
    assert client.call("cuDevicePrimaryCtxRelease_v2", 0) == 0
    counters = fake_gpu.counters(client.pid)
    assert {k: v for k, v in counters.items() if k.startswith("leaked.")} == {
        "leaked.streams": 1,
        "leaked.device_memory": 1,
        "leaked.pinned": 1,
    }


def test_ipc_maps_the_same_memory(fake_gpu: FakeGpu, client: Client) -> None:
    there = device(client)
    client.write(there, [5.0])
    with Client(fake_gpu.environment) as other:
        other.start()
        mapped = other.ipc_open(client.ipc_handle(there))
        assert other.read(mapped, 1) == [5.0]
        other.write(mapped, [6.0])
        assert other.call("cuIpcCloseMemHandle", mapped) == 0
    assert client.read(there, 1) == [6.0]


def test_visible_devices_by_uuid_and_ordinal() -> None:
    first, second = make_gpus(2, sms=100)
    with FakeGpu([first, second]) as fake:
        for chosen, count in ((second.uuid, 1), ("1,0", 2), ("0,nothing,1", 1), ("", -NO_DEVICE)):
            with Client(fake.environment | {"CUDA_VISIBLE_DEVICES": chosen}) as client:
                error = client.call("cuInit", 0)
                assert (-error or client.made("cuDeviceGetCount")) == count


def test_a_process_sees_one_mig_instance_or_whole_gpus() -> None:
    first, second = make_gpus(2)
    split = replace(first, mig=1)
    instances = make_instances(split, 2, sms=26)
    with FakeGpu([split, second, *instances]) as fake:
        for chosen, uuid, sms in (
            (None, instances[0].uuid, 26),
            (second.uuid, second.uuid, 132),
            (instances[1].uuid, instances[1].uuid, 26),
            (f"{second.uuid},{instances[1].uuid}", instances[1].uuid, 26),
        ):
            shown = {} if chosen is None else {"CUDA_VISIBLE_DEVICES": chosen}
            with Client(fake.environment | shown) as client:
                assert client.call("cuInit", 0) == 0
                assert client.made("cuDeviceGetCount") == 1
                assert fake.counters(client.pid)[f"sms.{uuid}"] == sms


@pytest.mark.parametrize(("driver", "version", "found"), [(13000, 13000, 2), (12040, 12080, -1)])
def test_entries_by_version(driver: int, version: int, found: int) -> None:
    with FakeGpu(driver_version=driver) as fake, Client(fake.environment) as client:
        assert client.made("cuDriverGetVersion") == driver
        assert client.found_entry("cuMemAlloc", 12000)
        assert not client.found_entry("cuMemcpyBatchAsync", 12000)
        assert not client.found_entry("cuMemAlloc_v2", 12000)
        distinct = {client.found_entry("cuMemcpyBatchAsync", v) for v in (12080, version)}
        assert (-1 if distinct == {-INVALID_VALUE} else len(distinct)) == found


def test_planned_faults(fake_gpu: FakeGpu, client: Client) -> None:
    fake_gpu.fail("cuMemAlloc_v2", OUT_OF_MEMORY, nth=2)
    fake_gpu.fail("cuMemHost*", OUT_OF_MEMORY, process="nobody")
    assert [device(client) > 0 for _ in range(3)] == [True, False, True]
    assert pinned(client, [0.0]) > 0
    fake_gpu.clear_plan()
    fake_gpu.fail("kernel", LAUNCH_FAILED, total=1)
    stream, event = make_stream(client), make_event(client)
    assert client.spin(0, stream) == 0
    assert client.call("cuEventRecord", event, stream) in (0, LAUNCH_FAILED)
    assert client.call("cuStreamSynchronize", stream) == LAUNCH_FAILED
    assert client.call("cuEventQuery", event) == LAUNCH_FAILED
    assert device(client) == -LAUNCH_FAILED
    with Client(fake_gpu.environment) as next_one:
        next_one.start()
        stream = make_stream(next_one)
        next_one.spin(0, stream)
        assert next_one.call("cuStreamSynchronize", stream) == 0


def test_copy_lands_after_its_process_was_killed(
    fake_gpu: FakeGpu, client: Client, tmp_path: Path
) -> None:
    path = tmp_path / "segment"
    path.write_bytes(bytes(4096))
    host, there, stream = client.shared(str(path), 4096), device(client), make_stream(client)
    assert client.call("cuMemHostRegister_v2", host, 4096, 1) == 0
    client.write(there, [7.0])
    with fake_gpu.orphan("d2h") as orphan:
        assert client.call("cuMemcpyDtoHAsync_v2", host, there, 4, stream) == 0
        orphan.wait_reached()
        client.kill()
        assert path.read_bytes() == bytes(4096)
    wait_until(lambda: fake_gpu.total("orphans.landed") == 1, "the late copy")
    assert path.read_bytes()[:4] == b"\0\0\xe0@"


def test_a_dead_process_is_seen_dead_while_somebody_reads_its_memory(fake_gpu: FakeGpu) -> None:
    read = "import sys\nwhile open(f'/proc/{sys.argv[1]}/smaps_rollup').read(): print(flush=True)"
    for _ in range(5):  # a reader is not always at it when the process dies
        with Client(fake_gpu.environment) as client:
            client.call("cuInit", 0)
            with subprocess.Popen(
                [sys.executable, "-c", read, str(client.pid)],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            ) as reader:
                assert reader.stdout is not None
                reader.stdout.readline()
                client.kill()
                assert fake_gpu.processes() == []
                reader.kill()
