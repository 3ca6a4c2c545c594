"""A front-end among clients that mean it no good: it stays up and small, and serves the others."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest

from gslice import _native
from gslice.client import Client
from gslice.frontend.memory import KEPT_BYTES
from tests.node import WAIT_S
from tests.soak.mob import IDLE
from tests.soak.usage import MIB, growth, usage

SECONDS = float(os.environ.get("GSLICE_SOAK_SECONDS") or 60)
PARTS = 4
ELEMENTS = 16384
FDS = 4  # more than before are no leak
SLOWEST_S = 1.0  # p99 of who behaves; what it is, is printed

pytestmark = [pytest.mark.soak, pytest.mark.timeout(10 * SECONDS + 600)]


def p99_s(client: Client, seconds: float) -> float:
    """Of calls one after the other; each is answered with what it sent."""
    took_s, ends_s = [], time.monotonic() + seconds
    x = np.arange(ELEMENTS, dtype=np.float32).reshape(1, -1)
    while time.monotonic() < ends_s or len(took_s) < 100:
        began_s = time.perf_counter()
        answer = client.infer("steady", {"x": x})
        took_s.append(time.perf_counter() - began_s)
        assert np.array_equal(answer["x"], x)
    return float(np.quantile(took_s, 0.99))


@pytest.mark.parametrize(
    "kind",
    [
        "python",
        pytest.param(
            "native",
            marks=pytest.mark.skipif(not _native.GRPC_SERVER, reason="this build has none"),
        ),
    ],
)
def test_a_mob(start_node, seed: int, say, kind: str) -> None:
    rows = {"identity": {"inputs": [{"name": "x", "dtype": "FP32", "dims": [-1, ELEMENTS]}]}}
    functions: dict[str, Any] = {"steady": rows, "mobbed": {**rows, "queue": {"max": 32}}}
    node = start_node(functions, node={"frontend": kind})
    (pid,) = node.frontend_pids()
    used = []
    with node.client(WAIT_S) as client:
        quiet_s = p99_s(client, SECONDS / 10)
        fds_max = usage(node.status())["front-end"].fds + FDS
        for part in range(PARTS):
            argv = [node.grpc_address, "mobbed", str(ELEMENTS), str(seed + part)]
            with subprocess.Popen(
                [sys.executable, "-m", "tests.soak.mob", *argv],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            ) as mob:
                try:
                    assert mob.stdin is not None
                    assert mob.stdout is not None
                    assert mob.stdout.readline() == "ready\n"
                    loud_s = p99_s(client, SECONDS / PARTS)
                    assert usage(node.status())["front-end"].fds > IDLE
                    mob.stdin.write("\n")
                    mob.stdin.flush()
                    counts = mob.stdout.readline().strip()
                finally:
                    mob.kill()
            node.wait_all_free("mobbed")
            gone_s = time.monotonic() + WAIT_S
            while usage(node.status())["front-end"].fds > fds_max:
                assert time.monotonic() < gone_s, "connections of dead clients are kept"
                client.infer("steady", {"x": np.zeros((1, ELEMENTS), np.float32)})
            used.append(usage(node.status()))
            say(
                f"{kind}: p99 {quiet_s * 1e3:.2f} ms alone, {loud_s * 1e3:.2f} ms; {counts}; "
                f"{used[-1]['front-end']}"
            )
            assert loud_s < SLOWEST_S
        # It keeps so much of what is free (frontend/memory.py); the rest goes back in seconds.
        allowed_bytes, least_s = KEPT_BYTES + 32 * MIB, time.monotonic() + WAIT_S
        while grown := growth(
            used[1], usage(node.status()), rss_bytes=allowed_bytes, fds=FDS, threads=2
        ):
            assert time.monotonic() < least_s, grown
            client.infer("steady", {"x": np.zeros((1, ELEMENTS), np.float32)})
    assert node.frontend_pids() == [pid]
