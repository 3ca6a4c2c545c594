"""The commands of the control daemon, v2: what each answers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from daemon import Daemon, Server


class Refused(Exception):
    """What a client or a command may not have; `code` is the CUDA error that a client gets."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


def _server(daemon: Daemon, word: str) -> Server:
    server = daemon.servers.get(int(word)) if word.isdigit() else None
    if server is None:
        raise Refused(0, "Server not found")
    return server


def _percentage(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = 0.0
    if not 0 < value <= 100:
        raise Refused(0, "Failed to set active thread percentage: invalid value")
    return value


def get_server_list(daemon: Daemon) -> str:
    return "".join(f"{pid}\n" for pid in daemon.servers)


def get_server_status(daemon: Daemon, server: str) -> str:
    return f"{_server(daemon, server).state}\n"


def start_server(daemon: Daemon, flag: str, uid: str) -> str:
    if flag != "-uid" or not uid.isdigit():
        raise Refused(0, "usage: start_server -uid <user id>")
    daemon.start_server(int(uid))
    return ""


def shutdown_server(daemon: Daemon, server: str, force: str = "") -> str:
    found = _server(daemon, server)
    if found.clients and force != "-f":
        raise Refused(0, f"Server {found.pid} has clients")
    daemon.end_server(found)
    return ""


def get_client_list(daemon: Daemon, server: str) -> str:
    return "".join(f"{pid}\n" for pid in _server(daemon, server).clients)


def get_device_client_list(daemon: Daemon, server: str = "") -> str:
    servers = [_server(daemon, server)] if server else list(daemon.servers.values())
    pids = " ".join(str(pid) for each in servers for pid in each.clients)
    return "".join(f"{uuid} {pids}\n" for uuid in daemon.gpus)


def ps(daemon: Daemon, flag: str = "", server: str = "") -> str:
    if flag not in ("", "-p"):
        raise Refused(0, "usage: ps [-p PID]")
    servers = [_server(daemon, server)] if flag else list(daemon.servers.values())
    lines = [f"{'PID':<9} {'ID':<5} {'SERVER':<9} {'DEVICE':<17} {'NAMESPACE':<11} COMMAND"]
    for each in servers:
        for number, client in enumerate(each.clients.values()):
            device = (daemon.gpus[0] if daemon.gpus else "-")[:17]
            lines.append(
                f"{client.pid:<9} {number:<5} {each.pid:<9} {device:<17} {4026531836:<11} "
                f"{client.command}"
            )
    return "\n".join(lines) + "\n"


def terminate_client(daemon: Daemon, server: str, client: str) -> str:
    found = _server(daemon, server).clients.get(int(client) if client.isdigit() else -1)
    if found is None:
        raise Refused(0, "Client not found")
    daemon.terminate(found)
    return ""


def set_default_active_thread_percentage(daemon: Daemon, percentage: str) -> str:
    daemon.default_percentage = _percentage(percentage)
    return f"{daemon.default_percentage}\n"


def get_default_active_thread_percentage(daemon: Daemon) -> str:
    return f"{daemon.default_percentage}\n"


def set_active_thread_percentage(daemon: Daemon, server: str, percentage: str) -> str:
    found = _server(daemon, server)
    found.percentage = _percentage(percentage)
    return f"{found.percentage}\n"


def get_active_thread_percentage(daemon: Daemon, server: str) -> str:
    return f"{_server(daemon, server).percentage}\n"


def set_default_device_pinned_mem_limit(daemon: Daemon, device: str, limit: str) -> str:
    parsed = daemon.parse_limits(f"{device}={limit}")
    if not parsed:
        raise Refused(0, "Failed to set pinned memory limit: invalid value")
    daemon.default_limits |= parsed
    return ""


def set_device_pinned_mem_limit(daemon: Daemon, server: str, device: str, limit: str) -> str:
    parsed = daemon.parse_limits(f"{device}={limit}")
    if not parsed:
        raise Refused(0, "Failed to set pinned memory limit: invalid value")
    _server(daemon, server).limits |= parsed
    return ""


def device_query(daemon: Daemon, server: str = "") -> str:
    if server:
        _server(daemon, server)
    return "".join(f"{index} {uuid}\n" for index, uuid in enumerate(daemon.gpus))


def sm_partition(daemon: Daemon, what: str, gpu: str, chunks: str = "") -> str:
    if not daemon.static or what != "add" or gpu not in daemon.gpus or not chunks.isdigit():
        raise Refused(0, "Failed to create partition: invalid value")
    if any(server.clients for server in daemon.servers.values()):
        raise Refused(0, "Failed to create partition: the device has active clients")
    partition = f"{gpu}/Dx{len(daemon.partitions)}A"
    daemon.partitions[partition] = int(chunks)
    return f"Partition {partition} created\n"


def lspart(daemon: Daemon) -> str:
    return "".join(f"{each} {chunks} chunks\n" for each, chunks in daemon.partitions.items())


def quit_daemon(daemon: Daemon, flag: str = "", seconds: str = "") -> str:
    if flag not in ("", "-t") or (flag == "-t" and not seconds.isdigit()):
        raise Refused(0, "usage: quit [-t TIMEOUT]")
    daemon.quit(after_s=int(seconds) if flag else None)
    return ""


COMMANDS: dict[str, Callable[..., str]] = {
    "quit": quit_daemon,
    **{
        command.__name__: command
        for command in (
            get_server_list,
            get_server_status,
            start_server,
            shutdown_server,
            get_client_list,
            get_device_client_list,
            ps,
            terminate_client,
            set_default_active_thread_percentage,
            get_default_active_thread_percentage,
            set_active_thread_percentage,
            get_active_thread_percentage,
            set_default_device_pinned_mem_limit,
            set_device_pinned_mem_limit,
            device_query,
            sm_partition,
            lspart,
        )
    },
}


def answer(daemon: Daemon, line: str) -> str:
    """What the control program prints for one line of its stdin."""
    name, *arguments = line.split()
    command = COMMANDS.get(name)
    if command is None:
        return f"Unknown command: {name}\n"
    try:
        inspect.signature(command).bind(daemon, *arguments)
    except TypeError:
        return f"{name}: wrong number of arguments\n"
    try:
        return command(daemon, *arguments)
    except Refused as refused:
        return f"{refused}\n"
