"""MPS as it is: attachment, the limit on SMs and memory, and who suffers from a fault."""

from __future__ import annotations

import pytest

from benchmarks.gpu.mps import Mps
from benchmarks.gpu.questions import MPS_STEP_SMS, concurrency, fault_domain, ipc, memory_limit

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("percent", [100, 50, 25, 10])
def test_a_client_is_attached_and_has_the_sms_it_asked_for(mps: Mps, whole: int, percent: int):
    client = mps.client("limit", percent, whole=whole)
    answer = client.read()
    attached = client.pid in mps.clients()
    client.close()
    assert "sms" in answer, answer
    assert attached
    assert abs(answer["sms"] - whole * percent / 100) <= MPS_STEP_SMS


def test_a_timed_kernel_takes_as_much_longer_as_it_has_fewer_sms(mps: Mps, whole: int):
    half = mps.client("limit", 50, whole=whole).finish()
    quarter = mps.client("limit", 25, whole=whole).finish()
    expected = half["sms"] / quarter["sms"]
    assert quarter["burn_us"] / half["burn_us"] == pytest.approx(expected, rel=0.25)


@pytest.mark.parametrize("question", [concurrency, ipc, memory_limit, fault_domain])
def test_what_the_design_assumes_holds(mps: Mps, question):
    del mps  # skips where there is none; each question starts its own
    answer = question()
    assert answer.holds, (answer.text, answer.details)
