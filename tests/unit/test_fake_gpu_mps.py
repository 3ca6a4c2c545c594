"""The stand-in for nvidia-cuda-mps-control, and clients of it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.client import Client
from tests.fakes.gpu import GIB, FakeGpu, make_gpus, wait_until

OUT_OF_MEMORY, ILLEGAL_ADDRESS, LAUNCH_FAILED = 2, 700, 719
CONNECTION_FAILED, RPC_FAILURE, NOT_READY, MAX_CLIENTS, TERMINATED = 805, 806, 807, 808, 810
SMS, MPS_ENABLED = 16, 133


class Mps:
    """A control daemon with directories of its own."""

    def __init__(self, fake: FakeGpu, name: str = "mps", **environment: str) -> None:
        self.directory = fake.directory / name
        self.environment = fake.environment | {
            "CUDA_MPS_PIPE_DIRECTORY": os.fspath(self.directory / "pipe"),
            "CUDA_MPS_LOG_DIRECTORY": os.fspath(self.directory / "log"),
        }
        self._own = environment
        self.start()

    def start(self) -> None:
        self.run(["-d"], **self._own)

    def run(self, flags: list[str], commands: str = "", **environment: str) -> str:
        done = subprocess.run(
            ["nvidia-cuda-mps-control", *flags],
            env={**os.environ, **self.environment, **environment},
            input=commands,
            capture_output=True,
            text=True,
            timeout=20,
        )
        return f"{done.stdout}{done.stderr}" if done.returncode == 0 else f"failed: {done.stdout}"

    def say(self, command: str) -> str:
        return self.run([], command + "\n").rstrip("\n")

    def log(self, name: str) -> str:
        return (self.directory / "log" / f"{name}.log").read_text()

    def client(self, **environment: str) -> Client:
        return Client({**self.environment, **environment})

    def clients(self) -> list[int]:
        return [int(line) for line in self.say(f"get_client_list {self.server()}").splitlines()]

    def server(self) -> int:
        return int(self.say("get_server_list"))


@pytest.fixture
def mps(fake_gpu: FakeGpu) -> Iterator[Mps]:
    mps = Mps(fake_gpu)
    yield mps
    if (mps.directory / "pipe" / "control").exists():
        assert mps.say("quit -t 0") == ""


def sms(client: Client) -> int:
    assert client.call("cuInit", 0) == 0
    return client.attribute(SMS)


def test_client_is_listed_for_as_long_as_it_lives(fake_gpu: FakeGpu, mps: Mps) -> None:
    assert mps.say("get_server_list") == ""
    with mps.client() as client:
        assert client.call("cuInit", 0) == 0
        assert client.attribute(MPS_ENABLED) == 1
        assert mps.clients() == [client.pid]
        assert mps.say(f"get_server_status {mps.server()}") == "ACTIVE"
        assert str(client.pid) in mps.say("ps").splitlines()[1]
        assert fake_gpu.counters(client.pid)["mps.server"] == mps.server()
    wait_until(lambda: mps.clients() == [], "the client's end")
    assert f"New client {client.pid} connected" in mps.log("server")
    assert f"Client {client.pid} disconnected" in mps.log("server")


@pytest.mark.parametrize(
    ("percentage", "sms_seen"),
    [("100", 132), ("50", 66), ("40", 52), ("7.5", 8), ("0.1", 2), ("nonsense", 132)],
)
def test_share_is_rounded_down_to_a_step(mps: Mps, percentage: str, sms_seen: int) -> None:
    with mps.client(CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=percentage) as client:
        assert sms(client) == sms_seen


def test_default_share_is_of_servers_that_start_later(mps: Mps) -> None:
    assert mps.say("set_default_active_thread_percentage 50") == "50.0"
    assert "invalid" in mps.say("set_default_active_thread_percentage 101")
    with mps.client() as first:
        assert sms(first) == 66
        assert mps.say("set_default_active_thread_percentage 25") == "25.0"
        with mps.client() as second, mps.client(CUDA_MPS_ACTIVE_THREAD_PERCENTAGE="80") as third:
            assert (sms(second), sms(third)) == (66, 66)
        assert mps.say(f"set_active_thread_percentage {mps.server()} 10") == "10.0"
        with mps.client() as fourth:
            assert sms(fourth) == 12


def test_share_makes_kernels_longer(mps: Mps) -> None:
    with mps.client(CUDA_MPS_ACTIVE_THREAD_PERCENTAGE="25") as client:
        client.start()
        stream = client.made("cuStreamCreate", 1)
        start, end = client.made("cuEventCreate", 0), client.made("cuEventCreate", 0)
        client.call("cuEventRecord", start, stream)
        client.spin(5_000, stream)
        client.call("cuEventRecord", end, stream)
        client.call("cuStreamSynchronize", stream)
        assert client.elapsed_ms(start, end) >= 5 * 132 / 32


def test_memory_limit_is_the_tightest(mps: Mps) -> None:
    assert mps.say("set_default_device_pinned_mem_limit 0 2G") == ""
    with mps.client(CUDA_MPS_PINNED_DEVICE_MEM_LIMIT="0=1G") as client, mps.client() as other:
        assert (client.start(), other.start()) == (0, 0)
        assert client.made("cuMemAlloc_v2", GIB) > 0
        assert client.made("cuMemAlloc_v2", 1) == -OUT_OF_MEMORY
        assert other.made("cuMemAlloc_v2", 2 * GIB) > 0
        assert other.made("cuMemAlloc_v2", 1) == -OUT_OF_MEMORY


def test_without_daemon_a_client_silently_has_the_whole_gpu(fake_gpu: FakeGpu) -> None:
    nowhere = {"CUDA_MPS_PIPE_DIRECTORY": "/nowhere", "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "10"}
    with Client(fake_gpu.environment | nowhere) as client:
        assert sms(client) == 132
        assert client.attribute(MPS_ENABLED) == 0


def test_terminated_client_loses_the_device_and_the_others_do_not(mps: Mps) -> None:
    with mps.client() as hung, mps.client() as other:
        assert (hung.start(), other.start()) == (0, 0)
        assert mps.say(f"terminate_client {mps.server()} {hung.pid}") == ""
        assert hung.call("cuCtxSynchronize") == TERMINATED
        assert other.call("cuCtxSynchronize") == 0
        assert mps.clients() == [other.pid]


@pytest.mark.parametrize("code", [ILLEGAL_ADDRESS, LAUNCH_FAILED])
def test_fault_is_everybodys_until_all_have_gone(fake_gpu: FakeGpu, mps: Mps, code: int) -> None:
    with mps.client() as culprit, mps.client() as other:
        assert (culprit.start(), other.start()) == (0, 0)
        fake_gpu.fail("kernel", code, total=1)
        stream = culprit.made("cuStreamCreate", 1)
        culprit.spin(0, stream)
        assert culprit.call("cuStreamSynchronize", stream) == code
        wait_until(lambda: other.call("cuCtxSynchronize") != 0, "the other's fault")
        assert other.call("cuCtxSynchronize") == LAUNCH_FAILED
        assert mps.say(f"get_server_status {mps.server()}") == "FAULT"
        with mps.client() as newcomer:
            assert newcomer.call("cuInit", 0) == NOT_READY
    named = f"Client {culprit.pid} made an illegal memory access" in mps.log("server")
    assert named == (code == ILLEGAL_ADDRESS)
    wait_until(lambda: mps.say(f"get_server_status {mps.server()}") == "ACTIVE", "the recovery")
    with mps.client() as newcomer:
        assert newcomer.start() == 0


def test_clients_of_a_server_that_died(mps: Mps) -> None:
    with mps.client() as client:
        client.start()
        os.kill(mps.server(), 9)
        wait_until(lambda: mps.say("get_server_list") == "", "the server's end")
        assert client.call("cuCtxSynchronize") == RPC_FAILURE
        with mps.client() as next_one:
            assert next_one.start() == 0


def test_client_that_ends_with_work_in_flight_is_told() -> None:
    with FakeGpu() as fake:
        mps = Mps(fake)
        with mps.client() as client, fake.hold("kernel") as held:
            client.start()
            client.spin(0, client.made("cuStreamCreate", 1))
            held.wait_reached()
            client.kill()
            wait_until(lambda: fake.dirty_exits() == [client.pid], "its mark")


def test_a_fault_ends_the_work_of_all_before_they_end(fake_gpu: FakeGpu, mps: Mps) -> None:
    with mps.client() as culprit, mps.client() as other, fake_gpu.hold("kernel", total=1) as held:
        assert (culprit.start(), other.start()) == (0, 0)
        other.spin(0, other.made("cuStreamCreate", 1))
        held.wait_reached()
        fake_gpu.fail("memset", ILLEGAL_ADDRESS)
        stream = culprit.made("cuStreamCreate", 1)
        buffer = culprit.made("cuMemAlloc_v2", 4)
        culprit.call("cuMemsetD8Async", buffer, 0, 4, stream)
        assert culprit.call("cuStreamSynchronize", stream) == ILLEGAL_ADDRESS
        other.kill()
        wait_until(lambda: f"Client {other.pid} disconnected" in mps.log("server"), "its end")
    assert fake_gpu.dirty_exits() == []


def test_quit_waits_for_clients_and_takes_no_more(mps: Mps) -> None:
    with mps.client() as client:
        client.start()
        with subprocess.Popen(
            ["nvidia-cuda-mps-control"],
            env={**os.environ, **mps.environment},
            stdin=subprocess.PIPE,
            text=True,
        ) as quitting:
            assert quitting.stdin is not None
            quitting.stdin.write("quit\n")
            quitting.stdin.close()
            wait_until(lambda: "Quitting" in mps.log("control"), "the command")
            with mps.client() as newcomer:
                assert newcomer.call("cuInit", 0) == NOT_READY
            assert quitting.poll() is None
            client.kill()
            assert quitting.wait(timeout=20) == 0
    assert mps.say("get_server_list").startswith("failed: Cannot find MPS control daemon process")


def test_planned_refusals(fake_gpu: FakeGpu, mps: Mps) -> None:
    assert mps.run(["-d"]).startswith("failed: An instance of this daemon is already running")
    for settings, error in (
        ({"server_fails": 1}, CONNECTION_FAILED),
        ({"refuse": MAX_CLIENTS}, MAX_CLIENTS),
        ({}, 0),
    ):
        fake_gpu.set_mps(**settings)
        with mps.client() as client:
            assert client.call("cuInit", 0) == error
    fake_gpu.set_mps(start_fails=1)
    assert mps.run(["-d"]).startswith("failed: ")


def test_daemon_of_one_gpu_shows_that_one_alone() -> None:
    first, second = make_gpus(2)
    with FakeGpu([first, second]) as fake:
        mps = Mps(fake, CUDA_VISIBLE_DEVICES=second.uuid)
        assert mps.say("device_query") == f"0 {second.uuid}"
        with mps.client() as client:
            assert client.call("cuInit", 0) == 0
            assert client.made("cuDeviceGetCount") == 1
            assert f"sms.{second.uuid}" in fake.counters(client.pid)
        mps.say("quit")


def test_socket_of_too_long_a_path_is_no_daemon(fake_gpu: FakeGpu) -> None:
    mps = Mps(fake_gpu, name="x" * 100)
    assert mps.run(["-d"]).startswith("failed: ")
    assert not Path(mps.directory / "pipe" / "nvidia-cuda-mps-control.pid").exists()


def test_daemon_ends_with_its_machine() -> None:
    fake = FakeGpu()
    mps = Mps(fake)
    pid_file = mps.directory / "pipe" / "nvidia-cuda-mps-control.pid"
    pid = int(pid_file.read_text())
    mps.say(f"start_server -uid {os.getuid()}")
    server = mps.server()
    pid_file.unlink()  # as of a daemon that the product started elsewhere
    fake.close()
    wait_until(lambda: not any(Path(f"/proc/{p}").exists() for p in (pid, server)), "both")
