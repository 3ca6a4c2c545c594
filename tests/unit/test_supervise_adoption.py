"""What adoption finds in a segment whose processes died while no daemon looked."""

from __future__ import annotations

import os

import numpy as np

from gslice import _native
from gslice.core.types import FunctionSpec, Signature, TensorSpec
from gslice.ipc.native import native_signature
from gslice.supervise.adoption import Group, recover
from tests.served import request_bytes


def test_a_frontend_that_the_dead_did_not_wake_is_named() -> None:
    tensors = (TensorSpec("x", "FP32", (1,)),)
    signature = Signature(tensors, tensors)
    native = native_signature(signature)
    segment = _native.Segment.create("a", [(4096, 2)], 4096, 1)
    segment.activate_frontend(0)
    frontend = _native.Frontend(0)
    frontend.add_function("a", "1", segment, native, 0)
    request = request_bytes("a", {"x": np.ones(1, np.float32)}, signature)
    ticket = frontend.submit(request, None)
    instance = segment.add_instance()
    segment.flip(None, instance)
    dead = _native.Instance(segment, instance, native, 1, None)  # no eventfd: it rings nobody
    dead.start()
    while segment.counts()["done"] == 0:
        os.sched_yield()
    dead.stop()
    assert set(recover(Group(segment, FunctionSpec("a"), signature), [0])) == {0}
    frontend.respond(ticket)
    assert recover(Group(segment, FunctionSpec("a"), signature), [0]) == []
