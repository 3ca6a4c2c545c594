"""Clients that cancel, leave, dawdle: slots come back and others are served."""

from __future__ import annotations

import asyncio
import random
import socket

import grpc
import numpy as np
import pytest

from gslice.client import aio
from gslice.core.errors import DeadlineExceeded, ResourceExhausted
from gslice.protos import message
from gslice.protos.rpc import Stub
from tests.node import WAIT_S, in_background, wait_counts

ONE = np.array([1], np.int64)


def request(name: str, value: int):
    tensor = message("inference.ModelInferRequest").InferInputTensor
    return message("inference.ModelInferRequest")(
        model_name=name,
        inputs=[tensor(name="x", datatype="INT64", shape=[1])],
        raw_input_contents=[np.array([value], np.int64).tobytes()],
    )


def test_a_storm_of_cancels(start_node, zoo) -> None:
    node = start_node({"echo": zoo("Echo")})
    chance = random.Random(1)

    async def storm() -> tuple[int, int]:
        async with aio.Client(node.grpc_address) as client:

            async def call(number: int) -> bool:
                x = np.array([[number]], np.int64)
                task = asyncio.ensure_future(client.infer("echo", {"x": x}))
                asyncio.get_running_loop().call_later(chance.uniform(0, 0.02), task.cancel)
                try:
                    answer = await task
                except asyncio.CancelledError:
                    return False
                except ResourceExhausted:
                    return False
                assert answer["y"].tolist() == [[number]]
                return True

            results = []
            for _ in range(10):
                results += await asyncio.gather(*(call(n) for n in range(100)))
            answer = await client.infer("echo", {"x": np.array([[7]], np.int64)})
            assert answer["y"].tolist() == [[7]]
            return sum(results), len(results)

    answered, asked = asyncio.run(storm())
    assert asked == 1000
    assert answered < asked
    node.wait_all_free("echo")


def test_a_cancelled_call_gives_its_slot_back(start_node, zoo, gate) -> None:
    node = start_node({"gate": zoo("Gate", args={"gate": str(gate.path)}, lanes=1)})
    segment = node.segment("gate")
    with grpc.insecure_channel(node.grpc_address) as channel:
        infer = Stub(channel, "inference.GRPCInferenceService").ModelInfer
        running = infer.future(request("gate", -1))
        wait_counts(segment, lambda counts: counts["claimed"] == 1)
        waiting = infer.future(request("gate", 2))
        wait_counts(segment, lambda counts: counts["queued"] == 1)
        waiting.cancel()
        wait_counts(segment, lambda counts: counts["queued"] == 0)
        running.cancel()
        gate.open()
    node.wait_all_free("gate")
    assert node.client().infer("gate", {"x": ONE})["y"].tolist() == [1]


def test_an_abandoned_connection_gives_its_slots_back(start_node, zoo, gate) -> None:
    node = start_node({"gate": zoo("Gate", args={"gate": str(gate.path)}, lanes=1)})
    segment = node.segment("gate")
    channel = grpc.insecure_channel(node.grpc_address)
    infer = Stub(channel, "inference.GRPCInferenceService").ModelInfer
    calls = [infer.future(request("gate", -1))]
    wait_counts(segment, lambda counts: counts["claimed"] == 1)
    calls.append(infer.future(request("gate", 1)))
    wait_counts(segment, lambda counts: counts["queued"] == 1)
    channel.close()
    wait_counts(segment, lambda counts: counts["queued"] == 0)
    gate.open()
    node.wait_all_free("gate")
    assert all(call.done() for call in calls)


def test_a_deadline_passes_in_the_queue_and_the_request_never_runs(
    start_node, zoo, gate, tmp_path
) -> None:
    node = start_node({"gate": zoo("Gate", args={"gate": str(gate.path)}, lanes=1)})
    client = node.client()
    blocker = in_background(lambda: client.infer("gate", {"x": -ONE}))
    wait_counts(node.segment("gate"), lambda counts: counts["claimed"] == 1)
    with pytest.raises(DeadlineExceeded):
        client.infer("gate", {"x": -ONE}, timeout_s=0.2)  # would wait for a second opening
    gate.open()
    assert blocker.result(WAIT_S)["y"].tolist() == [-1]
    node.wait_all_free("gate")


def test_a_full_queue_refuses_at_once(start_node, zoo, gate) -> None:
    body = zoo("Gate", args={"gate": str(gate.path)}, lanes=1, queue={"max": 3})
    node = start_node({"gate": body})
    segment = node.segment("gate")
    with grpc.insecure_channel(node.grpc_address) as channel:
        infer = Stub(channel, "inference.GRPCInferenceService").ModelInfer
        calls = [infer.future(request("gate", -1))]
        wait_counts(segment, lambda counts: counts["claimed"] == 1)
        calls += [infer.future(request("gate", n)) for n in (2, 3)]
        wait_counts(segment, lambda counts: counts["free"] == 0)
        with pytest.raises(ResourceExhausted):
            node.client().infer("gate", {"x": ONE})
        gate.open()
        assert [call.exception(timeout=30) for call in calls] == [None, None, None]


def test_clients_that_stall_halfway_hold_nothing(start_node, zoo) -> None:
    node = start_node({"echo": zoo("Echo")})
    host, _, port = node.grpc_address.rpartition(":")
    stalled = [socket.create_connection((host, int(port))) for _ in range(20)]
    for connection in stalled:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM")  # half of the opening, and no more
    x = np.array([[5]], np.int64)
    assert node.client().infer("echo", {"x": x})["y"].tolist() == [[5]]
    node.wait_all_free("echo")
    for connection in stalled:
        connection.close()
