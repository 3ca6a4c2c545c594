"""Control channels: messages and descriptors arrive whole, nothing leaks, a dead peer is seen."""

from __future__ import annotations

import array
import asyncio
import functools
import gc
import os
import socket
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path

import pytest

from gslice.core.errors import (
    ChannelClosed,
    DeadlineExceeded,
    GsliceError,
    Internal,
    InvalidArgument,
    NotFound,
)
from gslice.core.types import FunctionSpec
from gslice.ipc.async_channel import AsyncChannel
from gslice.ipc.channel import MAX_FDS, MAX_PACKET_BYTES, Channel, Received
from gslice.ipc.messages import (
    Attach,
    Exit,
    Failed,
    Load,
    Ok,
    RepositoryCall,
    SetShare,
    ShareSet,
)


def open_fds() -> set[Path]:
    # The listing's own descriptor shows up in it and is gone afterwards.
    return {link for link in Path("/proc/self/fd").iterdir() if os.path.lexists(link)}


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    gc.collect()
    before = open_fds()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    yield ours, theirs
    ours.close()
    theirs.close()
    assert open_fds() <= before  # channels of other tests' clients may end meanwhile, in threads


def send_raw(sock: socket.socket, packet: bytes, fds: list[int]) -> None:
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
    sock.sendmsg([packet], [rights] if fds else [])


def test_a_message_and_its_descriptor_arrive(pair: tuple[socket.socket, socket.socket]) -> None:
    daemon, worker = Channel(pair[0]), Channel(pair[1])
    read_end, write_end = os.pipe()
    daemon.send(Attach(3), [write_end], seq=7)
    os.close(write_end)
    received = worker.recv()
    assert (received.message, received.seq) == (Attach(3), 7)
    fd = received.take_fd()
    assert not os.get_inheritable(fd)
    os.write(fd, b"x")
    os.close(fd)
    assert os.read(read_end, 1) == b"x"
    os.close(read_end)


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (b"{", "not a control message"),
        (b"[]", "not a control message"),
        (b"[" * 100_000, "not a control message"),
        (b'{"type": "Nonsense", "seq": 0, "body": {}}', "not a control message"),
        (b'{"type": "Exit", "seq": -1, "body": {}}', "seq must be"),
        (b'{"type": "Attach", "seq": 1, "body": {}}', "Attach: missing instance"),
        (b" " * (MAX_PACKET_BYTES + 1), "exceeds"),
    ],
)
def test_nonsense_is_refused_and_its_descriptors_closed(
    pair: tuple[socket.socket, socket.socket], packet: bytes, reason: str
) -> None:
    send_raw(pair[0], packet, [pair[0].fileno()])
    with pytest.raises(InvalidArgument, match=reason):
        Channel(pair[1]).recv()


def test_too_many_descriptors_are_refused(pair: tuple[socket.socket, socket.socket]) -> None:
    send_raw(pair[0], b'{"type": "Exit", "seq": 0, "body": {}}', [0] * (MAX_FDS + 1))
    with pytest.raises(InvalidArgument, match="descriptors"):
        Channel(pair[1]).recv()


def test_a_missing_descriptor_is_named(pair: tuple[socket.socket, socket.socket]) -> None:
    Channel(pair[0]).send(Attach(0), [0, 1], seq=1)
    with pytest.raises(InvalidArgument, match="Attach must carry 1 descriptor"):
        Channel(pair[1]).recv().take_fd()


def test_an_overlong_message_is_not_sent(pair: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(InvalidArgument, match="RepositoryCall takes"):
        Channel(pair[0]).send(RepositoryCall("load", "f", "x" * MAX_PACKET_BYTES))


def test_the_peers_end_is_seen_on_both_ways(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[0].close()
    with pytest.raises(ChannelClosed):
        Channel(pair[1]).recv()
    with pytest.raises(ChannelClosed):
        Channel(pair[1]).send(Exit())


def on_a_loop(body: Callable[..., Coroutine[None, None, None]]) -> Callable[..., None]:
    """Runs a test's coroutine on a loop of its own."""

    @functools.wraps(body)
    def test(**fixtures: object) -> None:
        asyncio.run(body(**fixtures))

    return test


class Daemon:
    """The asyncio end, with what it was told."""

    def __init__(self, sock: socket.socket) -> None:
        self.heard: list[Received] = []
        self.gone: list[GsliceError] = []
        self.news = asyncio.Event()
        self.channel = AsyncChannel(sock, self._on_message, self._on_close)

    def _on_message(self, received: Received) -> None:
        self.heard.append(received)
        self.news.set()

    def _on_close(self, reason: GsliceError) -> None:
        self.gone.append(reason)
        self.news.set()


@on_a_loop
async def test_requests_meet_their_answers(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    daemon, worker = Daemon(pair[0]), Channel(pair[1])
    first = asyncio.create_task(daemon.channel.request(SetShare(25.0), ShareSet))
    second = asyncio.create_task(daemon.channel.request(SetShare(50.0), ShareSet))
    await asyncio.sleep(0)
    calls = [worker.recv(), worker.recv()]
    for call in reversed(calls):
        assert isinstance(call.message, SetShare)
        worker.send(ShareSet(call.message.share_percent), seq=call.seq)
    assert await first == ShareSet(25.0)
    assert await second == ShareSet(50.0)
    daemon.channel.close()


@on_a_loop
async def test_a_failed_answer_is_its_error(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    daemon, worker = Daemon(pair[0]), Channel(pair[1])
    worker.send(Failed(5, "no such file"), seq=1)
    with pytest.raises(NotFound, match="no such file"):
        await daemon.channel.request(Load(FunctionSpec("f"), 10.0, "none", [0]), Ok)
    worker.send(Ok(), seq=2)
    with pytest.raises(Internal, match="SetShare was answered by Ok"):
        await daemon.channel.request(SetShare(1.0), ShareSet)
    daemon.channel.close()


@on_a_loop
async def test_calls_of_the_peer_reach_the_callback(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    daemon, child = Daemon(pair[0]), Channel(pair[1])
    child.send(RepositoryCall("load", "f"), [pair[1].fileno()], seq=1)
    await daemon.news.wait()
    (call,) = daemon.heard
    assert call.message == RepositoryCall("load", "f")
    assert call.fds == []  # not taken by the callback, so closed
    daemon.channel.send(Ok(), seq=call.seq)
    answer = child.recv()
    assert (answer.message, answer.seq) == (Ok(), 1)
    daemon.channel.close()


@on_a_loop
async def test_a_late_answer_is_ignored(pair: tuple[socket.socket, socket.socket]) -> None:
    daemon, worker = Daemon(pair[0]), Channel(pair[1])
    with pytest.raises(DeadlineExceeded, match="SetShare was not answered within 0"):
        await daemon.channel.request(SetShare(1.0), ShareSet, timeout_s=0)
    worker.send(ShareSet(1.0), seq=1)
    worker.send(ShareSet(2.0), seq=2)
    assert await daemon.channel.request(SetShare(2.0), ShareSet) == ShareSet(2.0)
    daemon.channel.close()


@on_a_loop
async def test_pending_requests_fail_when_the_peer_ends(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    daemon = Daemon(pair[0])
    waiting = asyncio.create_task(daemon.channel.request(SetShare(1.0), ShareSet))
    await asyncio.sleep(0)
    pair[1].close()
    with pytest.raises(ChannelClosed):
        await waiting
    assert daemon.channel.closed
    assert len(daemon.gone) == 1
    with pytest.raises(ChannelClosed):
        await daemon.channel.request(SetShare(1.0), ShareSet)


@on_a_loop
async def test_a_peer_that_talks_nonsense_is_dropped(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    daemon = Daemon(pair[0])
    send_raw(pair[1], b"nonsense", [])
    await daemon.news.wait()
    assert daemon.channel.closed
    assert "not a control message" in str(daemon.gone[0])


@on_a_loop
async def test_what_does_not_fit_the_socket_is_sent_later(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    daemon, slow = Daemon(pair[0]), Channel(pair[1])
    call = RepositoryCall("load", "f", "x" * 60_000)
    for index in range(30):
        daemon.channel.send(call, [pair[1].fileno()], seq=index + 1)
    loop = asyncio.get_running_loop()
    for index in range(30):
        received = await loop.run_in_executor(None, slow.recv)
        assert received.seq == index + 1
        assert len(received.fds) == 1
        received.close()
    daemon.channel.close()
