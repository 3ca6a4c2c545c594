"""What adoption finds in a segment whose processes died while no daemon looked."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

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
    events: list[tuple[str, str, str]] = []
    group = Group(segment, FunctionSpec("a"), signature)
    assert set(recover(group, [0], lambda *event: events.append(event))) == {0}
    frontend.respond(ticket)
    assert recover(group, [0], lambda *event: events.append(event)) == []
    assert events == []  # nothing was claimed


def test_what_the_dead_had_claimed_is_told_in_sum() -> None:
    class Segment(MagicMock):
        def requeue(self, instance: int, rerun: bool, device_gone: bool) -> dict[str, Any]:
            claimed = {1: (3, 1), 2: (0, 0), 5: (2, 0)}.get(instance, (0, 0))
            return {"requeued": claimed[0], "poisoned": claimed[1], "failed": 0, "wake": [instance]}

    events: list[tuple[str, str, str]] = []
    living: Any = SimpleNamespace(instance=2, remove_frontend=lambda index: None)
    signature = Signature((), ())
    group = Group(Segment(), FunctionSpec("a"), signature, [living])
    assert 2 not in recover(group, [0], lambda *event: events.append(event))
    told = "of what had been claimed: 5 requeued, 1 poisoned, 0 failed"
    assert events == [("a", "requeue", told)]


def test_replicas_that_were_about_to_come_or_to_go_are_too_many() -> None:
    segment = MagicMock(may_pull=lambda instance: instance in (1, 2))
    workers: Any = [
        SimpleNamespace(instance=instance, device=device, share_percent=share)
        for instance, device, share in ((0, "c", 30), (1, "b", 30), (2, "a", 30), (3, "a", 30))
    ]
    comes, on_b, on_a, shadow = workers
    group = Group(segment, FunctionSpec("f", device="c"), Signature((), ()), list(workers))
    assert group.take_surplus() == [comes, shadow]
    assert group.workers == [on_b, on_a]
    assert group.spec.placed == ("b", "a")
    assert group.share_percent == 30


def test_of_a_kept_version_nobody_pulls_and_nobody_is_too_many() -> None:
    segment = MagicMock(may_pull=lambda instance: False)
    workers: Any = [SimpleNamespace(instance=i, device=d) for i, d in enumerate("ab")]
    group = Group(segment, FunctionSpec("f"), Signature((), ()), list(workers))
    assert group.take_surplus() == []
    assert group.spec.placed == ("a", "b")


def test_a_shadow_that_was_warm_is_one_too_many() -> None:
    segment = MagicMock(may_pull=lambda instance: instance == 3)
    shadow, serves = (SimpleNamespace(instance=i, device="cpu") for i in (1, 3))
    workers: Any = [shadow, serves]
    group = Group(segment, FunctionSpec("a"), Signature((), ()), workers)
    assert group.take_surplus() == [shadow]
    assert (group.workers, group.take_surplus()) == ([serves], [])
