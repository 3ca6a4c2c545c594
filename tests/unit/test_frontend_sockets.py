"""What a front-end sees of its gRPC server's sockets."""

from __future__ import annotations

import socket

from gslice.frontend import sockets


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
