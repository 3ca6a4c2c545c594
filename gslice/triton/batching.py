"""`max_batch_size` and `dynamic_batching`, as `batch` and `queue` of a function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gslice.core.types import QUEUE_MAX
from gslice.core.units import format_duration

if TYPE_CHECKING:
    from gslice.triton.model import Body, Reading

_BATCHING = "dynamic_batching"
_POLICY = f"{_BATCHING}.default_queue_policy"


def batching(reading: Reading) -> Body:
    """How requests are put together, and how many may wait."""
    config = reading.config
    dynamic = config.dynamic_batching
    batch: dict[str, Any] = {}
    if config.max_batch_size > 0:
        batch["max"] = config.max_batch_size
    if dynamic.max_queue_delay_microseconds:
        batch["delay"] = format_duration(dynamic.max_queue_delay_microseconds)
    if config.max_batch_size > 1 and not config.HasField(_BATCHING):
        reading.note(
            "max_batch_size",
            "requests that wait are put together, though there is no dynamic_batching",
        )
    preferred = set(dynamic.preferred_batch_size)
    if preferred and preferred != {config.max_batch_size}:
        reading.note(
            f"{_BATCHING}.preferred_batch_size",
            "not honoured: what waits is taken, up to max_batch_size, and nothing waits for a size",
        )
    return ({"batch": batch} if batch else {}) | _queue(reading, dynamic.default_queue_policy)


def _queue(reading: Reading, policy: Any) -> Body:
    if policy.timeout_action == policy.DELAY:
        reading.note(
            f"{_POLICY}.timeout_action",
            "not honoured: a request whose time is over is refused, as by REJECT",
        )
    if policy.default_timeout_microseconds:
        reading.note(
            f"{_POLICY}.default_timeout_microseconds",
            "not honoured: requests bring their own timeout; an slo refuses early what would be"
            " late",
        )
    if policy.max_queue_size > QUEUE_MAX:
        reading.note(f"{_POLICY}.max_queue_size", f"{QUEUE_MAX} is the most that may wait")
    most = min(policy.max_queue_size, QUEUE_MAX)
    return {"queue": {"max": most}} if most else {}
