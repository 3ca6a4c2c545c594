"""The control daemon: its servers, their clients, and the faults that all of them share."""

from __future__ import annotations

import contextlib
import datetime
import math
import os
import selectors
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from commands import Refused, answer
from processes import is_alive, parse_fields, read_counters, read_records, write_counter

LAUNCH_FAILED, CONNECTION_FAILED, RPC_FAILURE, NOT_READY, TERMINATED = 719, 805, 806, 807, 810
LOOK_S = 1.0
UNITS = {"K": 10, "M": 20, "G": 30}


def state_directory() -> Path:
    return Path(os.environ["GSLICE_FAKE_GPU"])


def mps_settings() -> dict[str, str]:
    records = read_records(state_directory() / "mps_settings")
    return records[0] if records else {}


def parse_bytes(text: str) -> int:
    """NVIDIA's sizes: 512M, 1G, 512MB.

    Raises:
        ValueError: It is none of these.
    """
    number = text.strip().upper().removesuffix("B")
    shift = UNITS.get(number[-1:], 0)
    return int(number[:-1] if shift else number) << shift


def parse_percentage(text: str, otherwise: float) -> float:
    """A share as an environment has it: what is no share counts for nothing."""
    try:
        value = float(text)
    except ValueError:
        return otherwise
    return value if 0 < value <= 100 else otherwise


@dataclass
class Client:
    pid: int
    server: Server
    percentage: float
    command: str
    connection: socket.socket


@dataclass
class Server:
    process: subprocess.Popen[bytes]
    pidfd: int
    uid: int
    percentage: float
    limits: dict[str, int]
    state: str = "ACTIVE"
    clients: dict[int, Client] = field(default_factory=dict)

    @property
    def pid(self) -> int:
        return self.process.pid


class Daemon:
    """One event loop, without threads.

    Args:
        pipe_directory: Where clients and commands come in.
        log_directory: For a file of its own and one of its servers; None: all goes to its stdout,
            as in the foreground.
        static: Every client needs a partition.
    """

    def __init__(self, pipe_directory: Path, log_directory: Path | None, *, static: bool) -> None:
        self.pipe_directory = pipe_directory
        self.log_directory = log_directory
        self.servers: dict[int, Server] = {}
        self.static = static
        self.partitions: dict[str, int] = {}  # chunks by id
        self.gpus = self._visible_gpus()
        self.default_percentage = parse_percentage(
            os.environ.get("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", ""), 100.0
        )
        self.default_limits = self.parse_limits(
            os.environ.get("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", "")
        )
        self._ends_at: float | None = None  # monotonic, once it was told to quit
        self._pid_file = pipe_directory / "nvidia-cuda-mps-control.pid"
        self._selector = selectors.DefaultSelector()
        path = pipe_directory / "control"
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(os.fspath(path))
        self._listener.listen(64)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def write_pid(self) -> None:
        self._pid_file.write_text(f"{os.getpid()}\n")

    def run(self) -> None:
        self.log("control", f"Starting control daemon using socket {self.pipe_directory}/control")
        self.log("control", "CUDA MPS Control binary version: 13000")
        while not self._over():
            left_s = max(0.0, (self._ends_at or math.inf) - time.monotonic())
            for key, _ in self._selector.select(min(left_s, LOOK_S)):
                key.data(key.fileobj)
            if not state_directory().exists():  # the test is over, and forgot this process
                self._disown()
                return
        for server in list(self.servers.values()):
            self.end_server(server)
        (self.pipe_directory / "control").unlink(missing_ok=True)
        self._pid_file.unlink(missing_ok=True)
        self.log("control", "Exit")

    def _disown(self) -> None:
        for server in self.servers.values():
            server.process.kill()
            server.process.wait()

    def quit(self, *, after_s: float | None) -> None:
        """Takes no more clients, and ends with the last or, if told, when that time is over."""
        self._ends_at = math.inf if after_s is None else time.monotonic() + after_s
        self.log("control", "Quitting")

    def _over(self) -> bool:
        if self._ends_at is None:
            return False
        clients = any(server.clients for server in self.servers.values())
        return not clients or time.monotonic() >= self._ends_at

    def log(self, which: str, text: str, pid: int | None = None) -> None:
        now = datetime.datetime.now().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        who = {"control": "Control", "server": "Server", "other": "Other"}[which]
        line = f"[{now} {who:>7} {os.getpid() if pid is None else pid:5}] {text}\n"
        if self.log_directory is None:
            sys.stdout.write(line)
            sys.stdout.flush()
            return
        name = "control" if which == "control" else "server"
        with (self.log_directory / f"{name}.log").open("a") as file:
            file.write(line)

    # ---- servers

    def start_server(self, uid: int) -> Server:
        """Raises Refused."""
        if "server_fails" in mps_settings():
            raise Refused(CONNECTION_FAILED, "MPS server failed to start")
        # Lives as long as the daemon holds the other end of its stdin.
        process = subprocess.Popen(
            ["nvidia-cuda-mps-server", "-SEc", "import sys; sys.stdin.read()"],
            executable=sys.executable,
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        server = Server(
            process,
            os.pidfd_open(process.pid),
            uid,
            self.default_percentage,
            dict(self.default_limits),
        )
        self.servers[server.pid] = server
        self._selector.register(server.pidfd, selectors.EVENT_READ, lambda _: self._died(server))
        self.log("control", f"Starting new server {server.pid} for user {uid}")
        self.log("control", f"NEW SERVER {server.pid}: Ready")
        self.log("other", "Startup", server.pid)
        self.log(
            "other",
            f"Connecting to control daemon on socket: {self.pipe_directory}/control",
            server.pid,
        )
        self.log("server", "Started", server.pid)
        return server

    def end_server(self, server: Server) -> None:
        """Also for one that has died; its clients lose it."""
        self._selector.unregister(server.pidfd)
        os.close(server.pidfd)
        server.process.stdin.close()  # type: ignore[union-attr]
        server.process.wait()
        del self.servers[server.pid]
        for client in list(server.clients.values()):
            self.give_error(client, RPC_FAILURE)
            self._drop(client)
        self.log("control", f"Server {server.pid} exited with status {server.process.returncode}")

    def _died(self, server: Server) -> None:
        self.end_server(server)

    # ---- connections: of clients, which stay, and of commands

    def _accept(self, _: object) -> None:
        connection, _address = self._listener.accept()
        connection.settimeout(10)
        try:
            self._serve(connection)
        except (OSError, KeyError, ValueError) as error:  # it has gone, or sent what is no message
            self.log("control", f"Lost a connection: {error!r}")
            connection.close()

    def _serve(self, connection: socket.socket) -> None:
        line = connection.makefile("r").readline()
        fields = parse_fields(line)
        if line.startswith("attach\t"):
            self._attach(connection, fields)
        elif "deaf" in mps_settings():
            self._selector.register(connection, selectors.EVENT_READ, self._forget)
        else:
            connection.sendall(answer(self, fields["text"]).encode())
            if self._ends_at is not None and fields["text"].startswith("quit"):
                # Whoever says quit waits for the end of this process.
                self._selector.register(connection, selectors.EVENT_READ, self._forget)
            else:
                connection.close()

    def _forget(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        connection.close()

    def _attach(self, connection: socket.socket, fields: dict[str, str]) -> None:
        pid, uid = int(fields["pid"]), int(fields["uid"])
        self.log("control", "Accepting connection...")
        new_client = f"NEW CLIENT {pid} from user {uid}"
        try:
            if self._ends_at is not None:
                raise Refused(NOT_READY, "the daemon is quitting")
            if "refuse" in (settings := mps_settings()):
                raise Refused(int(settings["refuse"]), "refused")
            server = next((s for s in self.servers.values() if s.uid == uid), None)
            if server is None:
                if self.servers:
                    raise Refused(NOT_READY, f"a server of another user runs; user {uid} waits")
                pending = "Server is not ready, push client to pending list"
                self.log("control", f"{new_client}: {pending}")
                server = self.start_server(uid)
            else:
                self.log("control", f"{new_client}: Server already exists")
            if self.static and fields.get("partition") not in self.partitions:
                raise Refused(CONNECTION_FAILED, "no such partition")
            if server.state != "ACTIVE":
                raise Refused(NOT_READY, f"server {server.pid} is in {server.state}")
        except Refused as refused:
            self.log("control", f"{new_client}: {refused}")
            connection.sendall(f"error={refused.code}\n".encode())
            connection.close()
            return
        percentage = min(
            server.percentage, parse_percentage(fields.get("percentage", ""), server.percentage)
        )
        limits = dict(server.limits)
        for uuid, limit in self.parse_limits(fields.get("limit", "")).items():
            limits[uuid] = min(limit, limits.get(uuid, limit))
        client = Client(pid, server, percentage, fields["command"], connection)
        server.clients[pid] = client
        self._selector.register(connection, selectors.EVENT_READ, lambda _: self._heard(client))
        self.log("server", f"New client {pid} connected", server.pid)
        reply = {
            "server": str(server.pid),
            "millipercent": str(round(percentage * 1000)),
            "gpus": ",".join(self.gpus),
            "partition_sms": str(self._partition_sms(fields)),
            **{f"limit.{uuid}": str(limit) for uuid, limit in limits.items()},
        }
        connection.sendall(("\t".join(f"{k}={v}" for k, v in reply.items()) + "\n").encode())

    def _partition_sms(self, fields: dict[str, str]) -> int:
        """0: it has none."""
        chunks = self.partitions.get(fields.get("partition", ""), 0)
        return chunks * int(mps_settings().get("chunk_sms", 0))

    def _heard(self, client: Client) -> None:
        try:
            text = client.connection.recv(4096).decode()
        except ConnectionError:
            text = ""
        if text:
            self._fault(client, parse_fields(text.splitlines()[0]))
            return
        server = client.server
        self._drop(client)
        self.log("server", f"Client {client.pid} disconnected", server.pid)
        path = self.process_path(client.pid)
        counters = read_counters(path)
        lost = server.state == "FAULT" or counters.get("mps.error")  # then nothing of it still runs
        if counters.get("live.operations", 0) > 0 and not lost:
            # NVIDIA: this "may leave the MPS server and other MPS clients in an undefined state".
            self.log("server", f"Client {client.pid} exited with work in flight", server.pid)
            with (state_directory() / "dirty_exits").open("a") as file:
                file.write(f"{client.pid}\n")
        if server.state == "FAULT" and not server.clients:
            server.state = "ACTIVE"
            self.log("server", "Volta MPS Server has recovered from a fatal GPU fault", server.pid)

    def _drop(self, client: Client) -> None:
        client.server.clients.pop(client.pid, None)
        self._selector.unregister(client.connection)
        client.connection.close()

    # ---- faults

    def process_path(self, pid: int) -> Path:
        return state_directory() / "processes" / str(pid)

    def give_error(self, client: Client, code: int) -> None:
        path = self.process_path(client.pid)
        if is_alive(path):
            write_counter(path, "mps.error", code)

    def terminate(self, client: Client) -> None:
        self.log("control", f"Terminating client {client.pid}")
        self.give_error(client, TERMINATED)
        self._drop(client)

    def _fault(self, culprit: Client, fields: dict[str, str]) -> None:
        server = culprit.server
        server.state = "FAULT"
        self.log("server", "Volta MPS Server is handling a fatal GPU fault.", server.pid)
        self.log("server", f"Fault on device {fields['gpu']}", server.pid)
        if fields["code"] == "700":  # for memory faults alone the log names who made it
            self.log("server", f"Client {culprit.pid} made an illegal memory access", server.pid)
        for client in server.clients.values():
            self.log("server", f"status of client {{{client.pid}, 1}} is INACTIVE", server.pid)
            if client is not culprit:
                self.give_error(client, int(mps_settings().get("other_code", LAUNCH_FAILED)))
        self.log("control", f"Server {server.pid} encountered a fatal exception. Status: FAULT")

    # ---- devices

    def _visible_gpus(self) -> list[str]:
        uuids = [record["uuid"] for record in read_records(state_directory() / "gpus")]
        chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
        if chosen is None:
            return uuids
        visible = []
        for word in chosen.split(","):
            if word.isdigit() and int(word) < len(uuids):
                visible.append(uuids[int(word)])
            elif found := [u for u in uuids if word and u.startswith(word)]:
                visible.append(found[0])
            else:
                break  # as CUDA does: the first that is unknown ends the list
        return visible

    def parse_limits(self, text: str) -> dict[str, int]:
        """0=1G,GPU-...=512MB: bytes by UUID. What cannot be read counts for nothing."""
        limits = {}
        for pair in text.split(","):
            device, _, size = pair.partition("=")
            with contextlib.suppress(ValueError, IndexError):
                uuid = self.gpus[int(device)] if device.isdigit() else device
                limits[uuid] = parse_bytes(size)
        return limits
