"""A node whose HTTP port serves what its gRPC port serves, whatever speaks gRPC."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from tests.node import ANY_PORT, Node, kill_and_wait

HTTP = {"http": ANY_PORT, "connection_age": "500ms"}


@contextmanager
def connected(node: Node) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(node.status().http_address) as client:
        yield client


def infer(client: triton.InferenceServerClient, name: str, *values: int) -> list[Any]:
    array = np.array(values, np.int64).reshape(-1, 1)
    made = triton.InferInput("x", list(array.shape), "INT64")
    made.set_data_from_numpy(array)
    return client.infer(name, [made]).as_numpy("x").ravel().tolist()


def rest_pid(node: Node) -> int:
    (found,) = (f for f in node.status().frontends if f.kind == "rest")
    return int(found.pid)


@pytest.mark.parametrize("kind", ["python", "auto"])
def test_both_ports_serve_the_same(start_node, identity, kind: str) -> None:
    node = start_node({"same": identity}, node={**HTTP, "frontend": kind})
    with connected(node) as client:
        assert infer(client, "same", 3, 4) == [3, 4]
        sent = {"x": np.array([[5]], np.int64)}
        assert node.client().infer("same", sent)["x"].tolist() == [[5]]
        assert client.is_server_ready()
        assert client.get_model_metadata("same")["inputs"][0]["name"] == "x"
        (found,) = client.get_inference_statistics("same")["model_stats"]
        assert found["inference_count"] == 3  # of both ports
        client.unload_model("same")
        assert not client.is_model_ready("same")
        with pytest.raises(InferenceServerException, match="no function is called 'same'"):
            infer(client, "same", 1)
        client.load_model("same")
        assert infer(client, "same", 6) == [6]
        client.load_model("same", config=json.dumps({**identity, "share": "20%"}))
        assert node.function("same").share_requested_percent == 20


def test_it_is_started_again_and_adopted(start_node, identity) -> None:
    node = start_node({"same": identity}, node=HTTP)
    address, before = node.status().http_address, rest_pid(node)
    kill_and_wait(before)
    node.wait_status(lambda s: [f.state for f in s.frontends if f.pid != before] == 2 * ["SERVING"])
    assert node.status().http_address == address
    with connected(node) as client:
        assert infer(client, "same", 1) == [1]
        after = rest_pid(node)
        assert after != before
        node.kill_daemon()
        assert infer(client, "same", 2) == [2]  # nobody needs the daemon for that
        node.start()
        assert rest_pid(node) == after
        assert infer(client, "same", 3) == [3]


def test_a_node_without_http(start_node, identity) -> None:
    """It has no such port from the next daemon on, and then has one again."""
    node = start_node({"same": identity}, node=HTTP)
    address = node.status().http_address
    usual = {"grpc": node.grpc_address, "metrics": ANY_PORT, "state_dir": "./state", "spares": 0}
    for http, kinds in (("off", 1), (address, 2)):
        node.kill_daemon()
        node.write_config({"same": identity}, {**usual, "http": http})
        node.start()
        assert node.status().http_address == ("" if http == "off" else address)
        assert len(node.status().frontends) == kinds
