"""The native server's way into Python: what it cannot get from the kernel is an error there."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from gslice import _native
from gslice.core.errors import ResourceExhausted

pytestmark = pytest.mark.skipif(not _native.GRPC_SERVER, reason="this build has no native server")


def opened() -> _native.GrpcServer:
    return _native.GrpcServer(0, 1 << 20, 1 << 20, 1 << 60)


@contextmanager
def no_more_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_server_without_descriptors():
    with no_more_descriptors(), pytest.raises(ResourceExhausted) as error:
        opened()
    assert str(error.value) == (
        "the gRPC server cannot start: epoll: Too many open files;"
        " raise the limit of open files (ulimit -n)"
    )
    assert opened().in_flight == 0


def test_a_listener_that_cannot_be_waited_for():
    server = opened()
    with pytest.raises(ResourceExhausted, match="cannot wait for connections"):
        server.listen(os.memfd_create("file"))
    assert server.in_flight == 0
