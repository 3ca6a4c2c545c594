"""The sockets of gRPC servers: what a front-end sees of them, and who may have one."""

from __future__ import annotations

import socket

import pytest

from gslice.core.errors import Unavailable
from gslice.frontend import sockets
from gslice.supervise.frontend_launch import refuse_taken


def test_who_waits_to_be_accepted_is_connected() -> None:
    """A front-end that ended now would reset the connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        with socket.create_connection(address) as first, socket.create_connection(address):
            assert sockets.connections(address[1]) == 2
            accepted, _ = listener.accept()
            with accepted:
                assert sockets.connections(address[1]) == 2
                second, _ = listener.accept()
                second.close()
                assert sockets.connections(address[1]) == 1
            assert first.recv(1) == b""
        assert sockets.connections(address[1]) == 0


def test_who_is_accepted_meanwhile_is_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    """On another thread, between two looks: it is neither in the queue nor was it listed before."""
    accepted: list[socket.socket] = []
    look = sockets._queued

    def accepted_first(listener: socket.socket) -> int:
        if not accepted:
            accepted.append(listener.accept()[0])
        return look(listener)

    monkeypatch.setattr(sockets, "_queued", accepted_first)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        with socket.create_connection(address):
            assert sockets.connections(address[1]) == 1
            accepted.pop().close()


def test_an_address_that_somebody_listens_at_is_refused() -> None:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as another node's
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(Unavailable, match=f"cannot listen on {address}"):
            refuse_taken(address)
    refuse_taken(address)


def test_to_see_whether_an_address_is_free_accepts_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is there too early would be reset a moment later; a closed port refuses."""
    listens: list[int] = []
    monkeypatch.setattr(socket.socket, "listen", lambda self, backlog=0: listens.append(backlog))
    refuse_taken("127.0.0.1:0")
    assert listens == []
